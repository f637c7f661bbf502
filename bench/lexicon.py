"""Measures what the lexicon adds to an encoder, and a search by text alone, on a collection with human test queries.

Run from the project's root: ``python -m bench.lexicon --collection FOLDER``. The folder holds a corpus, queries and
judgments (``bench.quality`` says how); chunks, topics, vectors and PostgreSQL's stems are the pipeline's own, and so
are the choice of weights and the ranking.

**Questions** (``--questions``). *none*: fitted to documents alone, by the default weights. *people*: the collection's
train and dev queries move rows (NUDGE), are fitted and choose the weights. *llm*: questions by a language model at
``--llm-url`` move rows and are fitted, and no query of the collection is seen.

**Splits** (``--split``). *official*: the collection's test queries. *documents*: all queries, of which those count
whose documents are named by no query of the two other thirds.

**Rows.** *text*: no encoder; *words*: shared words added, by the weight in the lexicon's record. nDCG@10 over documents
with 95 % bootstrap intervals, and the paired difference to the encoder alone. ``--trained``: the same rows for encoders
that are trained on these questions, by rows of ``bench.quality`` and the settings in the environment.

``--priors``: the prior of the ridge regression: zero; flat (each stem's mean over its leaf topics); nested (each topic
shrunk to its parent first); random (nested, with the topics of other documents). ``--ridges``: other weights.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bench.common import parent_parser, table, versions, write_json
from bench.judging import TestQueries
from bench.quality import Deployment
from bench.quality_rows import TRAINED
from bench.scratch import scratch_store
from heal_tasks.core.ids import bucket
from heal_tasks.core.metrics import NDCG
from heal_tasks.core.settings import load_settings
from heal_tasks.evaluation.bootstrap import mean_interval, paired_difference
from heal_tasks.lexicon.fit import fit_stems
from heal_tasks.lexicon.lexicon import Lexicon
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.terms import inverse_document_frequencies, weigh_texts
from heal_tasks.nudge.plan import Plan
from heal_tasks.steps.quality.scoring import BY_ENCODER, BY_TEXT, System
from heal_tasks.steps.vectors.spaces import BASE_MODEL
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.db import connect
from heal_tasks.store.spaces.spaces import SpaceRepository

Float32Array = NDArray[np.float32]
Rows = list[dict[str, Any]]
SHRINK = 20
"""Documents that the centre of a topic's parent counts for in the topic's own."""
SETTINGS = {"none": "people", "people": "people", "llm": "corpus"}
"""The setting of ``bench.quality`` that stores the questions of each."""


class Bench:
    """A collection in a store, with its test queries as judgments that no step learns from."""

    def __init__(self, systems: Systems, plain: System, split: str) -> None:
        self.systems, self.plain, self.chunks = systems, plain, systems.chunks
        if split == "documents":
            thirds = np.array([bucket("bench-documents", int(key), 3) for key in systems.questions.document_ids])
            names = np.array(["train", "unseen_validation", "unseen_test"])[thirds]
            systems.questions = replace(systems.questions, splits=names, moves=names != "unseen_test")
        self._test = TestQueries(systems)
        self.plan: Plan | None = None
        self.encoder = self.values(plain, BY_ENCODER)

    def values(self, system: System, path: str, *, words: bool = False) -> NDArray[np.float64]:
        """nDCG@10 of each test query."""
        return self._test.values(system, path, words=words)[NDCG]

    def row(self, name: str, values: NDArray[np.float64], note: str = "") -> dict[str, Any]:
        """A row of the table."""
        own, apart = mean_interval(values, seed=0), paired_difference(values, self.encoder, seed=0)
        return {
            "row": name, "nDCG@10": f"{own.value:.4f} [{own.low:.3f}, {own.high:.3f}]",
            "against the encoder": f"{apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]", "queries": own.n,
            "lexicon": note,
        }  # fmt: skip

    def with_lexicon(self, name: str, system: System, note: str) -> Iterator[dict[str, Any]]:
        """Both query paths, without and with words."""
        yield self.row(f"{name}text", self.values(system, BY_TEXT), note)
        yield self.row(f"{name}text + words", self.values(system, BY_TEXT, words=True))
        yield self.row(f"{name}encoder + lexicon", self.values(system, BY_ENCODER))
        yield self.row(f"{name}encoder + lexicon + words", self.values(system, BY_ENCODER, words=True))

    def none(self, record: LexiconRecord) -> Iterator[dict[str, Any]]:
        """A lexicon of the documents alone, with default weights."""
        started = time.process_time()
        lexicon = self.systems.lexicons.fit(record, self.plain.chunks, self.plain.chunks)
        note = f"{len(lexicon.weights)} stems, {time.process_time() - started:.1f} CPU s"
        system = replace(self.plain, lexical=self.systems.lexicons.stems.search(record, lexicon))
        yield self.row("encoder", self.encoder)
        yield self.row("encoder + words", self.values(_weightless(system), BY_ENCODER, words=True))
        yield from self.with_lexicon("", system, note)

    def chosen(self, name: str) -> Iterator[dict[str, Any]]:
        """The lexicon that the pipeline chooses, without and with the NUDGE that it finds; the first space's plan."""
        moved = None
        for added in ("", "NUDGE, "):
            system, note = self.systems.find_lexicon(self.plain, moved, learnt=bool(name))
            encoder = self.values(replace(system, lexical=None), BY_ENCODER)
            yield self.row(f"{name}{added}encoder", encoder, moved.note if moved else "")
            yield self.row(f"{name}{added}encoder + words", self.values(_weightless(system), BY_ENCODER, words=True))
            yield from self.with_lexicon(f"{name}{added}", system, note)
            if not moved:
                moved = self.systems.find_moves(system, self.plan)
                self.plan = self.plan or (moved.record and moved.record.plan)

    def priors(self, ridges: Sequence[float]) -> Iterator[dict[str, Any]]:
        """Every prior of the ridge regression; the lexicon has the default weight."""
        stems = self.systems.lexicons.stems
        weights = inverse_document_frequencies(stems.chunks)
        texts, targets = weigh_texts(stems.chunks, weights), self.plain.chunks
        shuffled = self.chunks.paths[np.random.default_rng(0).permutation(len(targets))]
        priors = {
            "zero": None, "flat": _prior(texts, targets, self.chunks.leaves[:, None]),
            "nested": _prior(texts, targets, self.chunks.paths), "random": _prior(texts, targets, shuffled),
        }  # fmt: skip
        zero = None
        for ridge in ridges:
            for name, prior in priors.items():
                vectors = fit_stems(texts, targets, ridge=ridge, prior=prior).vectors
                lexicon = Lexicon(np.bincount(stems.chunks.indices, minlength=len(weights)), weights, vectors)
                system = replace(self.plain, lexical=stems.search(LexiconRecord(), lexicon))
                text, both = self.values(system, BY_TEXT), self.values(system, BY_ENCODER)
                zero = (text, both) if zero is None else zero
                row: dict[str, Any] = {"prior": name, "ridge": ridge}
                for path, values, first in (("text", text, zero[0]), ("encoder + lexicon", both, zero[1])):
                    apart = paired_difference(values, first, seed=0)
                    interval = f"{apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"
                    row |= {path: f"{values.mean():.4f}", f"{path}, difference": interval}
                yield row


