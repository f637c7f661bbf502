"""HEAL's own measures: topics of documents that no training has seen, by the base model and after each training.

Run from the project's root: ``python -m bench.heal_paper --collection FOLDER FOLDER`` for folders whose
``corpus.jsonl.gz`` has ``labels``; ``--documentation`` adds that of installed packages (see ``bench.topics``). A
training takes minutes of a processor; ``--steps 0`` trains a residual head on the base model's vectors in the
encoder's place, with the same batches and loss, in seconds.

**Split.** Per seed three fifths of the documents train, by a hash of the id; the others test. Topics are HNMFk's of the
training part alone, or its true labels. Questions are the extractive writer's. Every training has the same number of
steps and pairs and keeps its last weights; no test document, label or question takes part.

**Systems.** base: the packaged model. own: own-document term and base term. paper: the HEAL loss as published, alone.
HEAL: own and the HEAL term. In brackets the labels: HNMFk's topics, true ones, or random (HNMFk's paths dealt out to
random documents: the control). ``--choose`` compares weights of the HEAL term instead, with a quarter of the training
part in the place of the test part.

**Measured** on the test part, by true labels, which are cut above labels of a single document. *Nearest*: the ten
nearest training documents vote on the label path; *probe*: a ridge classifier per level on the training documents'
vectors. hP, hR, hF1 as in ``evaluation.hierarchy``. *HNMFk*: the nearest vote on HNMFk's topics instead, and the test
documents' are those that projection on the tree gives them. *Topic-mates*: each test document ranks the others, those
with its label are relevant; *asked*: each question about a test document ranks the test documents, those with its
document's label are relevant. MRR, nDCG and precision P at 10. Silhouette by cosine distance. *Own document*: nDCG@10
of the questions about test documents among all documents, where its own is the right one: what the training costs.
*people*: the same for people's train queries, where the folder has any. All are means over seeds and documents;
differences to the base model are paired, with 95 % bootstrap intervals over documents.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import load_collection, parent_parser, table, versions, write_json
from bench.label_scores import (
    Floats,
    Values,
    classification,
    nearest_paths,
    probe_paths,
    silhouettes,
    topic_answers,
    topic_mates,
)
from bench.labelled import (
    NO_QUERIES,
    Labelled,
    Vectors,
    encoded,
    part,
    peoples_queries,
    split,
    topics,
    train,
    train_head,
    training_data,
)
from bench.topics import pydocs, sample
from heal_tasks.core.errors import InputError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.evaluation.bootstrap import Interval, paired_difference
from heal_tasks.evaluation.ranking import evaluate
from heal_tasks.local.inbox import DEMO_PACKAGES
from heal_tasks.training.config import TrainingConfig

Scores = dict[str, tuple[Values, NDArray[np.int64]]]
"""Values by measure, and the document of each value."""


@dataclass(frozen=True)
class System:
    """A way to train: whose labels, and the fields of ``TrainingConfig`` that differ; without fields nothing trains."""

    labels: str = "HNMFk"
    config: Mapping[str, Any] = field(default_factory=dict)


POOLED = ("hP", "hR", "hF1")
SHOWN = ("nearest hF1", "HNMFk hF1", "probe hF1", "own document")
HEAL_WEIGHT = 0.3
ENCODER: dict[str, Any] = {"batch_size": 32, "max_tokens": 64}
HEAD: dict[str, Any] = {"max_steps": 150, "batch_size": 64, "learning_rate": 1e-3}
OWN = {"base_weight": 0.1}
PAPER = {"paper": True}
HEAL = OWN | {"heal_weight": HEAL_WEIGHT}
SYSTEMS = {
    "base": System(),
    "own": System(config=OWN),
    "HEAL (HNMFk)": System(config=HEAL),
    "HEAL (true)": System("true", HEAL),
    "HEAL (random)": System("random", HEAL),
    "paper (HNMFk)": System(config=PAPER),
    "paper (true)": System("true", PAPER),
    "paper (random)": System("random", PAPER),
}
CHOICES = {name: system for name, system in SYSTEMS.items() if not name.startswith("HEAL")} | {
    f"HEAL {weight:g} ({labels})": System(labels, OWN | {"heal_weight": weight})
    for weight in (0.1, 0.3, 1.0, 3.0)
    for labels in ("HNMFk", "true")
}


def judge(vectors: Vectors, data: Labelled, known: NDArray[np.int64], tested: NDArray[np.int64]) -> Scores:
    """All measures on the test part, one value per document or question."""
    truth, documents, scores = data.truth[tested], vectors.documents[tested], Scores()
    for name, classify in (("nearest", nearest_paths), ("probe", probe_paths)):
        predicted = classify(vectors.documents[known], data.truth[known], documents)
        for measure, values in classification(predicted, truth).items():
            scores[f"{name} {measure}"] = values, tested
    owners = data.written.about(tested).owners
    for level, labels in enumerate(truth.T, start=1):
        of_documents = topic_mates(documents, labels)
        of_questions = topic_answers(vectors.written, np.searchsorted(tested, owners), documents, labels)
        for name, (ranked, rows), document in (("mates", of_documents, tested), ("asked", of_questions, owners)):
            for measure, values in ranked.items():
                scores[f"{name} {measure} {level}"] = values, document[rows]
        values, rows = silhouettes(documents, labels)
        scores[f"silhouette {level}"] = values, tested[rows]
    scores["own document"] = _found(vectors.written, vectors.documents, owners), owners
    owners = data.people.about(tested).owners
    scores["people"] = _found(vectors.people, vectors.documents, owners), owners
    return scores


def _found(questions: Floats, documents: Floats, owners: NDArray[np.int64]) -> Values:
    return evaluate(questions, documents, [np.array([owner]) for owner in owners])["ndcg@10"]


def run(
    data: Labelled, systems: Mapping[str, System], seeds: Sequence[int], steps: int, *, choose: bool
) -> dict[str, Scores]:
    """Scores of every system, joined over the seeds; without steps a head is trained."""
    model, found = Path(resolve_model(PACKAGED_MODEL)), dict[str, list[Scores]]()
    untrained = encoded(model, data, np.arange(len(data.truth)))
    common = ENCODER | {"max_steps": steps, "eval_steps": steps} if steps else HEAD
    for seed in seeds:
        known, tested = split(data.collection.ids, seed, choose=choose)
        labels, placed = topics(data, known, tested, seed)
        for name, system in systems.items():
            config = TrainingConfig(seed=seed, **{**common, **system.config})
            pairs = training_data(data, known, labels[system.labels])
            if not system.config:
                vectors = part(untrained, data, tested)
            elif steps:
                vectors = train(model, pairs, config, data, tested)
            else:
                vectors = train_head(untrained, pairs, config, data, tested)
            scores = judge(vectors, data, known, tested)
            predicted = nearest_paths(vectors.documents[known], labels["HNMFk"], vectors.documents[tested])
            by_topics = classification(predicted, placed)
            scores |= {f"HNMFk {measure}": (by_topics[measure], tested) for measure in POOLED}
            found.setdefault(name, []).append(scores)
            row = _rows({"base": found["base"][-1], name: scores}, SHOWN, SHOWN)[-1]
            print(f"\n{data.collection.name}, seed {seed}\n{table([row])}", flush=True)
    return {name: {measure: joined([scores[measure] for scores in runs]) for measure in runs[0]}
            for name, runs in found.items()}  # fmt: skip


def joined(parts: Sequence[tuple[Values, NDArray[np.int64]]]) -> tuple[Values, NDArray[np.int64]]:
    """Values and documents of all seeds, one after the other."""
    values, documents = zip(*parts, strict=True)
    return np.concatenate(values), np.concatenate(documents)


def tables(found: Mapping[str, Scores]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all tables by their titles; a measure without values is left out."""
    levels = range(1, 1 + sum(name.startswith("silhouette") for name in found["base"]))

    def voted(kind: str, levels: Sequence[int]) -> list[dict[str, Any]]:
        pooled, by_level = [f"{kind} {name}" for name in POOLED], [f"{kind} F1 {level}" for level in levels]
        return _rows(found, pooled + by_level, [pooled[-1]])

    ranked = [f"{kind} {name}" for kind in ("mates", "asked") for name in ("MRR", "nDCG", "P")]
    return {
        "nearest neighbours": voted("nearest", levels),
        "linear probe": voted("probe", levels),
        "nearest neighbours, HNMFk's topics": voted("HNMFk", ()),
        **{f"level {level}": _rows(found, [*(f"{name} {level}" for name in ranked), f"silhouette {level}"],
                                   [f"mates nDCG {level}", f"asked nDCG {level}", f"silhouette {level}"])
           for level in levels},
        "own document": _rows(found, ["own document", "people"], ["own document", "people"]),
    }  # fmt: skip


