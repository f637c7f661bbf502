"""Measures the gain of each method in retrieval, by the pipeline's own steps, on a collection with human test queries.

Run from the project's root: ``python -m bench.quality --collection FOLDER --rows own heal``; a row that trains costs a
training and an encoding of the corpus. The folder holds ``corpus.jsonl.gz`` ({id, title, text}), ``queries.jsonl.gz``
({id, text}) and ``qrels.tsv`` (query_id, doc_id, score, split).

**Settings.** *corpus*: no human query is seen before the test; questions are the writer's (the extractive one, unless
an LLM is configured). *training*: the collection's train and dev queries are also imported as judgments.
*people*: only these, no question is generated. A collection without dev queries lends a tenth of train.

**Rows.** base; nudge (NUDGE on the base model); own (own-document loss, no topics); base-term (own and the term that
keeps the base model's rankings); paper (the published HEAL loss alone); heal (own and HEAL, objective *topics*); supcon
(heal on the leaf level alone); random (heal with the topic paths of other documents: the control); default (the
defaults); sampled (default with near and far mined negatives); maps (sampled with a share of entity maps). Every
trained row is shown plain and with NUDGE, if validation adopts it. A row that changes nothing in the training set is an
error; one with an earlier row's value for every query says so.

**Measured** on the official test queries, which no step learns from: nDCG@10 and recall@10 over documents (by their
nearest chunk) with 95 % bootstrap intervals, and the paired difference in nDCG@10 to the base model; by the encoder
alone, and *served*: by the encoder with the lexicon that the pipeline fits to the row's vectors, and words, as
``heal.hybrid_search`` ranks. ``--documents`` keeps the documents that answer test queries and fills up at random: fewer
competitors make every number higher.
"""

import argparse
import gzip
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Judgment, dev_queries, load_queries, parent_parser, show
from bench.judging import Test, TestQueries
from bench.quality_rows import TRAINED, Change, Row, Values, same_as
from bench.scratch import scratch_store
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import bucket, document_id, stable_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Split
from heal_tasks.evaluation.bootstrap import mean_interval, paired_difference
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors.spaces import model_ref
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.db import connect
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

DEV_OF = 10  # a collection without a dev split lends one train query in ten
PREPARED = ("ingest", "route", "label", "ask", "embed_base", "sift")
SETTINGS = {"corpus": {"written"}, "training": {"written", "judged"}, "people": {"judged"}}
"""Whose questions are seen before the test."""
ByPath = dict[str, Values]
"""Values of the test queries by the encoder alone, and as served."""


