"""Documents with questions, random problems, and the slow, obvious computations that the tests compare with."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from heal_tasks.nudge.apply import MovedRows, move_rows
from heal_tasks.nudge.contrast import Displacements
from heal_tasks.nudge.plan import PLAIN
from heal_tasks.nudge.questions import CleanQuestions, QuestionSet
from heal_tasks.nudge.solve import apply_moves, plan_moves

D = 32
METRICS = ["accuracy@1", "ndcg@10", "recall@10", "ndcg@3"]
ANY_PROBLEM = {
    "seed": st.integers(0, 2**32 - 1),
    "variant": st.sampled_from(["N", "M"]),
    "metric": st.sampled_from(METRICS),
    "a": st.integers(1, 30),
    "position": st.floats(0.001, 0.999),
}
"""Draws of a random problem, a metric, and a theta as a share of the largest."""


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Documents whose questions lie off them in a fixed direction of each document's own, plus noise."""

    def __init__(self, seed=0, n=300, noise=0.5, cone=0.0):
        self.rng = np.random.default_rng(seed)
        self.documents = unit(self.rng.standard_normal((n, D)))
        self.targets = unit(self.documents + 1.2 * unit(self.rng.standard_normal((n, D))))
        self.noise, self.cone = noise, cone

    def ask(self, rows):
        rows = np.asarray(rows)
        noise = self.noise * self.rng.standard_normal((len(rows), D)) / np.sqrt(D)
        vectors = unit(self.targets[rows] + noise * 2 + self.cone * np.eye(D)[0])
        return QuestionSet(vectors, [np.array([row]) for row in rows])


def none(dims=D):
    return QuestionSet(np.empty((0, dims), dtype=np.float32), [])


def both(a, b):
    return QuestionSet(np.vstack([a.vectors, b.vectors]), [*a.positives, *b.positives])


def moved_by(
    base, questions, theta, *, variant="N", plan=PLAIN, centre=None, displacements: Displacements | None = None
) -> MovedRows:
    """Rows moved by a plan and theta, without a search."""
    return move_rows(base, questions, plan.record(variant, theta, centre), displacements=displacements)


def served(base, result):
    rows = np.array(base, dtype=np.float32)
    rows[result.rows] = result.vectors
    return rows


def accuracy(documents, questions):
    best = (questions.vectors @ documents.T).argmax(axis=1)
    return np.mean([row in wanted for row, wanted in zip(best, questions.positives, strict=True)])


def problem(seed, *, n=60, a=20, m=15, d=5, variant="N", answers=2, prior=0.0):
    """Random rows, of which some move, and questions near random rows."""
    rng = np.random.default_rng(seed)
    base = unit(rng.standard_normal((n, d)))
    moved = np.sort(rng.choice(n, a, replace=False))
    moves = plan_moves(base[moved], rng.standard_normal((a, d)).astype(np.float32), variant, prior)
    positives = tuple(np.sort(rng.choice(n, rng.integers(1, answers + 1), replace=False)) for _ in range(m))
    vectors = unit(np.array([base[rows].sum(axis=0) for rows in positives]) + 0.7 * rng.standard_normal((m, d)))
    return CleanQuestions(vectors, positives, np.arange(len(positives))), base, moved, moves


def slow_values(validation, base, moved, moves, metric, theta):
    """The metric of each question from the full, moved matrix."""
    rows = base.copy()
    rows[moved] = apply_moves(base[moved], moves, theta)
    k = min(int(metric.split("@")[1]), len(rows))
    order = np.argsort(-(validation.vectors @ rows.T), axis=1, kind="stable")[:, :k]
    relevant = np.zeros((len(order), len(rows)))
    for row, wanted in enumerate(validation.positives):
        relevant[row, wanted] = 1.0
    discounts = 1 / np.log2(np.arange(2, k + 2)) if metric.startswith("ndcg") else np.ones(k)
    ideal = -np.sort(-relevant, axis=1)[:, :k] @ discounts
    return np.take_along_axis(relevant, order, axis=1) @ discounts / ideal


def slow_unasked_values(validation, base, moved, moves, metric, theta):
    """The metric of each question where its own answers alone stay as they were."""
    values = []
    for number, wanted in enumerate(validation.positives):
        one = CleanQuestions(validation.vectors[number : number + 1], (wanted,), np.array([number]))
        others = ~np.isin(moved, wanted)
        stayed = replace(moves, directions=moves.directions[others], arrival=moves.arrival[others])
        values.append(slow_values(one, base, moved[others], stayed, metric, theta)[0])
    return np.array(values)