def _rows(found: Mapping[str, Scores], names: Sequence[str], compared: Sequence[str]) -> list[dict[str, Any]]:
    """A row per system: means of the measures that have values, and differences of some of them to the base model."""
    rows = []
    for system, scores in found.items():
        row: dict[str, Any] = {"system": system}
        row |= {name: float(scores[name][0].mean()) for name in names if len(scores[name][0])}
        for name in compared:
            if name in row:
                values, documents = scores[name]
                apart = paired_difference(values, found["base"][name][0], seed=0, groups=documents)
                row[f"{name}, against base"] = "" if system == "base" else _text(apart)
        rows.append(row)
    return rows


def _text(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def labelled(folder: Path, documents: int, seed: int) -> Labelled:
    """A folder's collection with its people's queries, of its documents at most so many."""
    collection = sample(load_collection(folder), documents, seed)
    return Labelled.of(collection, peoples_queries(folder, collection.ids, seed))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, compare, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.heal_paper", parents=[parent_parser()], description=(__doc__ or "").split("\n\n")[0],
        epilog="Systems and measures: top of bench/heal_paper.py.",
    )  # fmt: skip
    parser.add_argument("--collection", type=Path, nargs="+", default=[], metavar="FOLDER", help="corpora with labels")
    parser.add_argument("--documentation", action="store_true", help="also the documentation of installed packages")
    parser.add_argument("--choose", action="store_true", help="compare weights of HEAL within the training part")
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=tuple(SYSTEMS | CHOICES),
        metavar="NAME",
        help="only these and the base model (default: all)",
    )
    parser.add_argument("--documents", type=int, default=2000, help="at most this many, drawn at random (%(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of each training; 0: a head (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="splits, each with its trainings (%(default)s)")
    parser.add_argument("--seed", type=int, default=13, help="first seed; also draws the documents (%(default)s)")
    options = parser.parse_args(arguments)
    made: list[Labelled] = []
    try:
        made += [labelled(folder, options.documents, options.seed) for folder in options.collection]
        if options.documentation:
            made.append(Labelled.of(sample(pydocs(DEMO_PACKAGES), options.documents, options.seed), NO_QUERIES))
        if not made:
            raise InputError("there is nothing to measure; give --collection or --documentation")
    except InputError as error:
        parser.error(str(error))
    systems = CHOICES if options.choose else SYSTEMS
    if options.systems:
        systems = {name: item for name, item in (SYSTEMS | CHOICES).items() if name in ("base", *options.systems)}
    seeds, rows = range(options.seed, options.seed + options.seeds), dict[str, list[dict[str, Any]]]()
    for data in made:
        found = run(data, systems, seeds, options.steps, choose=options.choose)
        print(f"\n{data.collection.name}: {len(data.collection.ids)} documents, seeds {list(seeds)}. {versions()}")
        for title, table_rows in tables(found).items():
            print(f"\n{title}:\n\n{table(table_rows)}", flush=True)
            rows[f"{data.collection.name}, {title}"] = table_rows
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
