"""Compares training and NUDGE with the extractive writer's questions to training and NUDGE with documents' titles.

Run from the project's root: ``python -m bench.questions --collection FOLDER``, in the format of ``bench.common`` with
``queries.jsonl.gz`` ({id, text}) and ``qrels.tsv`` (query_id, doc_id, score, split) beside the corpus.

**Question sets.** "titles": each document's title; "extractive, 1": the writer's first question of each document, as
many as there are titles; "extractive, N": all of them. Each is divided as in the pipeline, by hash of the document and
of the question: about two thirds train, a quarter validates, a fifth of the documents is held out.

**NUDGE.** NUDGE-N with the set's training questions; its validation questions choose theta or refuse to move
anything, as in the pipeline. "forced" applies a fixed theta without validation, to show what validation prevents.

**Training.** The own-document term with one mined negative per question and no topic term: topics are the same whoever
asks. "titles" and all extractive questions, the same number of each drawn at random; the last step's model is tested.

**Head.** The same without mined negatives, of a small residual layer on the frozen vectors, the mean of three seeds: a
stand-in for training that takes seconds, so that thousands of queries can test it (``--split train``).

**Tested** with the collection's human queries of one split, which nothing before uses: nDCG@10 and recall@10, and the
paired difference to the base model with its 95 % bootstrap interval. ``--documents`` keeps the documents that answer
the queries and adds random ones: fewer documents make every number higher, not only the better ones.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import load_collection, load_queries, parent_parser, table, versions, write_json
from bench.residual import train_head
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import sha256_hex, stable_id
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.core.types import Split
from heal_tasks.evaluation.bootstrap import paired_difference
from heal_tasks.evaluation.ranking import evaluate, ranks_of
from heal_tasks.nudge.apply import move_rows
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.plan import PLAIN
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.splits import split_of
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.training.encoder import Encoder, limited_threads, model_sha256
from heal_tasks.training.negatives import plan_negatives
from heal_tasks.training.trainer import TrainingConfig, TrainingData, ValidationSet, train_encoder

FORCED_THETA = 0.2
METRICS = ("ndcg@10", "recall@10")
VALIDATION_QUESTIONS, VALIDATION_DOCUMENTS = 100, 100
HEAD_SEEDS = 3

Floats = NDArray[np.float32]
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Judged:
    """Documents with their titles, and human queries with the rows that answer them."""

    name: str
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Floats
    queries: list[str]
    positives: list[NDArray[np.int64]]


@dataclass(frozen=True)
class Questions:
    """A set of questions: texts, row of the document that each is about, splits and base vectors."""

    name: str
    texts: list[str]
    rows: NDArray[np.int64]
    splits: NDArray[np.str_]
    vectors: Floats

    def taken(self, *splits: Split) -> QuestionSet:
        """Those of some splits, for NUDGE."""
        chosen = np.isin(self.splits, splits)
        return QuestionSet(self.vectors[chosen], [np.array([row]) for row in self.rows[chosen]])


class Vectors:
    """Encodes, and remembers what it encoded, in a folder that later runs find again."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def of(self, texts: Sequence[str], model: Path) -> Floats:
        """Unit vectors, float32, shape (n, d), by the model in a folder."""
        file = self._cache / f"questions_{sha256_hex(model_sha256(model), *texts)[:24]}.npy"
        if not file.is_file():
            np.save(file, Encoder(model, threads=1).encode(texts), allow_pickle=False)
        return np.asarray(np.load(file, allow_pickle=False), np.float32)


def load(folder: Path, split: str, documents: int, base: Path, vectors: Vectors, seed: int) -> Judged:
    """Read a collection with the judged queries of one split; of its documents at most so many, 0 for all.

    Raises:
        InputError: there is no such split.
    """
    collection = load_collection(folder)
    row = {name: place for place, name in enumerate(collection.ids)}
    asked, judgments = load_queries(folder)
    found: dict[str, list[int]] = {}
    for item in judgments:
        if item.split == split and item.document in row:
            found.setdefault(item.query, []).append(row[item.document])
    if not found:
        raise InputError(f"{folder / 'qrels.tsv'} judges no query of split {split!r}")
    rng, answers = np.random.default_rng(seed), np.unique(np.concatenate(list(found.values())))
    rows = np.arange(len(row))
    if documents:
        others = rng.permutation(np.setdiff1d(rows, answers))[: max(0, documents - len(answers))]
        rows = np.sort(np.union1d(rng.permutation(answers)[:documents], others))
    place = {int(old): new for new, old in enumerate(rows)}
    kept = {query: [place[old] for old in wanted if old in place] for query, wanted in found.items()}
    texts = tuple(collection.texts[old] for old in rows)
    return Judged(
        collection.name,
        tuple(collection.ids[old] for old in rows),
        tuple(collection.titles[old] for old in rows),
        texts,
        vectors.of(texts, base) if collection.vectors is None else collection.vectors[rows],
        [asked[query] for query, wanted in kept.items() if wanted],
        [np.array(wanted) for wanted in kept.values() if wanted],
    )