class Deployment:
    """A collection in a store of its own, up to the base model's vectors, with its test queries as judgments.

    Args:
        settings: of this store.
        folder: the collection.
        setting: which questions are seen before the test, a key of ``SETTINGS``.
        most: most documents; 0 takes all.
    """

    def __init__(self, settings: Settings, folder: Path, *, setting: str, most: int) -> None:
        self.settings = settings
        texts, judgments = load_queries(folder)
        self._fill_inbox(folder, {item.document for item in judgments if item.split == "test"}, most)
        self.manifest = Manifest(run_id="prepared")
        for name in PREPARED:
            if name == "ask" and "written" not in SETTINGS[setting]:
                continue
            self.manifest = load_step(name).run(settings, self.manifest)
            print(f"{name}: {self.manifest.note}", flush=True)
            if name == "ingest":
                self._import(texts, judgments, with_train="judged" in SETTINGS[setting])
        source, answers = settings.sources[0], dict[str, list[int]]()
        with connect(settings.require_database_url(), autocommit=True) as conn:
            live = {row[0] for row in conn.execute("SELECT document_id FROM heal.document WHERE duplicate_of IS NULL")}
        for item in judgments:
            if item.split == "test" and (number := document_id(source, item.document)) in live:
                answers.setdefault(item.query, []).append(number)
        self.test = Test([texts[query] for query in answers], [np.array(found) for found in answers.values()])

    def train(self, name: str, row: Row) -> str:
        """Mine, train and embed one row; return the model's URI."""
        settings, manifest = row.applied(self.settings), self.mine(name, row)
        for step in ("train", "embed"):
            manifest = load_step(step).run(settings, manifest)
            print(f"{name}, {step}: {manifest.note}", flush=True)
        (objective,) = settings.objectives
        return manifest.text(model_ref(objective))

    def mine(self, name: str, row: Row) -> Manifest:
        """Make the training set of one row.

        Raises:
            InputError: the row shows no entity map where it should, or its change changes nothing.
        """
        settings = row.applied(self.settings)
        manifest = self.manifest.model_copy(update={"run_id": name})
        for step in ("map_entities", "mine") if settings.map_rate else ("mine",):
            manifest = load_step(step).run(settings, manifest)
            print(f"{name}, {step}: {manifest.note}", flush=True)
        if settings.map_rate and not manifest.counts["map_chunks"]:
            raise InputError(f"row {name} shows no entity map: {manifest.note}")
        return manifest if row.change is None else self._changed(manifest, name, row.change)

    def training_rows(self, manifest: Manifest) -> list[dict[str, Any]]:
        """The training set that ``mine`` made, a dictionary per question."""
        source = artifact_store(self.settings).local(manifest.text("training_set_uri"))
        with (source / "train.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def judge(self, model_uri: str) -> dict[str, ByPath]:
        """Test values of a model's space, plain and (where validation adopts it) with NUDGE."""
        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            systems = Systems(conn, self.settings, self.manifest.number("topic_run_id"))
            space, test = SpaceRepository(conn).find_by_uri(model_uri), TestQueries(systems)
            assert space is not None
            plain = systems.plain(model_uri, space)
            learnt = model_uri != self.settings.model
            system, note = systems.find_lexicon(plain, None, learnt=learnt)
            found, moved = {"": (system, note)}, systems.find_moves(system)
            print(f"{model_uri}: {moved.note}", flush=True)
            if moved.record is not None:
                found[" + NUDGE"] = systems.find_lexicon(plain, moved, learnt=learnt)
        judged_by = {}
        for name, (system, note) in found.items():
            print(f"{model_uri}{name}: {note}", flush=True)
            encoder = test.values(replace(system, lexical=None))
            judged_by[name] = {"encoder": encoder, "served": test.values(system, words=True)}
        return judged_by

    def _fill_inbox(self, folder: Path, answers: set[str], most: int) -> None:
        inbox = self.settings.var_dir / "inbox"
        inbox.mkdir(parents=True)
        with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
            documents = [json.loads(line) for line in lines]
        if most:
            documents.sort(
                key=lambda item: (str(item["id"]) not in answers, bucket("bench", stable_id(str(item["id"])), 1 << 30))
            )
            documents = documents[:most]
        with (inbox / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for item in documents:
                kept = {"id": str(item["id"]), "title": item.get("title", ""), "text": item["text"]}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")

    def _import(self, texts: dict[str, str], judgments: Sequence[Judgment], *, with_train: bool) -> None:
        tested = {texts[item.query] for item in judgments if item.split == "test"}
        dev = {texts[query] for query in dev_queries(judgments, DEV_OF)}
        pairs = [
            (texts[item.query], item.document)
            for item in judgments
            if item.split == "test" or (with_train and texts[item.query] not in tested)
        ]

        def split_of(_document: int, text: str) -> Split:
            return "unseen_test" if text in tested else "unseen_validation" if text in dev else "train"

        with connect(self.settings.require_database_url(), autocommit=True) as conn:
            QuestionRepository(conn).import_judgments(self.settings.sources[0], pairs, split_of)

    def _changed(self, manifest: Manifest, name: str, change: Change) -> Manifest:
        artifacts = artifact_store(self.settings)
        source = artifacts.local(manifest.text("training_set_uri"))
        rows = self.training_rows(manifest)
        change(rows)
        if rows == self.training_rows(manifest):
            raise InputError(f"row {name} leaves the training set as it is")
        with artifacts.writing(f"training_sets/{name}") as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        uri = artifacts.uri(f"training_sets/{name}")
        return manifest.model_copy(update={"refs": {**manifest.refs, "training_set_uri": uri}})


def bench(folder: Path, setting: str, names: Sequence[str], most: int, steps: int) -> Iterator[dict[str, Any]]:
    """Rows of the table of one setting, each as soon as it is measured."""
    options = {"train_max_steps": steps} if steps else {}
    with tempfile.TemporaryDirectory(prefix="heal-bench-") as name, scratch_store() as url:
        var_dir = Path(name).resolve()
        settings = load_settings(
            var_dir=var_dir, database_url=url, sources=(f"file:{var_dir / 'inbox'}",), force_route="realign", **options
        )
        deployment = Deployment(settings, folder, setting=setting, most=most)
        untrained = deployment.judge(settings.model)
        base, seen = untrained[""], dict[str, Values]()

        def table_row(name: str, found: ByPath, spent: float) -> dict[str, Any]:
            same = same_as(found["encoder"], seen)
            seen[name] = found["encoder"]
            row = {"collection": folder.name, "setting": setting, "row": name}
            for path, values in found.items():
                row |= _columns(path, values, base[path])
            return row | {"CPU s": spent} | ({"NO EFFECT": same} if same else {})

        for added, values in untrained.items():
            yield table_row(f"base{added}".replace("base + NUDGE", "nudge"), values, 0.0)
        for row in names:
            start = time.process_time()
            trained = deployment.train(row, TRAINED[row])
            spent = time.process_time() - start
            for added, values in deployment.judge(trained).items():
                yield table_row(row + added, values, spent)


def _columns(path: str, values: Values, base: Values) -> dict[str, Any]:
    """The columns of one path: quality, and its difference to the base model's by the same path."""
    ndcg = mean_interval(values["ndcg@10"], seed=0)
    apart = paired_difference(values["ndcg@10"], base["ndcg@10"], seed=0)
    return {
        f"{path} nDCG@10": f"{ndcg.value:.4f} [{ndcg.low:.4f}, {ndcg.high:.4f}]",
        f"{path} against base": f"{apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]",
        f"{path} recall@10": float(values["recall@10"].mean()), "queries": ndcg.n,
    }  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--setting", choices=tuple(SETTINGS), nargs="+", default=["corpus", "training"])
    parser.add_argument(
        "--rows", choices=tuple(TRAINED), nargs="*", default=["own", "base-term", "paper", "heal", "sampled"]
    )
    parser.add_argument("--documents", type=int, default=0, help="most documents (default: all)")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps (default: HEAL_TRAIN_MAX_STEPS)")
    given = parser.parse_args()
    settings = (bench(given.collection, name, given.rows, given.documents, given.steps) for name in given.setting)
    show("quality", chain.from_iterable(settings), given.json)


if __name__ == "__main__":
    main()
