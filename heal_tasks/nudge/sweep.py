"""The exact value of a ranking metric as a step function of the NUDGE budget.

A metric can only change where a relevant row and a competitor change places. For one question these points
are known in closed form, and between two of them the value is constant: the whole curve over all budgets
costs no more than a handful of grid points would. A metric adds up over the relevant rows of a question, so each
of them (an answer) has a rank, and a step function, of its own.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.candidates import Candidates
from heal_tasks.nudge.solve import move_factors

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_PAIRS_AT_ONCE = 1 << 19


class Metric:
    """A metric that adds up over the ranks of a question's relevant rows.

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
        """What a relevant row adds to its question's value.

        Args:
            ranks: int64, any shape, 0 for the first place.
            relevant: int64, of that shape: how many relevant rows the question has, found or not.

        Returns:
            float64, of that shape.
        """
        gained: Float64Array = self._gains[np.minimum(ranks, self.k)]
        return np.asarray(gained / self._best[np.minimum(relevant, len(self._best)) - 1])


@dataclass(frozen=True, slots=True)
class Steps:
    """Values over all budgets.

    Args:
        start: float64, shape (m,): value of each question just above 0.
        question: int64, shape (e,): whose value changes,
        at: float64, shape (e,): at which budget,
        change: float64, shape (e,): and by how much; in no order.
    """

    start: Float64Array
    question: Int64Array
    at: Float64Array
    change: Float64Array


class Ranking:
    """The relevant rows of some questions among their candidates.

    Args:
        candidates: the rows that matter; equal scores rank by lower row.
        positives: the relevant rows of each question, distinct int64, shape (y,).
        metric: what to measure.
    """

    def __init__(self, candidates: Candidates, positives: Sequence[Int64Array], metric: Metric) -> None:
        self._candidates = candidates
        self._metric = metric
        self._m = len(positives)
        relevant = np.array([len(rows) for rows in positives], dtype=np.int64)
        wanted = np.concatenate([np.empty(0, dtype=np.int64), *positives])
        # One number per (question, row) finds all answers among the candidates in one sorted lookup.
        span = max(int(wanted.max(initial=0)), int(candidates.rows.max(initial=0))) + 1
        keys = np.repeat(np.arange(self._m), relevant) * span + wanted
        self._answers = np.flatnonzero(np.isin(candidates.question * span + candidates.rows, keys))
        self._question = candidates.question[self._answers]
        self._relevant = relevant[self._question]
        self._first, self._last = np.searchsorted(
            candidates.question, [self._question, self._question + 1]
        )  # competitors of each answer

    def values(self, budgets: npt.ArrayLike) -> Float64Array:
        """Value of each question.

        Args:
            budgets: one for all questions, or one for each, float, shape (m,).

        Returns:
            float64, shape (m,), 0 to 1.
        """
        each = np.broadcast_to(np.asarray(budgets, dtype=np.float64), self._m)[self._candidates.question]
        scores = self._candidates.scores(each)
        ranks = np.zeros(len(self._answers), dtype=np.int64)
        for answer, y, j in self._pairs():
            ranks += np.bincount(answer, weights=_ahead(scores[j], scores[y], j < y), minlength=len(ranks)).astype(int)
        gains = self._metric.gain(ranks, self._relevant)
        return np.bincount(self._question, weights=gains, minlength=self._m).astype(np.float64)

    def steps(self, limit: float) -> Steps:
        """Values over all budgets from 0 to a limit."""
        ranks = np.zeros(len(self._answers), dtype=np.int64)
        answers, budgets, changes = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
        for answer, y, j in self._pairs():
            # Rows that both stay never change places, but their order still counts towards the rank.
            crossings = np.sort(np.clip(_crossings(self._candidates, y, j), 0.0, limit), axis=1)  # (p, r)
            ends = np.pad(crossings, ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, limit)))
            middles = (ends[:, 1:] + ends[:, :-1]) / 2
            scores = self._candidates.scores
            ahead = _ahead(scores(middles, j), scores(middles, y), (j < y)[:, None])  # (p, r + 1)
            ranks += np.bincount(answer, weights=ahead[:, 0], minlength=len(ranks)).astype(int)
            change = ahead[:, 1:].astype(np.int64) - ahead[:, :-1]
            pair, root = np.nonzero(change)
            answers.append(answer[pair])
            budgets.append(crossings[pair, root])
            changes.append(change[pair, root])
        answer, at, moves = np.concatenate(answers), np.concatenate(budgets), np.concatenate(changes)
        order = np.lexsort((at, answer))
        answer, at, moves = answer[order], at[order], moves[order]
        so_far = np.cumsum(moves)
        opening = np.searchsorted(answer, answer)
        after = ranks[answer] + so_far - (so_far[opening] - moves[opening])
        gain, relevant = self._metric.gain, self._relevant
        start = np.bincount(self._question, weights=gain(ranks, relevant), minlength=self._m).astype(np.float64)
        rise = gain(after, relevant[answer]) - gain(after - moves, relevant[answer])
        felt = rise != 0
        return Steps(start, self._question[answer[felt]], at[felt], rise[felt])

    def _pairs(self) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
        """Answers with their competitors: number of the answer, and both rows as places among the candidates."""
        sizes = self._last - self._first
        block = np.cumsum(sizes) // _PAIRS_AT_ONCE
        for number in np.unique(block):
            chosen = np.flatnonzero(block == number)
            answer = np.repeat(chosen, sizes[chosen])
            opening = np.repeat(np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen])
            j = self._first[answer] + np.arange(len(answer)) - opening
            y = self._answers[answer]
            others = y != j
            yield answer[others], y[others], j[others]