def ask(judged: Judged, questions_per_document: int, base: Path, vectors: Vectors) -> list[Questions]:
    """The question sets, each with vectors."""
    chunks = [
        ChunkToAsk(row, title, text[len(title) :].strip(), "")
        for row, (title, text) in enumerate(zip(judged.titles, judged.texts, strict=True))
    ]
    writer = ExtractiveWriter(questions_per_document, lambda: [chunk.text for chunk in chunks])
    written = [[draft.text for draft in item.value or ()] for item in writer.write(chunks)]
    titles = [[title] if title.strip() else [] for title in judged.titles]
    sets = {
        "titles": titles,
        "extractive, 1": [drafts[:1] for drafts in written],
        f"extractive, {questions_per_document}": written,
    }
    return [_questions(name, texts, judged, base, vectors) for name, texts in sets.items()]


def _questions(name: str, by_row: Sequence[list[str]], judged: Judged, base: Path, vectors: Vectors) -> Questions:
    pairs = [(row, text) for row, texts in enumerate(by_row) for text in texts]
    texts = [text for _, text in pairs]
    splits = [split_of(stable_id(judged.ids[row]), stable_id(text)) for row, text in pairs]
    return Questions(name, texts, np.array([row for row, _ in pairs]), np.array(splits), vectors.of(texts, base))


def describe(questions: Questions, judged: Judged) -> dict[str, Any]:
    """How many there are, and how often the base model finds a question's document."""
    ranks = ranks_of(questions.vectors, judged.vectors, questions.rows)
    found = {f"found within {k}": float((ranks <= k).mean()) for k in (1, 10, 100)}
    return {"questions": questions.name, "number": len(ranks), "learnt from": int((questions.splits == "train").sum()),
            **found}  # fmt: skip


def compare(scores: Scores, base: Scores, seed: int) -> dict[str, Any]:
    """Mean of each metric and its paired difference to the base model."""
    row: dict[str, Any] = {}
    for name in METRICS:
        gain = paired_difference(scores[name], base[name], seed=seed)
        row[name] = float(scores[name].mean())
        row[f"Δ {name}"] = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    return row


def nudged(questions: Questions, judged: Judged, queries: Floats, base: Scores, seed: int) -> list[dict[str, Any]]:
    """Rows of NUDGE with the theta that validation chooses, and with a forced one."""
    rows = []
    train, validation = questions.taken("train"), questions.taken("seen_validation", "unseen_validation")
    chosen = nudge(judged.vectors, train, validation, min_gain=0.005)
    forced = move_rows(judged.vectors, train, PLAIN.record("N", FORCED_THETA, None))
    before = evaluate(validation.vectors, judged.vectors, validation.positives)["ndcg@10"].mean()
    for name, theta, result in (("NUDGE", chosen.theta, chosen), ("NUDGE, forced", FORCED_THETA, forced)):
        moved = judged.vectors.copy()
        moved[result.rows] = result.vectors
        after = evaluate(validation.vectors, moved, validation.positives)["ndcg@10"].mean()
        rows.append({"method": name, "questions": questions.name, "own validation": f"{before:.3f} to {after:.3f}",
                     "theta": theta, **compare(evaluate(queries, moved, judged.positives), base, seed)})  # fmt: skip
    return rows


