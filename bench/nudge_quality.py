"""Measures the retrieval quality of NUDGE on collections with human questions and judgments.

Run from the project's root: ``python -m bench.nudge_quality --collection FOLDER``, with as many as wanted. A folder
has ``corpus.jsonl.gz``, ``queries.jsonl.gz`` ({id, ...}), ``qrels.tsv`` (query_id, doc_id, score, split; a header
line), and vectors in the order of both, ``corpus_minilm_f16.npy`` and ``queries_minilm_f16.npy``.

**Splits.** *official*: as in the file; without a dev split, an eighth of train by a hash of the question's id.
*pooled*: all questions shuffled, .7 train, .1 dev, .2 test, as in the NUDGE paper. *documents*: as the pipeline splits
questions that are generated for every chunk, by document first: all questions of a tenth of the documents are dev, of
another tenth test, and of the other documents' questions a tenth each. Train questions move rows, dev chooses plan and
theta, test is scored once.

**Systems.** *NUDGE-N*, *NUDGE-M*: the plain gradient. *NUDGE-N, plans*: dev chooses among ``PLANS`` too. *refitted*:
the chosen plan and theta, with the dev questions moving rows as well. *pipeline*: as the pipeline's step, the same
refitted if the gain reaches .005; in *documents* no plan with which dev questions about documents without train
questions lose on average. *question rows*: each train question stored as one more row for each of its documents; a
document scores by its best row. *nudge-ft*: the published package, on the same sets. *chosen*: of all of ours but the
pipeline, the one with the best nDCG@10 on dev, refitted.

**Columns.** Binary relevance; nDCG@10 with its 95 % bootstrap interval. *asked*: nDCG@10 on test questions with a
document that train or dev questions name. *not asked*: on all others, which should not lose; *loss* is their difference
to the base, with its interval.
"""

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nudge import NUDGEM, NUDGEN
from numpy.typing import NDArray

from bench.common import load_collection, load_queries, load_query_vectors, parent_parser, table, versions, write_json
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.evaluation.bootstrap import mean_interval, paired_difference
from heal_tasks.evaluation.ranking import ranking_metrics
from heal_tasks.nudge.apply import MovedRows, move_rows
from heal_tasks.nudge.nudge import NudgeResult, nudge
from heal_tasks.nudge.plan import PLAIN, PLANS
from heal_tasks.nudge.questions import QuestionSet

Vectors = NDArray[np.float32]
METRIC = "ndcg@10"
PARTS = ("train", "dev", "test")
SEED = 7
MIN_GAIN = 0.005  # the default of HEAL_GATE_EPSILON
_QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class System:
    """Document vectors, float32, shape (n, d), questions that are stored as rows, and a note."""

    documents: Vectors
    rows: QuestionSet | None = None
    note: str = ""


def both(a: QuestionSet, b: QuestionSet) -> QuestionSet:
    """The questions of two sets."""
    return QuestionSet(np.vstack([a.vectors, b.vectors]), [*a.positives, *b.positives])


def load_splits(folder: Path) -> tuple[Vectors, dict[str, dict[str, QuestionSet]]]:
    """Document vectors, and the questions of train, dev and test for each way of splitting."""
    collection = load_collection(folder)
    if collection.vectors is None:
        raise InputError(f"{folder} has no corpus_minilm_f16.npy, the documents' vectors; encode both first")
    vectors = load_query_vectors(folder)
    texts, judgments = load_queries(folder)
    row_of = {name: row for row, name in enumerate(texts)}
    document_of = {name: row for row, name in enumerate(collection.ids)}
    answers: dict[str, list[int]] = {}
    split_of: dict[str, str] = {}
    for item in judgments:
        answers.setdefault(item.query, []).append(document_of[item.document])
        split_of[item.query] = item.split
    if "dev" not in split_of.values():
        for name, split in split_of.items():
            if split == "train" and int(sha256_hex(name), 16) % 8 == 0:
                split_of[name] = "dev"
    shuffled = np.random.default_rng(SEED).permutation(sorted(answers))
    parts = np.split(shuffled, (len(shuffled) * np.array([0.7, 0.8])).astype(int))
    names: dict[str, dict[str, Mapping[str, list[int]]]] = {
        "official": {part: {n: answers[n] for n in answers if split_of[n] == part} for part in PARTS},
        "pooled": {part: {n: answers[n] for n in chosen} for part, chosen in zip(PARTS, parts, strict=True)},
        "documents": _by_document(collection.ids, answers),
    }

    def questions(chosen: Mapping[str, list[int]]) -> QuestionSet:
        return QuestionSet(vectors[[row_of[n] for n in chosen]], [np.array(rows) for rows in chosen.values()])

    return collection.vectors, {
        how: {part: questions(chosen) for part, chosen in parts.items()} for how, parts in names.items()
    }


