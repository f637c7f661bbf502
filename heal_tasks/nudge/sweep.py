"""The exact value of a ranking metric as a step function of the NUDGE budget.

A metric can only change where a relevant row and a competitor change places. For one question these points
are known in closed form, and between two of them the value is constant: the whole curve over all budgets
costs no more than a handful of grid points would.
"""

import re

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.candidates import Candidates
from heal_tasks.nudge.solve import move_factors


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

    def value(self, ranks: npt.NDArray[np.int64], relevant: int) -> npt.NDArray[np.float64]:
        """Value for the ranks of a question's relevant rows.

        Args:
            ranks: int64, shape (..., y), 0 for the first place.
            relevant: how many relevant rows the question has, found or not.

        Returns:
            float64, shape (...).
        """
        gained = self._gains[np.minimum(ranks, self.k)].sum(axis=-1)
        return np.asarray(gained / self._best[min(relevant, len(self._best)) - 1], dtype=np.float64)


def value_at(candidates: Candidates, positives: npt.NDArray[np.int64], metric: Metric, budget: float) -> float:
    """A question's value at one budget.

    Args:
        candidates: the rows that matter; equal scores rank by lower row.
        positives: ascending int64, shape (y,): its relevant rows.
        metric: the metric.
        budget: the budget.

    Returns:
        The value, 0 to 1.
    """
    order = np.lexsort((candidates.rows, -candidates.scores(budget)))
    relevant = np.zeros(len(order), dtype=bool)
    relevant[candidates.find(positives)] = True
    return float(metric.value(np.flatnonzero(relevant[order]), len(positives)))


def steps(
    candidates: Candidates, positives: npt.NDArray[np.int64], metric: Metric, limit: float
) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A question's value over all budgets from 0 to a limit.

    Args:
        candidates: the rows that matter.
        positives: ascending int64, shape (y,): its relevant rows.
        metric: the metric.
        limit: largest budget looked at.

    Returns:
        The value just above 0, the budgets where it changes (float64, shape (e,), ascending), and by how much.
    """
    wanted = candidates.find(positives)
    if len(wanted) == 0:
        return 0.0, np.empty(0), np.empty(0)
    y, j = (index.ravel() for index in np.meshgrid(wanted, np.arange(len(candidates.rows)), indexing="ij"))
    y, j = y[y != j], j[y != j]
    # A pair of rows that both stay never changes places, but its order still counts towards the rank.
    crossings = np.sort(np.clip(_crossings(candidates, y, j), 0.0, limit), axis=1)  # (p, r)
    ends = np.pad(crossings, ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, limit)))
    outranked = _outranks(candidates, y, j, (ends[:, 1:] + ends[:, :-1]) / 2).astype(np.int64)  # (p, r + 1)
    place = np.searchsorted(wanted, y)
    ranks = np.bincount(place, weights=outranked[:, 0], minlength=len(wanted)).astype(np.int64)  # (y,)
    change = np.diff(outranked, axis=1)
    pair, root = np.nonzero(change)
    at = crossings[pair, root]
    order = np.argsort(at, kind="stable")
    moves = np.zeros((len(order), len(wanted)), dtype=np.int64)
    moves[np.arange(len(order)), place[pair[order]]] = change[pair[order], root[order]]
    values = metric.value(np.vstack([ranks, ranks + np.cumsum(moves, axis=0)]), len(positives))  # (e + 1,)
    return float(values[0]), at[order], np.diff(values)


def best_cell(
    start: float, at: npt.NDArray[np.float64], change: npt.NDArray[np.float64], limit: float, resolution: float
) -> float:
    """The middle of the widest among the best cells of a sum of step functions.

    At the end of a cell some question is exactly tied; the middle is where rounding and the next question
    disturb least.

    Args:
        start: value just above 0.
        at: float64, shape (e,): where it changes, in any order.
        change: float64, shape (e,): by how much.
        limit: largest budget.
        resolution: narrower cells are not considered, as float32 vectors cannot hit them.

    Returns:
        The budget; 0 if there is no cell.
    """
    order = np.argsort(at, kind="stable")
    edges = np.concatenate([[0.0], at[order], [limit]])
    values = start + np.concatenate([[0.0], np.cumsum(change[order])])
    widths = np.diff(edges)
    values[widths < resolution] = -np.inf
    if not np.isfinite(values).any():
        return 0.0
    # Cumulated rounding must not decide between equal cells.
    best = np.flatnonzero(values >= values.max() - 1e-9)
    cell = best[np.argmax(widths[best])]
    return float((edges[cell] + edges[cell + 1]) / 2)


def _outranks(
    rows: Candidates, y: npt.NDArray[np.intp], j: npt.NDArray[np.intp], budgets: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    def score(index: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        p, r = move_factors(rows.arrival[index, None], budgets, rows.variant)
        return p * rows.alpha[index, None] + r * rows.beta[index, None]

    ahead, own = score(j), score(y)
    tied_before: npt.NDArray[np.bool_] = (ahead == own) & (j < y)[:, None]
    return tied_before | (ahead > own)


def _crossings(rows: Candidates, y: npt.NDArray[np.intp], j: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """All budgets where two rows may tie; some are not real, which the caller finds by looking on both sides."""
    alpha = rows.alpha[j] - rows.alpha[y]
    beta = rows.beta[j] - rows.beta[y]
    if rows.variant == "M":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(-alpha / beta, nan=0.0)[:, None]
    # While both turn: alpha cos x + beta sin x = 0.
    both = np.mod(np.arctan2(-alpha, beta), np.pi)
    # Once one stands at score c: R cos(x - phi) = c for the other.
    later = np.where(rows.arrival[j] > rows.arrival[y], j, y)
    sooner = np.where(rows.arrival[j] > rows.arrival[y], y, j)
    p, r = move_factors(rows.arrival[sooner], np.inf, "N")
    c = p * rows.alpha[sooner] + r * rows.beta[sooner]
    R = np.hypot(rows.alpha[later], rows.beta[later])
    phi = np.arctan2(rows.beta[later], rows.alpha[later])
    reach = np.arccos(np.clip(c / np.where(R > 0, R, 1.0), -1.0, 1.0))
    return np.column_stack([both, np.mod(phi + reach, 2 * np.pi), np.mod(phi - reach, 2 * np.pi)])