def trained(
    questions: Questions, judged: Judged, base_model: Path, base: Scores, config: TrainingConfig
) -> dict[str, Any]:
    """The row of a short training."""
    rng = np.random.default_rng(config.seed)
    train = rng.permutation(np.flatnonzero(questions.splits == "train"))[: config.max_steps * config.batch_size]
    held_out = np.flatnonzero(questions.splits == "unseen_validation")
    held_out = rng.permutation(held_out)[:VALIDATION_QUESTIONS]
    if not len(train) or not len(held_out):
        raise InputError(f"{questions.name}: too few questions to train on; give more documents")
    rows, all_rows = questions.rows[train], np.arange(len(judged.ids))
    negatives = plan_negatives(
        questions.vectors[train], judged.vectors, rows, document_ids=all_rows,
        question_ids=np.arange(len(rows)), near=1, far=0, seed=config.seed,
    )  # fmt: skip
    unknown = np.full((len(rows), 1), -1)
    data = TrainingData(
        [questions.texts[place] for place in train], [judged.texts[row] for row in rows], rows, labels=unknown,
        leaves=unknown[:, 0].astype(np.int32), question_ids=np.arange(len(rows)),
        negatives=[[judged.texts[row] for row in found if row >= 0] or [""] for found in negatives],
        negative_document_ids=unknown, negative_leaves=unknown.astype(np.int32),
    )  # fmt: skip
    answers = questions.rows[held_out]
    others = rng.permutation(np.setdiff1d(all_rows, answers))[: VALIDATION_DOCUMENTS - len(np.unique(answers))]
    pool = np.union1d(answers, others)
    validation = ValidationSet(
        [questions.texts[place] for place in held_out],
        [judged.texts[row] for row in pool],
        [np.array([place]) for place in np.searchsorted(pool, answers)],
        pool,
        np.full((len(pool), 1), -1),
    )
    with tempfile.TemporaryDirectory() as folder, limited_threads(1):
        result = train_encoder(
            base_model, data, validation, config, work_dir=Path(folder, "work"), output_dir=Path(folder, "model"),
            data_fingerprint=questions.name,
        )  # fmt: skip
        encoder = Encoder(result.model_dir, threads=1)
        scores = evaluate(encoder.encode(judged.queries), encoder.encode(judged.texts), judged.positives)
    own = f"{result.base_score:.3f} to {result.best_score:.3f}"
    return {"method": f"training, {result.best_step} steps", "questions": questions.name, "own validation": own,
            **compare(scores, base, config.seed)}  # fmt: skip


def headed(
    questions: Questions, judged: Judged, queries: Floats, base: Scores, steps: int, seed: int
) -> dict[str, Any]:
    """The row of a residual head on the frozen vectors."""
    learnt = questions.splits == "train"
    asked, rows, runs = questions.vectors[learnt], questions.rows[learnt], list[Scores]()
    for number in range(HEAD_SEEDS):
        head = train_head(asked, judged.vectors, rows, steps=steps, seed=seed + number)
        runs.append(evaluate(head.moved(queries), head.moved(judged.vectors), judged.positives))
    scores = {name: np.mean([run[name] for run in runs], axis=0) for name in METRICS}
    return {"method": f"head, {steps} steps", "questions": questions.name, **compare(scores, base, seed)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.questions", parents=[parent_parser()], epilog="Definitions: top of bench/questions.py.",
        description=(__doc__ or "").split("\n\n")[0],
    )  # fmt: skip
    parser.add_argument("--collection", type=Path, metavar="FOLDER", required=True, help="corpus, queries and qrels")
    parser.add_argument("--split", default="test", help="of the human queries that judge (%(default)s)")
    parser.add_argument("--documents", type=int, default=0, help="search only so many; 0: all (%(default)s)")
    parser.add_argument("--questions", type=int, default=3, help="most per document (%(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of training; 0: none (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="pairs per step (%(default)s)")
    parser.add_argument("--head-steps", type=int, default=0, help="of a head on frozen vectors; 0: none (%(default)s)")
    parser.add_argument("--seed", type=int, default=13, help="of every random choice (%(default)s)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "heal-bench", metavar="FOLDER",
                        help="keeps vectors between runs (%(default)s)")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        base_model, vectors = Path(resolve_model(PACKAGED_MODEL)), Vectors(options.cache)
        judged = load(options.collection, options.split, options.documents, base_model, vectors, options.seed)
        sets = ask(judged, options.questions, base_model, vectors)
        queries = vectors.of(judged.queries, base_model)
        base = evaluate(queries, judged.vectors, judged.positives)
        rows = [{"method": "base model", "questions": "", "own validation": "", "theta": 0.0,
                 **{name: float(base[name].mean()) for name in METRICS}}]  # fmt: skip
        for questions in sets:
            rows += nudged(questions, judged, queries, base, options.seed)
        config = TrainingConfig(
            max_steps=options.steps or 1, eval_steps=options.steps or 1, batch_size=options.batch, heal_weight=0.0,
            seed=options.seed,
        )  # fmt: skip
        if options.head_steps:
            rows += [headed(item, judged, queries, base, options.head_steps, options.seed) for item in sets]
        rows += [trained(item, judged, base_model, base, config) for item in (sets[0], sets[-1]) if options.steps]
    except InputError as error:
        parser.error(str(error))
    tables = {"questions": [describe(item, judged) for item in sets], "judged": rows}
    print(f"{judged.name}: {len(judged.ids)} documents, {len(judged.queries)} {options.split} queries. {versions()}\n")
    print(table(tables["questions"]), table(rows), sep="\n\n")
    write_json(options.json, tables)


if __name__ == "__main__":
    main()