def _by_document(ids: Sequence[str], answers: Mapping[str, list[int]]) -> dict[str, Mapping[str, list[int]]]:
    """Split questions by their first document, and drop their documents of other parts."""

    def tenth(name: str) -> str:
        return {0: "test", 1: "dev"}.get(int(sha256_hex(name), 16) % 10, "train")

    made: dict[str, dict[str, list[int]]] = {part: {} for part in PARTS}
    for name, rows in answers.items():
        part = tenth(ids[rows[0]])
        kept = [row for row in rows if tenth(ids[row]) == part]
        made[tenth(name) if part == "train" else part][name] = kept
    return {**made}


def score(system: System, questions: QuestionSet) -> dict[str, NDArray[np.float64]]:
    """Metrics of each question; a document scores by its best row."""
    ranked = np.empty((len(questions.vectors), 10), dtype=np.int64)
    if system.rows is not None:
        owner = np.repeat(np.arange(len(system.rows.positives)), [len(rows) for rows in system.rows.positives])
        document = np.concatenate(list(system.rows.positives))
        order = np.argsort(document, kind="stable")
        owner, document = owner[order], document[order]
        named, first = np.unique(document, return_index=True)
    for start in range(0, len(ranked), _QUESTIONS_AT_ONCE):
        part = questions.vectors[start : start + _QUESTIONS_AT_ONCE]
        scores = part @ system.documents.T
        if system.rows is not None:
            found = np.maximum.reduceat((part @ system.rows.vectors.T)[:, owner], first, axis=1)
            scores[:, named] = np.maximum(scores[:, named], found)
        ranked[start : start + len(part)] = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return ranking_metrics(ranked, questions.positives)


def apply(base: Vectors, moved: NudgeResult | MovedRows, note: str = "") -> System:
    """All documents, some of them moved."""
    documents = base.copy()
    documents[moved.rows] = moved.vectors
    return System(documents, note=note)


def note_of(result: NudgeResult) -> str:
    """Theta and the plan that validation chose."""
    plan = result.plan
    words = ["centred"] * plan.centred + [f"prior {plan.prior:g}"] * bool(plan.prior)
    words += [f"contrast {plan.contrast_steps}"] * bool(plan.contrast_steps)
    return " ".join([f"{result.theta:.2f}", *words])


def package(kind: Any, base: Vectors, train: QuestionSet, dev: QuestionSet) -> System:
    """The documents as the published package moves them."""
    sets = [{"q_embs": s.vectors, "q_ans_indx": [rows.tolist() for rows in s.positives]} for s in (train, dev)]
    with contextlib.redirect_stdout(io.StringIO()):
        return System(kind().finetune_embeddings(base.copy(), *sets))


