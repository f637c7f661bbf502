"""The exact value of a ranking metric as a step function of theta.

A metric can only change where a relevant row and a competitor change places. For one question these points are known
in closed form, and between two of them the value is constant, so the curve over all theta costs no more than a handful
of grid points would. A metric is a sum over the relevant rows of a question, so each of them (an answer) has a rank,
and a step function, of its own.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.candidates import Candidates
from heal_tasks.nudge.products import Float64Array, Int64Array
from heal_tasks.nudge.solve import move_factors


class Metric:
    """A metric that is a sum over the ranks of a question's relevant rows.

    Args:
        name: ``accuracy@1``, ``ndcg@K`` or ``recall@K``.

    Raises:
        InputError: another name.
    """

    def __init__(self, name: str) -> None:
        match = re.fullmatch(r"(accuracy@1|ndcg@[1-9]\d*|recall@[1-9]\d*)", name)
        if match is None:
            raise InputError(f"unknown metric {name!r}; take accuracy@1, ndcg@K or recall@K, for example ndcg@10")
        self.k = int(name.split("@")[1])
        places = np.arange(2, self.k + 2)
        gains = 1.0 / np.log2(places) if name.startswith("ndcg") else np.ones(self.k)
        self._gains = np.append(gains, 0.0)
        self._best = np.cumsum(gains) if not name.startswith("accuracy") else np.ones(1)

    def gain(self, ranks: Int64Array, relevant: Int64Array) -> Float64Array:
        """Contributions of relevant rows to the values of their questions, of the shape of both arguments.

        Args:
            ranks: 0 for the first place.
            relevant: number of relevant rows that the question has, found or not.
        """
        gained: Float64Array = self._gains[np.minimum(ranks, self.k)]
        return np.asarray(gained / self._best[np.minimum(relevant, len(self._best)) - 1])


@dataclass(frozen=True, slots=True)
class StepFunction:
    """A step function of theta."""

    start: float  # value just above 0
    at: Float64Array  # (e,): theta of each step, in any order
    change: Float64Array  # (e,): change of the value there


@dataclass(frozen=True, slots=True)
class MetricCurve:
    """The metric of each question over all theta."""

    at_zero: Float64Array  # (m,): value of each question at 0
    start: Float64Array  # (m,): value just above 0, which differs where rows tie at 0
    question: Int64Array  # (e,): the question whose value changes at each step
    at: Float64Array  # (e,): theta of each step, in any order
    change: Float64Array  # (e,): change of the value there
    max_theta: float  # end of the curve

    def values(self, theta: float) -> Float64Array:
        """Value of each question at theta, shape (m,)."""
        if theta == 0:
            return self.at_zero
        past = self.at < theta
        return self.start + np.bincount(self.question[past], weights=self.change[past], minlength=len(self.start))

    def total(self, chosen: NDArray[np.bool_]) -> StepFunction:
        """The sum over some questions, a mask of shape (m,)."""
        own = chosen[self.question]
        return StepFunction(float(self.start[chosen].sum()), self.at[own], self.change[own])


def metric_curve(
    candidates: Candidates,
    positives: Sequence[Int64Array],
    metric: Metric,
    max_theta: float,
    pairs_at_once: int = 1 << 19,
) -> MetricCurve:
    """Compute the metric of each question over all theta.

    Args:
        candidates: the rows that matter; equal scores rank by lower row.
        positives: the relevant rows of each question, distinct.
        metric: of the values.
        max_theta: largest theta.
        pairs_at_once: pairs of answer and competitor in a block.
    """
    answers, relevant = _answers(candidates, positives)
    question, count = candidates.question[answers], len(answers)
    at_zero, ranks = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    changed, thetas, changes = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
    for number, y, j in _pairs(candidates.question, answers, pairs_at_once):
        # Two rows that do not move never change places, but their order still counts towards the rank.
        crossings = np.sort(np.clip(_crossings(candidates, y, j), 0.0, max_theta), axis=1)  # (p, r)
        ends = np.pad(crossings, ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, max_theta)))
        middles = (ends[:, 1:] + ends[:, :-1]) / 2
        ahead = _ahead(candidates.scores(j, middles), candidates.scores(y, middles), (j < y)[:, None])  # (p, r + 1)
        first = _ahead(candidates.alpha[j], candidates.alpha[y], j < y)
        at_zero += np.bincount(number[first], minlength=count)
        ranks += np.bincount(number[ahead[:, 0]], minlength=count)
        change = ahead[:, 1:].astype(np.int64) - ahead[:, :-1]
        pair, root = np.nonzero(change)
        changed.append(number[pair])
        thetas.append(crossings[pair, root])
        changes.append(change[pair, root])
    answer, at, moves = np.concatenate(changed), np.concatenate(thetas), np.concatenate(changes)
    order = np.lexsort((at, answer))
    answer, at, moves = answer[order], at[order], moves[order]
    # The rank of each answer after each of its changes.
    so_far = np.cumsum(moves)
    opening = np.searchsorted(answer, answer)
    after = ranks[answer] + so_far - (so_far[opening] - moves[opening])
    rise = metric.gain(after, relevant[answer]) - metric.gain(after - moves, relevant[answer])
    counts = rise != 0

    def values(ranks: Int64Array) -> Float64Array:
        gains = metric.gain(ranks, relevant)
        return np.bincount(question, weights=gains, minlength=len(positives)).astype(np.float64)

    return MetricCurve(values(at_zero), values(ranks), question[answer[counts]], at[counts], rise[counts], max_theta)


def _answers(candidates: Candidates, positives: Sequence[Int64Array]) -> tuple[Int64Array, Int64Array]:
    """Indices of the candidates that answer their question, and the number of rows that answer it."""
    sizes = np.array([len(rows) for rows in positives], dtype=np.int64)
    wanted = np.concatenate([np.empty(0, dtype=np.int64), *positives])
    # One number per (question, row) finds all answers among the candidates in one sorted lookup.
    span = max(int(wanted.max(initial=0)), int(candidates.rows.max(initial=0))) + 1
    keys = np.repeat(np.arange(len(sizes)), sizes) * span + wanted
    answers = np.flatnonzero(np.isin(candidates.question * span + candidates.rows, keys))
    return answers, sizes[candidates.question[answers]]


def _pairs(
    question: Int64Array, answers: Int64Array, pairs_at_once: int
) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
    """Answers with their competitors: number of the answer, and both rows as indices of candidates."""
    first, last = np.searchsorted(question, [question[answers], question[answers] + 1])
    sizes = last - first
    block = np.cumsum(sizes) // pairs_at_once
    for part in np.unique(block):
        chosen = np.flatnonzero(block == part)
        number = np.repeat(chosen, sizes[chosen])
        opening = np.repeat(np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen])
        j = first[number] + np.arange(len(number)) - opening
        y = answers[number]
        others = y != j
        yield number[others], y[others], j[others]


def best_cell(
    total: StepFunction, max_theta: float, *, margin: StepFunction | None = None, resolution: float = 1e-7
) -> tuple[float, float]:
    """The middle of the widest among the best intervals between two breakpoints of a step function.

    At the end of an interval some question is exactly tied; in the middle, rounding and the next question matter least.

    Args:
        total: the function to maximise.
        max_theta: largest theta.
        margin: intervals where it is below 0 are not considered; None for no such condition.
        resolution: narrower intervals are not considered, since float32 vectors cannot hit them.

    Returns:
        Theta, and the value there; 0 and ``total.start`` if there is no interval.
    """
    at, change, spare = total.at, total.change, np.zeros(len(total.at))
    if margin is not None:
        at, spare = np.concatenate([at, margin.at]), np.concatenate([spare, margin.change])
        change = np.concatenate([change, np.zeros(len(margin.at))])
    order = np.argsort(at, kind="stable")
    edges = np.concatenate([[0.0], at[order], [max_theta]])
    values = total.start + np.concatenate([[0.0], np.cumsum(change[order])])
    widths = np.diff(edges)
    values[widths < resolution] = -np.inf
    if margin is not None:
        values[margin.start + np.concatenate([[0.0], np.cumsum(spare[order])]) < -1e-9] = -np.inf
    if not np.isfinite(values).any():
        return 0.0, total.start
    # Cumulated rounding must not decide between equal intervals.
    best = np.flatnonzero(values >= values.max() - 1e-9)
    cell = best[np.argmax(widths[best])]
    return float((edges[cell] + edges[cell + 1]) / 2), float(values[cell])


def _ahead(other: Float64Array, own: Float64Array, lower: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray((other > own) | ((other == own) & lower))


def _crossings(rows: Candidates, y: Int64Array, j: Int64Array) -> Float64Array:
    """All theta where two rows may tie; some are not real, which the caller finds by comparing both sides."""
    alpha = rows.alpha[j] - rows.alpha[y]
    beta = rows.beta[j] - rows.beta[y]
    # Once one of them has stopped, its score is constant and only the other one moves.
    later = np.where(rows.arrival[j] > rows.arrival[y], j, y)
    sooner = np.where(rows.arrival[j] > rows.arrival[y], y, j)
    stops = rows.arrival[sooner]
    p, r = move_factors(np.where(np.isfinite(stops), stops, 0.0), np.inf, rows.variant)
    stopped = p * rows.alpha[sooner] + r * rows.beta[sooner]
    if rows.variant == "M":
        with np.errstate(divide="ignore", invalid="ignore"):
            lines = [-alpha / beta, (stopped - rows.alpha[later]) / rows.beta[later]]
        return np.nan_to_num(np.column_stack(lines), nan=0.0)
    # While both turn: alpha cos x + beta sin x = 0. Later: R cos(x - phi) = stopped.
    both = np.mod(np.arctan2(-alpha, beta), np.pi)
    R = np.hypot(rows.alpha[later], rows.beta[later])
    phi = np.arctan2(rows.beta[later], rows.alpha[later])
    reach = np.arccos(np.clip(stopped / np.where(R > 0, R, 1.0), -1.0, 1.0))
    return np.column_stack([both, np.mod(phi + reach, 2 * np.pi), np.mod(phi - reach, 2 * np.pi)])