def _weightless(system: System) -> System:
    """A system whose queries have the encoder's vector alone, beside words."""
    assert system.lexical is not None
    record = replace(system.lexical.record, lexicon_weight=0.0, words_weight=0.2)
    return replace(system, lexical=replace(system.lexical, record=record))


def _prior(texts: csr_array, targets: Float32Array, levels: NDArray[np.integer]) -> Float32Array:
    """A prior of each stem: the mean of its topics' mean vectors, each level shrunk to the one above; scaled to fit."""
    by_stem, total = csr_array(texts.T), np.asarray(texts.sum(axis=0)).ravel()[:, None]
    centres, parents = targets.mean(axis=0, keepdims=True), np.zeros(len(targets), dtype=np.int64)
    prior, node = np.repeat(centres, texts.shape[1], axis=0), np.full(len(targets), -1)
    for level in levels.T:
        node = np.where(level >= 0, level, node)  # a short path ends at its leaf
        names, number = np.unique(node, return_inverse=True)
        member = csr_array(
            (np.ones(len(node), np.float32), (np.arange(len(node)), number)), shape=(len(node), len(names))
        )
        above = np.zeros(len(names), dtype=np.int64)
        above[number] = parents
        sizes = np.bincount(number)[:, None]
        centres = (member.T @ targets + SHRINK * centres[above]) / (sizes + SHRINK)
        prior = ((by_stem @ member) @ centres + prior) / (total + 1)
        parents = number
    fitted = texts @ prior
    return np.float32((fitted * targets).sum() / (fitted * fitted).sum()) * prior.astype(np.float32)


def bench(
    folder: Path, questions: str, split: str, llm_url: str, ridges: Sequence[float], trained: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of one table."""
    with tempfile.TemporaryDirectory(prefix="heal-bench-") as name, scratch_store() as url:
        var_dir = Path(name).resolve()
        options = {"llm_base_url": llm_url} if questions == "llm" else {}
        settings = load_settings(
            var_dir=var_dir, database_url=url, sources=(f"file:{var_dir / 'inbox'}",), force_route="realign", **options
        )
        deployment = Deployment(settings, folder, setting=SETTINGS[questions], most=0)
        with connect(url, autocommit=True) as conn:
            base = SpaceRepository(conn).find_by_uri(settings.model)
            assert base is not None
            systems = Systems(conn, settings, deployment.manifest.number("topic_run_id"))
            made = Bench(systems, systems.plain(BASE_MODEL, base), split)
            if ridges:
                yield from made.priors(ridges)
            elif questions == "none":
                yield from made.none(LexiconRecord())
            else:
                yield from made.chosen("")
            for row in trained:
                space = SpaceRepository(conn).find_by_uri(deployment.train(row, TRAINED[row]))
                assert space is not None
                made.plain = systems.plain(row, space)
                yield from made.chosen(f"{row}, ")


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--questions", choices=tuple(SETTINGS), nargs="+", default=["none", "people"])
    parser.add_argument("--split", choices=("official", "documents"), default="official")
    parser.add_argument("--llm-url", default="", help="OpenAI-compatible endpoint that writes questions")
    parser.add_argument("--trained", choices=tuple(TRAINED), nargs="+", default=[], help="trained encoders as well")
    parser.add_argument("--priors", action="store_true", help="only the priors of the regression")
    parser.add_argument("--ridges", type=float, nargs="+", default=[0.3], help="weights of the prior (default .3)")
    given = parser.parse_args()
    tables: dict[str, Rows] = {}
    for folder in given.collection:
        for questions in ["none"] if given.priors else given.questions:
            name = f"{folder.resolve().name}, questions: {questions}, split: {given.split}"
            ridges = given.ridges if given.priors else ()
            tables[name] = []
            for row in bench(folder, questions, given.split, given.llm_url, ridges, given.trained):
                print(table([row]), flush=True)
                tables[name].append(row)
            print(f"\n{name}\n\n{table(tables[name])}", flush=True)
    print(versions())
    write_json(given.json, tables)


if __name__ == "__main__":
    main()