def systems(base: Vectors, train: QuestionSet, dev: QuestionSet) -> dict[str, System]:
    """All systems but base and pipeline; nothing here has seen test."""
    found: dict[str, System] = {}
    for variant, kind in (("M", NUDGEM), ("N", NUDGEN)):
        found[f"nudge-ft {variant}"] = package(kind, base, train, dev)
    ours: dict[str, tuple[System, System]] = {}  # as chosen on dev, and refitted with it
    everything = both(train, dev)
    for name, plans in (("NUDGE-M", [PLAIN]), ("NUDGE-N", [PLAIN]), ("NUDGE-N, plans", PLANS)):
        result = nudge(base, train, dev, variant="M" if name == "NUDGE-M" else "N", plans=plans, seed=SEED)
        again = move_rows(base, everything, result.record())
        ours[name] = apply(base, result, note_of(result)), apply(base, again, note_of(result))
    ours["question rows"] = System(base, train), System(base, everything)
    for name in ("NUDGE-N", "NUDGE-N, plans"):
        small, large = ours[name]
        ours[f"{name} + question rows"] = replace(small, rows=train), replace(large, rows=everything)
    found |= {name: pair[0] for name, pair in ours.items()}
    found["NUDGE-N, plans, refitted"] = ours["NUDGE-N, plans"][1]
    on_dev = {name: score(pair[0], dev)[METRIC].mean() for name, pair in ours.items()}
    best = max(on_dev, key=lambda name: on_dev[name])
    chosen = ours[best][1]
    found["chosen"] = replace(chosen, note=f"{best}: {chosen.note}")
    return found


def pipeline(base: Vectors, train: QuestionSet, dev: QuestionSet, *, guarded: bool = False) -> System:
    """The rows that the pipeline's step would serve; guarded: dev questions of unasked documents must not lose."""
    unasked = None
    if guarded:
        named = np.unique(np.concatenate(list(train.positives)))
        still = [row for row, found in enumerate(dev.positives) if not np.isin(found, named).any()]
        unasked = QuestionSet(dev.vectors[still], [dev.positives[row] for row in still])
    result = nudge(base, train, dev, plans=PLANS, unasked=unasked, min_gain=MIN_GAIN, refit=both(train, dev), seed=SEED)
    return apply(base, result, note_of(result) if result.adopted else "nothing")


def _asked(parts: Mapping[str, QuestionSet]) -> NDArray[np.bool_]:
    """Mask of the test questions with a document that train or dev questions name."""
    rows = np.unique(np.concatenate([*parts["train"].positives, *parts["dev"].positives]))
    return np.array([bool(np.isin(found, rows).any()) for found in parts["test"].positives])


def compare(
    base: Vectors, parts: Mapping[str, QuestionSet], *, alone: bool = False, guarded: bool = False
) -> list[dict[str, Any]]:
    """One row for each system, or for the base and the pipeline's step alone."""
    train, dev, test = (parts[name] for name in PARTS)
    asked = _asked(parts)
    rows = []
    reference = score(System(base), test)[METRIC]
    found = {"base": System(base)} | ({} if alone else systems(base, train, dev))
    found["pipeline"] = pipeline(base, train, dev, guarded=guarded)
    for name, system in found.items():
        values = score(system, test)
        ndcg = values[METRIC]
        whole = mean_interval(ndcg, seed=SEED)
        row: dict[str, Any] = {
            "system": name,
            "nDCG@10": f"{whole.value:.4f} [{whole.low:.3f}, {whole.high:.3f}]",
            "recall@10": float(values["recall@10"].mean()),
            "MRR@10": float(values["mrr@10"].mean()),
            "top-1": float(values["accuracy@1"].mean()),
            f"asked ({asked.sum()})": float(ndcg[asked].mean()) if asked.any() else "",
            f"not asked ({(~asked).sum()})": float(ndcg[~asked].mean()) if not asked.all() else "",
        }
        if not asked.all():
            apart = paired_difference(ndcg[~asked], reference[~asked], seed=SEED)
            row["loss"] = f"{apart.value:+.4f} [{apart.low:+.3f}, {apart.high:+.3f}]"
        rows.append(row | {"chosen on dev": system.note})
    return rows


def main() -> None:
    """Print one table for each collection and way of splitting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--pipeline", action="store_true", help="only the base and the pipeline's step")
    arguments = parser.parse_args()
    print(versions())
    tables = {}
    for folder in arguments.collection:
        base, splits = load_splits(folder)
        for how, parts in splits.items():
            sizes = ", ".join(f"{len(questions.positives)} {name}" for name, questions in parts.items())
            name = f"{folder.resolve().name}, {how}"
            tables[name] = compare(base, parts, alone=arguments.pipeline, guarded=how == "documents")
            print(f"\n{name} ({len(base)} documents; questions: {sizes})\n\n{table(tables[name])}", flush=True)
    write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
