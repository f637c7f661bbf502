"""Measures if a relevance keeps its meaning when another generation goes live.

Run from the project's root: ``python -m bench.relevance --collection FOLDER``, in the format of ``bench.quality``. The
collection's train and dev queries are people's judgments. One half of its test queries fits the curves, as held-out
questions do in a run; the other half is searched for, and counts.

**Generations**, each a switch from the one before: *first light* (base model, lexicon of the documents alone);
*lexicon* (chosen by people's questions); *NUDGE*; *model* (trained on people's questions, with NUDGE and lexicon).

**Columns**, of the ten best rows of each question by ``heal.hybrid_search`` (encoder) and ``heal.find`` (text): the
share of rows with a relevance of at least .5 that answer, with its 95 % bootstrap interval, and the share that the
curve *promised*, their mean relevance; *at .5*: the share among rows with a relevance of .4 to .6. *by score*: the
share above a raw score, the one that has a relevance of .5 in the first generation.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import parent_parser, table, versions, write_json
from bench.quality import Deployment
from bench.quality_rows import TRAINED
from bench.scratch import scratch_store
from heal_tasks.core.ids import bucket
from heal_tasks.core.settings import load_settings
from heal_tasks.evaluation.bootstrap import mean_interval
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.steps.quality.scoring import BY_ENCODER, BY_TEXT, AnswerKey, System, judged, relevance, scored_rows
from heal_tasks.steps.vectors.spaces import BASE_MODEL
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.db import connect
from heal_tasks.store.spaces.spaces import SpaceRepository

CUT_OFF, NEAR = 0.5, 0.1
PATHS = {"encoder": BY_ENCODER, "text": BY_TEXT}


def generations(systems: Systems, plain: System, trained: System) -> Iterator[tuple[str, System]]:
    """The systems that go live one after the other."""
    fitter, record = systems.lexicons, LexiconRecord()
    first = fitter.stems.search(record, fitter.fit(record, plain.chunks, plain.chunks))
    yield "first light", replace(plain, lexical=first)
    yield "lexicon", systems.find_lexicon(plain, None, learnt=False)[0]
    yield "NUDGE", systems.find_lexicon(plain, systems.find_moves(plain), learnt=False)[0]
    yield "model", systems.find_lexicon(trained, systems.find_moves(trained), learnt=True)[0]


def halves(key: AnswerKey, ids: NDArray[np.int64]) -> tuple[AnswerKey, AnswerKey]:
    """The questions that fit, and those that count."""
    second = np.array([bucket("relevance", int(ids[row]), 2) for row in key.rows], dtype=bool)

    def part(chosen: NDArray[np.bool_]) -> AnswerKey:
        positives = [rows for rows, taken in zip(key.positives, chosen, strict=True) if taken]
        return AnswerKey(key.rows[chosen], positives, key.documents[chosen])

    return part(~second), part(second)


def rows_of(systems: Systems, plain: System, trained: System) -> Iterator[dict[str, Any]]:
    """Rows of the table."""
    test = systems.questions.human & systems.questions.in_splits("unseen_test")
    key = judged(systems.questions, systems.chunks, test)
    fitting, counting = halves(key, systems.questions.question_ids)
    cuts: dict[str, float] = {}
    for name, system in generations(systems, plain, trained):
        curves = relevance(system, fitting)
        for path, suffix in PATHS.items():
            curve = curves[path]
            scores, right = scored_rows(system, counting, suffix)
            promised = np.interp(scores, curve["scores"], curve["shares"])
            passes, near = promised >= CUT_OFF, np.abs(promised - CUT_OFF) <= NEAR
            share = mean_interval(right[passes].astype(np.float64), seed=0)
            fine = np.linspace(curve["scores"][0], curve["scores"][-1], 10_000)
            at = fine[np.searchsorted(np.interp(fine, curve["scores"], curve["shares"]), CUT_OFF).clip(max=9_999)]
            by_score = scores >= cuts.setdefault(path, float(at))
            yield {
                "generation": name, "path": path, "rows above .5": int(passes.sum()),
                "right": f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]",
                "promised": f"{promised[passes].mean():.3f}", "right at .5": f"{right[near].mean():.3f}",
                "rows by score": int(by_score.sum()), "right by score": f"{right[by_score].mean():.3f}",
                "score at .5": f"{at:.3f}", "questions": len(counting.rows),
            }  # fmt: skip


def bench(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The table of one collection."""
    options = {"train_max_steps": steps} if steps else {}
    with tempfile.TemporaryDirectory(prefix="heal-bench-") as name, scratch_store() as url:
        var_dir = Path(name).resolve()
        settings = load_settings(
            var_dir=var_dir, database_url=url, sources=(f"file:{var_dir / 'inbox'}",), force_route="realign", **options
        )
        deployment = Deployment(settings, folder, setting="people", most=0)
        model = deployment.train("default", TRAINED["default"])
        with connect(url, autocommit=True) as conn:
            found = {uri: SpaceRepository(conn).find_by_uri(uri) for uri in (settings.model, model)}
            base, trained = found.values()
            assert base is not None
            assert trained is not None
            systems = Systems(conn, settings, deployment.manifest.number("topic_run_id"))
            return list(rows_of(systems, systems.plain(BASE_MODEL, base), systems.plain(model, trained)))


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps (default: HEAL_TRAIN_MAX_STEPS)")
    given = parser.parse_args()
    tables = {}
    for folder in given.collection:
        tables[folder.name] = bench(folder, given.steps)
        print(f"\n{folder.name}\n\n{table(tables[folder.name])}", flush=True)
    print(versions())
    write_json(given.json, tables)


if __name__ == "__main__":
    main()