@dataclass(frozen=True, slots=True)
class Margin:
    """A step function of the budget that must not fall below 0.

    Args:
        start: value just above 0.
        at: float64, shape (e,): where it changes, in any order.
        change: float64, shape (e,): by how much.
    """

    start: float
    at: Float64Array
    change: Float64Array


def best_cell(
    start: float, at: Float64Array, change: Float64Array, limit: float, resolution: float, margin: Margin | None = None
) -> tuple[float, float]:
    """The middle of the widest among the best cells of a sum of step functions.

    At the end of a cell some question is exactly tied; the middle is where rounding and the next question
    disturb least.

    Args:
        start: value just above 0.
        at: float64, shape (e,): where it changes, in any order.
        change: float64, shape (e,): by how much.
        limit: largest budget.
        resolution: narrower cells are not considered, as float32 vectors cannot hit them.
        margin: where it is below 0, cells are not considered.

    Returns:
        The budget, and the value there; 0 and ``start`` if there is no cell.
    """
    spare = np.zeros(len(at))
    if margin is not None:
        at, spare = np.concatenate([at, margin.at]), np.concatenate([spare, margin.change])
        change = np.concatenate([change, np.zeros(len(margin.at))])
    order = np.argsort(at, kind="stable")
    edges = np.concatenate([[0.0], at[order], [limit]])
    values = start + np.concatenate([[0.0], np.cumsum(change[order])])
    widths = np.diff(edges)
    values[widths < resolution] = -np.inf
    if margin is not None:
        values[margin.start + np.concatenate([[0.0], np.cumsum(spare[order])]) < -1e-9] = -np.inf
    if not np.isfinite(values).any():
        return 0.0, start
    # Cumulated rounding must not decide between equal cells.
    best = np.flatnonzero(values >= values.max() - 1e-9)
    cell = best[np.argmax(widths[best])]
    return float((edges[cell] + edges[cell + 1]) / 2), float(values[cell])


def _ahead(other: Float64Array, own: Float64Array, lower: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray((other > own) | ((other == own) & lower))


def _crossings(rows: Candidates, y: Int64Array, j: Int64Array) -> Float64Array:
    """All budgets where two rows may tie; some are not real, which the caller finds by looking on both sides."""
    alpha = rows.alpha[j] - rows.alpha[y]
    beta = rows.beta[j] - rows.beta[y]
    # Once one of them stands at a score, only the other one moves.
    later = np.where(rows.arrival[j] > rows.arrival[y], j, y)
    sooner = np.where(rows.arrival[j] > rows.arrival[y], y, j)
    stops = rows.arrival[sooner]
    p, r = move_factors(np.where(np.isfinite(stops), stops, 0.0), np.inf, rows.variant)
    standing = p * rows.alpha[sooner] + r * rows.beta[sooner]
    if rows.variant == "M":
        with np.errstate(divide="ignore", invalid="ignore"):
            lines = [-alpha / beta, (standing - rows.alpha[later]) / rows.beta[later]]
        return np.nan_to_num(np.column_stack(lines), nan=0.0)
    # While both turn: alpha cos x + beta sin x = 0. Later: R cos(x - phi) = standing.
    both = np.mod(np.arctan2(-alpha, beta), np.pi)
    R = np.hypot(rows.alpha[later], rows.beta[later])
    phi = np.arctan2(rows.beta[later], rows.alpha[later])
    reach = np.arccos(np.clip(standing / np.where(R > 0, R, 1.0), -1.0, 1.0))
    return np.column_stack([both, np.mod(phi + reach, 2 * np.pi), np.mod(phi - reach, 2 * np.pi)])
