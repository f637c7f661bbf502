"""Early stopping: cost and quality of rules with other validation intervals, thresholds and patience.

Run from the project's root: ``python -m bench.interruption --collection FOLDER ...``; folders with ``corpus.jsonl.gz``,
``queries.jsonl.gz``, ``qrels.tsv`` and the packaged model's vectors of both (``*_minilm_f16.npy``).

A residual network over frozen vectors is trained with the own-document term, long enough to overfit. It stands for an
encoder: its curve shows how a stopping rule behaves, not how good an encoder gets. Held-out queries of train and dev
(never test) are divided: a validation scores 150 of them over 400 documents, as in the pipeline; the others, over all
documents, score the weights that a rule keeps. Every rule is applied to the same curves.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common import (
    dev_queries,
    load_collection,
    load_queries,
    load_query_vectors,
    parent_parser,
    table,
    versions,
    write_json,
)
from bench.residual import ResidualHead, pair_loss
from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.ranking import evaluate

STEPS, BATCH, LEARNING_RATE, WARMUP = 600, 64, 1e-3, 0.1
RECORD_EVERY = 5
VALIDATION_QUESTIONS, VALIDATION_DOCUMENTS = 150, 400
INTERVALS, MIN_DROPS, PATIENCES = (5, 10, 20, 40), (0.0, 0.005, 0.01, 0.02), (1, 2, 3, 5)


@dataclass(frozen=True)
class Curve:
    """nDCG@10 every ``RECORD_EVERY`` steps, from the base model on: of the validation, and of the other queries."""

    validated: NDArray[np.float64]
    tested: NDArray[np.float64]


@dataclass(frozen=True)
class Queries:
    """Vectors of queries, float32, shape (q, d), and rows of the documents that answer each."""

    vectors: NDArray[np.float32]
    answers: list[NDArray[np.int64]]

    def part(self, rows: Sequence[int]) -> "Queries":
        """The queries of some rows."""
        return Queries(self.vectors[list(rows)], [self.answers[row] for row in rows])


def read(folder: Path) -> tuple[NDArray[np.float32], Queries, Queries]:
    """Document vectors, training queries, and held-out ones: dev, or a third of train if there is no dev."""
    collection, (texts, judgments) = load_collection(folder), load_queries(folder)
    if collection.vectors is None:
        raise InputError(f"{folder} has no corpus_minilm_f16.npy, the documents' vectors; encode both first")
    stored = load_query_vectors(folder)
    place, row = {query: at for at, query in enumerate(texts)}, {name: at for at, name in enumerate(collection.ids)}
    answers = dict[str, list[int]]()
    for item in judgments:
        if item.split != "test":
            answers.setdefault(item.query, []).append(row[item.document])
    dev = dev_queries(judgments, one_in=3)

    def queries(names: Sequence[str]) -> Queries:
        return Queries(stored[[place[name] for name in names]], [np.unique(answers[name]) for name in names])

    return collection.vectors, queries([name for name in answers if name not in dev]), queries(sorted(dev))


def ndcg(
    model: ResidualHead, queries: Queries, documents: NDArray[np.float32], answers: list[NDArray[np.int64]]
) -> float:
    """Mean nDCG@10."""
    return float(evaluate(model.moved(queries.vectors), model.moved(documents), answers)["ndcg@10"].mean())


def train(documents: NDArray[np.float32], asked: Queries, held_out: Queries, seed: int) -> Curve:
    """The curve of one training to its end."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    order = rng.permutation(len(held_out.answers))
    validation, others = (held_out.part(rows) for rows in np.split(order, [VALIDATION_QUESTIONS]))
    pool = np.unique(np.concatenate(validation.answers))
    rest = rng.permutation(np.setdiff1d(np.arange(len(documents)), pool))[: max(0, VALIDATION_DOCUMENTS - len(pool))]
    pool = np.sort(np.concatenate([pool, rest]))
    pooled = [np.searchsorted(pool, rows) for rows in validation.answers]
    model = ResidualHead(documents.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    warm = max(1, round(WARMUP * STEPS))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (STEPS - step) / (STEPS - warm))
    )
    pairs = np.array([(query, row) for query, rows in enumerate(asked.answers) for row in rows])
    validated, tested = list[float](), list[float]()
    for step in range(STEPS + 1):
        if step % RECORD_EVERY == 0:
            validated.append(ndcg(model, validation, documents[pool], pooled))
            tested.append(ndcg(model, others, documents, others.answers))
        if step == STEPS:
            break
        batch = pairs[rng.choice(len(pairs), BATCH, replace=False)]
        known = np.stack([np.isin(batch[:, 1], asked.answers[query]) for query in batch[:, 0]])
        loss = pair_loss(model, asked.vectors[batch[:, 0]], documents[batch[:, 1]], batch[:, 1], known)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Curve(np.array(validated), np.array(tested))


def kept(values: Sequence[float], min_drop: float, patience: int) -> tuple[int, int]:
    """The validation whose weights are kept, and the one at which training ends, as in the training loop.

    Args:
        values: nDCG@10 of the base model, then of each validation.
        min_drop: a validation at least this far below the best counts.
        patience: consecutive validations that count, after which training ends.
    """
    best, below = 0, 0
    for number in range(1, len(values)):
        best = number if values[number] > values[best] else best
        below = below + 1 if number != best and values[number] <= values[best] - min_drop else 0
        if below == patience:
            return best, number
    return best, len(values) - 1


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    curves: dict[str, list[Curve]] = {}
    for folder in given.collection:
        documents, asked, held_out = read(folder)
        curves[folder.name] = [train(documents, asked, held_out, seed) for seed in range(given.seeds)]
        for curve in curves[folder.name]:
            print(folder.name, "tested:", " ".join(f"{value:.3f}" for value in curve.tested[::10]), flush=True)
    rows = []
    rules = [*product(INTERVALS, MIN_DROPS, PATIENCES), *((each, 1.0, 1) for each in INTERVALS)]
    for interval, min_drop, patience in rules:
        row: dict[str, object] = {
            "steps between validations": interval, "least drop": "never" if min_drop == 1 else f"{min_drop:.3f}",
            "patience": patience,
        }  # fmt: skip
        stride = interval // RECORD_EVERY
        for name, found in curves.items():
            ends = [kept(curve.validated[::stride].tolist(), min_drop, patience) for curve in found]
            values = [curve.tested[::stride][best] for curve, (best, _) in zip(found, ends, strict=True)]
            row[f"{name}: steps"] = round(float(np.mean([last * interval for _, last in ends])))
            row[f"{name}: nDCG@10"] = float(np.mean(values))
        rows.append(row)
    summary = [
        {
            "collection": name,
            "base": float(np.mean([curve.tested[0] for curve in found])),
            "best": float(np.mean([curve.tested.max() for curve in found])),
            "last": float(np.mean([curve.tested[-1] for curve in found])),
        }
        for name, found in curves.items()
    ]
    print(table(summary))
    print()
    print(table(rows))
    print(versions())
    write_json(given.json, {"curves": summary, "rules": rows})


if __name__ == "__main__":
    main()
