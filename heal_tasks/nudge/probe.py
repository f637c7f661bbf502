"""A fixed set of questions that follows a change of few rows without a look at the others.

Every question keeps the rows nearest to it, more of them than its metric counts. A row that is not kept scores at
most what the last kept one does, so after a change of some rows the kept ones and the changed ones hold the new
first places, until so many kept rows have gone or fallen that too few are left; that question is then ranked anew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]

KEPT = 40
"""Rows kept per question: 30 of them may go before ten places cannot be filled any more."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest rows of p questions.

    Args:
        ids: int64, shape (p, c), ids of rows, best first, equal scores by lower id; -1 for an empty place.
        scores: float32, shape (p, c), inner products; -inf for an empty place.
        floor: float32, shape (p,): no row that is left out scores more; -inf where none is.
    """

    ids: Int64Array
    scores: Float32Array
    floor: Float32Array

    @classmethod
    def of(cls, ids: Int64Array, scores: Float32Array) -> "Nearest":
        """From a search among all rows, whose last places are empty where there are no more rows."""
        return cls(ids, scores, np.where(ids[:, -1] < 0, -np.inf, scores[:, -1]).astype(np.float32))


def follow(
    kept: Nearest,
    queries: Float32Array,
    touched: Int64Array,
    ids: Int64Array,
    vectors: Float32Array,
    *,
    places: int,
) -> tuple[Nearest, NDArray[np.bool_]]:
    """The nearest rows after some rows came, went or changed.

    Args:
        kept: the nearest rows before.
        queries: float32, shape (p, d).
        touched: int64, shape (t,): ids of all rows that came, went or changed.
        ids: int64, shape (m,): those of them that are there now.
        vectors: float32, shape (m, d), their vectors now.
        places: how many first places have to be right.

    Returns:
        The nearest rows now, as many columns as before, and which questions have to be ranked anew: bool, shape (p,).
    """
    width = kept.ids.shape[1]
    gone = np.isin(kept.ids, touched)
    found = queries @ vectors.T  # (p, m)
    found[found <= kept.floor[:, None]] = -np.inf
    all_ids = np.concatenate([np.where(gone, -1, kept.ids), np.where(np.isinf(found), -1, ids[None, :])], axis=1)
    all_scores = np.concatenate([np.where(gone, -np.inf, kept.scores), found], axis=1)
    order = np.lexsort((all_ids, -all_scores), axis=1)
    all_ids, all_scores = (np.take_along_axis(values, order, axis=1) for values in (all_ids, all_scores))
    full = all_ids[:, width - 1] >= 0
    # Where places stay empty, the rows that were left out before still score no more than the old floor.
    cut = full & ((all_ids[:, width:] >= 0).any(axis=1) | np.isfinite(kept.floor))
    floor = np.where(cut, all_scores[:, width - 1], kept.floor).astype(np.float32)
    short = ((all_ids[:, :width] >= 0).sum(axis=1) < places) & np.isfinite(kept.floor)
    return Nearest(all_ids[:, :width], all_scores[:, :width], floor), short
