"""Measures the loss of a generation that is nudged night after night instead of being realigned.

Run from the project's root: ``python -m bench.nudge_nights --collection FOLDER``, with as many as wanted; a folder as
in ``bench.nudge_quality``, of which this uses the official split.

A realignment chooses plan and theta and computes the displacements of a contrastive plan. All are kept from then on,
and a row depends on its own questions alone. So the result depends on what has arrived, not on the number of nights.

**Arrivals.** *questions*: a share of the train and dev questions arrives later, about documents that were there.
*documents*: a share of the documents arrives later, each with the questions about it.

**Ways**, each judged by all test questions over all documents (nDCG@10). *base*. *kept*: rows as the realignment left
them, late documents as the encoder put them. *nudged*: the late questions move their rows by the kept plan and theta,
as the nudge route does; rows that had no questions are displaced by the earlier questions. *not displaced*: these rows
are not. *realigned*: everything chosen again with all questions. *lost* is nudged less realigned, with its 95 %
bootstrap interval.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import parent_parser, table, versions, write_json
from bench.nudge_quality import (
    METRIC,
    MIN_GAIN,
    PARTS,
    SEED,
    System,
    Vectors,
    apply,
    both,
    load_splits,
    note_of,
    score,
)
from heal_tasks.evaluation.bootstrap import paired_difference
from heal_tasks.nudge.apply import MovedRows, move_rows
from heal_tasks.nudge.contrast import Displacements, displace
from heal_tasks.nudge.nudge import NudgeResult, QuestionSet, nudge
from heal_tasks.nudge.plan import PLANS
from heal_tasks.nudge.questions import clean_questions
from heal_tasks.nudge.solve import gradients

SHARES = (0.05, 0.1, 0.25, 0.5)


def realigned(base: Vectors, train: QuestionSet, dev: QuestionSet) -> NudgeResult:
    """Plan, theta, centre, displacements and rows, chosen as the pipeline's step does."""
    return nudge(base, train, dev, plans=PLANS, min_gain=MIN_GAIN, refit=both(train, dev), seed=SEED)


def nudged(base: Vectors, known: NudgeResult, displacements: Displacements, questions: QuestionSet) -> MovedRows:
    """Move rows by all questions, with the record of an earlier choice."""
    return move_rows(base, questions, known.record(), displacements=displacements)


def before(
    base: Vectors, parts: Mapping[str, QuestionSet], arriving: str, share: float
) -> tuple[NudgeResult, NDArray[np.int64]]:
    """What a realignment chose when the late ones had not come, its rows by their numbers in ``base``.

    Returns:
        The result, and which of all questions, train and then dev, it was refitted with.
    """
    rng = np.random.default_rng(SEED)
    there = np.arange(len(base))
    if arriving == "documents":
        there = np.flatnonzero(rng.random(len(base)) >= share)
    place = np.full(len(base), -1, dtype=np.int64)
    place[there] = np.arange(len(there))
    early, chosen, first = [], [], 0
    for name in ("train", "dev"):
        part = parts[name]
        answers = [place[rows][place[rows] >= 0] for rows in part.positives]
        left = np.array([len(rows) > 0 for rows in answers])
        if arriving == "questions":
            left &= rng.random(len(left)) >= share
        rows = np.flatnonzero(left)
        early.append(QuestionSet(part.vectors[rows], [answers[row] for row in rows]))
        chosen.append(first + rows)
        first += len(left)
    found = realigned(base[there], *early)
    displacements = replace(found.displacements, rows=there[found.displacements.rows])
    return replace(found, rows=there[found.rows], displacements=displacements), np.concatenate(chosen)


def with_late(base: Vectors, known: NudgeResult, early: NDArray[np.int64], everything: QuestionSet) -> Displacements:
    """Displacements of an earlier choice, and of rows that had no questions then, as the nudge route adds them."""
    levels, plan = known.displacements.levels, known.plan
    if not plan.contrast_steps:
        return known.displacements
    asked = clean_questions(everything, n_rows=len(base), dims=base.shape[1], what="late")
    pairs, shares = asked.pairs()
    rows, G = gradients(asked.vectors, pairs, plan.weights(shares), centre=known.centre if plan.centred else None)
    late = ~np.isin(rows, known.displacements.rows)
    then = early[levels.questions]
    answers = [np.intersect1d(everything.positives[name], rows[late]) for name in then]
    owners = np.repeat(np.arange(len(then)), [len(found) for found in answers])
    places = np.column_stack([owners, np.searchsorted(rows[late], np.concatenate(answers))])
    found, _ = displace(
        everything.vectors[then], base[rows[late]], places, levels.weights, G[late], prior=plan.prior,
        steps=plan.contrast_steps, log_sum_exp=levels.log_sum_exp,
    )  # fmt: skip
    return known.displacements.and_of(rows[late], found)


def compare(base: Vectors, parts: Mapping[str, QuestionSet], shares: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each way of arriving and share."""
    test, everything = parts["test"], both(parts["train"], parts["dev"])

    def judged(result: NudgeResult | MovedRows) -> NDArray[np.float64]:
        return score(apply(base, result), test)[METRIC]

    first, again = score(System(base), test)[METRIC], judged(realigned(base, parts["train"], parts["dev"]))
    rows = []
    for arriving in ("questions", "documents"):
        for share in shares:
            known, early = before(base, parts, arriving, share)
            displacements = with_late(base, known, early, everything) if known.adopted else known.displacements
            late = judged(nudged(base, known, displacements, everything))
            lost = paired_difference(late, again, seed=SEED)
            rows.append({
                "arriving": arriving, "share": f"{share:.0%}", "base": float(first.mean()),
                "kept": float(judged(known).mean()), "nudged": float(late.mean()),
                "not displaced": float(judged(nudged(base, known, known.displacements, everything)).mean()),
                "realigned": float(again.mean()), "lost": f"{lost.value:+.4f} [{lost.low:+.4f}, {lost.high:+.4f}]",
                "plan kept": note_of(known),
            })  # fmt: skip
    return rows


def main() -> None:
    """Print one table for each collection."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, action="append", required=True, metavar="FOLDER")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="arriving later (default %(default)s)")
    arguments = parser.parse_args()
    print(versions())
    tables = {}
    for folder in arguments.collection:
        base, splits = load_splits(folder)
        name = folder.resolve().name
        sizes = ", ".join(f"{len(splits['official'][part].positives)} {part}" for part in PARTS)
        tables[name] = compare(base, splits["official"], arguments.shares)
        print(f"\n{name} ({len(base)} documents; questions: {sizes})\n\n{table(tables[name])}", flush=True)
    write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
