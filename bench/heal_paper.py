"""HEAL's own measures: topics of documents that no training has seen, by the base model and after each training.

Run from the project's root: ``python -m bench.heal_paper --collection FOLDER FOLDER`` for folders whose
``corpus.jsonl.gz`` has ``labels``; ``--documentation`` adds that of installed packages (see ``bench.topics``).

**Split.** Per seed three fifths of the documents train, by a hash of the id; the others test. Topics are HNMFk's of the
training part alone, or its true labels. Questions are the extractive writer's. Every training has the same number of
steps and pairs and keeps its last weights; no test document, label or question takes part.

**Systems.** base: the packaged model. own: own-document term and base term. paper: the HEAL loss as published, alone.
HEAL: own and the HEAL term. In brackets the labels: HNMFk's topics, true ones, or random (HNMFk's paths dealt out to
random documents: the control). ``--choose`` compares weights of the HEAL term instead, with a quarter of the training
part in the place of the test part.

**Measured** on the test part, by true labels, which are cut above labels of a single document. *Nearest*: the ten
nearest training documents vote on the label path; *probe*: a ridge classifier per level on the training documents'
vectors. hP, hR, hF1 as in ``evaluation.hierarchy``. *Topic-mates*: each test document ranks the others, those with its
label are relevant; *asked*: each question about a test document ranks the test documents, those with its document's
label are relevant. MRR, nDCG and precision P at 10. Silhouette by cosine distance. *Own document*: nDCG@10 of the
questions about test documents among all documents, where its own is the right one: what the training costs. *people*:
the same for people's train queries, where the folder has any. All are means over seeds and documents; differences to
the base model are paired, with 95 % bootstrap intervals over documents.
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
from bench.labelled import NO_QUERIES, Labelled, Vectors, label_sources, peoples_queries, split, trained, training_data
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


HEAL_WEIGHT = 1.0
OWN = {"base_weight": 0.1}
PAPER = {"paper": True}
HEAL = OWN | {"heal_weight": HEAL_WEIGHT}
SYSTEMS = {
    "base": System(),
    "own": System(config=OWN),
    "paper (HNMFk)": System(config=PAPER),
    "paper (true)": System("true", PAPER),
    "HEAL (HNMFk)": System(config=HEAL),
    "HEAL (true)": System("true", HEAL),
    "HEAL (random)": System("random", HEAL),
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
    """Scores of every system, joined over the seeds."""
    base, found = Path(resolve_model(PACKAGED_MODEL)), dict[str, list[Scores]]()
    for seed in seeds:
        known, tested = split(data.collection.ids, seed, choose=choose)
        labels = label_sources(data, known, seed)
        for name, system in systems.items():
            if system.config:
                config = TrainingConfig(max_steps=steps, eval_steps=steps, seed=seed, **system.config)
                vectors = trained(base, training_data(data, known, labels[system.labels]), config, data, tested)
            else:
                vectors = Vectors(base, data, tested)
            scores = judge(vectors, data, known, tested)
            found.setdefault(name, []).append(scores)
            means = {measure: scores[measure][0].mean().round(4) for measure in ("nearest hF1", "own document")}
            print(f"{data.collection.name}, seed {seed}, {name}: {means}", flush=True)
    return {name: {measure: joined([part[measure] for part in parts]) for measure in parts[0]}
            for name, parts in found.items()}  # fmt: skip


def joined(parts: Sequence[tuple[Values, NDArray[np.int64]]]) -> tuple[Values, NDArray[np.int64]]:
    """Values and documents of all seeds, one after the other."""
    values, documents = zip(*parts, strict=True)
    return np.concatenate(values), np.concatenate(documents)


def tables(found: Mapping[str, Scores]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all tables by their titles; a measure without values is left out."""
    measures = {name for name, (values, _) in found["base"].items() if len(values)}
    levels = range(1, 1 + sum(name.startswith("silhouette") for name in found["base"]))
    rows = {
        "nearest neighbours": _rows(found, "nearest hF1", [f"nearest {name}" for name in ("hP", "hR", "hF1")]
                                    + [f"nearest F1 {level}" for level in levels]),
        "linear probe": _rows(found, "probe hF1", [f"probe {name}" for name in ("hP", "hR", "hF1")]
                              + [f"probe F1 {level}" for level in levels]),
        "own document": _rows(found, "own document", ["own document"]),
    }  # fmt: skip
    if "people" in measures:
        rows["own document, people's queries"] = _rows(found, "people", ["people"])
    for level in levels:
        names = [f"{kind} {name} {level}" for kind in ("mates", "asked") for name in ("MRR", "nDCG", "P")]
        first = _rows(found, f"mates nDCG {level}", names)
        second = _rows(
            found, f"silhouette {level}", [f"silhouette {level}"] if f"silhouette {level}" in measures else []
        )
        rows[f"topic-mates, level {level}"] = first
        rows[f"silhouette, level {level}"] = second
    return {title: found_rows for title, found_rows in rows.items() if found_rows}


def _rows(found: Mapping[str, Scores], compared: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per system: means of some measures, and the difference of one of them to the base model."""
    if not names:
        return []
    rows = []
    for system, scores in found.items():
        values, documents = scores[compared]
        before = found["base"][compared][0]
        apart = paired_difference(values, before, seed=0, groups=documents)
        gain = "" if system == "base" else f"{apart.value / before.mean():+.0%}"
        rows.append({"system": system, **{name: float(scores[name][0].mean()) for name in names},
                     f"{compared}, against base": "" if system == "base" else _text(apart), "gain": gain})  # fmt: skip
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
    parser.add_argument("--documents", type=int, default=2000, help="at most this many, drawn at random (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of each training (%(default)s)")
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
    seeds, rows = range(options.seed, options.seed + options.seeds), dict[str, list[dict[str, Any]]]()
    for data in made:
        systems = CHOICES if options.choose else SYSTEMS
        found = run(data, systems, seeds, options.steps, choose=options.choose)
        print(f"\n{data.collection.name}: {len(data.collection.ids)} documents, seeds {list(seeds)}. {versions()}")
        for title, table_rows in tables(found).items():
            print(f"\n{title}:\n\n{table(table_rows)}", flush=True)
            rows[f"{data.collection.name}, {title}"] = table_rows
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
