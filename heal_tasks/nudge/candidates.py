"""Finds, for one question, the few rows that any budget can bring into its first k places.

Everything else can be forgotten: a row that is never among the best k can neither be a hit nor push a hit
out. On real collections some dozens of rows remain, which is what makes an exact search cheap.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.nudge.solve import Moves, Variant, move_factors

_SEGMENTS = 8
# Scores come from a float32 product; a row this close to the bound is kept.
_ROUNDING = 2e-6


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that matter for one question; a row's score at budget x is p(x) alpha + r(x) beta.

    Args:
        rows: int64, shape (c,), ascending.
        alpha: float64, shape (c,): similarity to the base vector.
        beta: float64, shape (c,): similarity to the direction of the move; 0 for rows that stay.
        arrival: float64, shape (c,): budget at which the row stops; 0 for rows that stay.
        variant: N or M.
    """

    rows: npt.NDArray[np.int64]
    alpha: npt.NDArray[np.float64]
    beta: npt.NDArray[np.float64]
    arrival: npt.NDArray[np.float64]
    variant: Variant

    def find(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Where those of some rows that are here stand, intp, ascending for ascending rows."""
        place = np.searchsorted(self.rows, rows)
        place = place[place < len(self.rows)]
        here: npt.NDArray[np.bool_] = self.rows[place] == rows[: len(place)]
        return place[here]

    def scores(self, budget: float) -> npt.NDArray[np.float64]:
        """Scores at a budget, float64, shape (c,)."""
        p, r = move_factors(self.arrival, budget, self.variant)
        return p * self.alpha + r * self.beta


class Pruner:
    """Holds what all questions share: the moved rows, and their factors at a few budgets.

    Between two neighbouring budgets a score is a sinusoid (N) or a line (M), so its values at both ends bound
    it: a sinusoid over an interval of width h has its peak within h/2 of an end, hence max <= larger end / cos(h/2).
    """

    def __init__(self, n_rows: int, moved: npt.NDArray[np.int64], moves: Moves, *, limit: float, k: int) -> None:
        spacing = np.linspace(0.0, 1.0, _SEGMENTS + 1)[:, None]
        # Steps of NUDGE-M have a wide range and do their work early in it; lines need no even spacing.
        budgets = limit * (spacing if moves.variant == "N" else spacing**2)
        p, r = move_factors(moves.arrival[None, :], budgets, moves.variant)  # (S + 1, a)
        self._p = p.astype(np.float32)
        self._r = r.astype(np.float32)
        self._bend = float(np.cos(limit / _SEGMENTS / 2)) if moves.variant == "N" else 1.0
        self._groups = np.arange(0, n_rows, max(1, n_rows // (16 * k)))
        self._moved = moved
        self._arrival = moves.arrival
        self._variant: Variant = moves.variant
        self._k = k

    def candidates(self, alpha: npt.NDArray[np.float32], beta: npt.NDArray[np.float32]) -> Candidates:
        """Prune for one question.

        Args:
            alpha: float32, shape (n,): similarity to every base vector.
            beta: float32, shape (a,): similarity to every direction.

        Returns:
            A superset of the rows that are among the best k at some budget.
        """
        k = self._k
        start = alpha[self._moved]
        static = alpha.copy()
        static[self._moved] = -np.inf
        ends = self._p * start + self._r * beta  # (S + 1, a)
        lows = np.minimum(ends[:-1], ends[1:])  # (S, a)
        lows = np.where(lows < 0, lows / self._bend, lows)
        # Any k rows give a valid floor. The best of each group of rows that stay and those that rise highest give a
        # good one, for less than the sorting of all rows.
        leaders = np.maximum.reduceat(static, self._groups)
        leaders = leaders[_top(leaders, k)]
        held = np.concatenate([np.tile(leaders, (_SEGMENTS, 1)), lows[:, _top(ends.max(axis=0), 4 * k)]], axis=1)
        floor = np.full(_SEGMENTS, -np.inf)
        if held.shape[1] >= k:
            floor = np.partition(held, -k, axis=1)[:, -k].astype(np.float64)
        bar = np.where(floor > 0, floor * self._bend, floor) - _ROUNDING
        at_end = np.minimum(np.append(bar, np.inf), np.insert(bar, 0, np.inf)).astype(np.float32)
        rising = np.flatnonzero((ends >= at_end[:, None]).any(axis=0))
        staying = np.flatnonzero(static >= max(floor.min() - _ROUNDING, np.finfo(np.float32).min))
        rows = np.concatenate([staying, self._moved[rising]])
        order = np.argsort(rows)
        none = np.zeros(len(staying))
        return Candidates(
            rows[order],
            np.concatenate([static[staying], start[rising]]).astype(np.float64)[order],
            np.concatenate([none, beta[rising]])[order],
            np.concatenate([none, self._arrival[rising]])[order],
            self._variant,
        )


def _top(values: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.intp]:
    return np.argpartition(values, -k)[-k:] if k < len(values) else np.arange(len(values))
