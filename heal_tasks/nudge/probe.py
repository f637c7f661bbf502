"""Updates the ranking of a fixed set of questions after some rows changed, without a search among the others.

For every question more nearest rows are kept than the metric's k. A row that is not kept scores no more than the last
kept one, so after a change the new first places are among the kept and the changed rows. Once too many kept rows have
gone or fallen, the question must be searched again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.nudge.products import Float32Array, Int64Array, block_size, blocks

KEPT = 40
"""Rows kept per question: 30 of them may go before ten places can no longer be filled."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest rows of p questions."""

    ids: Int64Array  # (p, c): ids of rows, best first, equal scores by lower id; -1 for an empty place
    scores: Float32Array  # (p, c): inner products; -inf for an empty place
    floor: Float32Array  # (p,): no row that is not kept scores more; -inf where all rows are kept

    @classmethod
    def of(cls, ids: Int64Array, scores: Float32Array) -> "Nearest":
        """Take the result of a search among all rows; the last places are empty where there are no more rows."""
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
    """Update the nearest rows after some rows were added, removed or changed.

    Args:
        kept: the nearest rows before.
        queries: shape (p, d).
        touched: shape (t,): ids of all rows that were added, removed or changed.
        ids: shape (m,): those of them that exist now.
        vectors: shape (m, d): their vectors now.
        places: number of first places that must be right.

    Returns:
        The nearest rows now, with as many columns as before; and a mask, shape (p,), of the questions that must be
        searched again.
    """
    gone = np.isin(kept.ids, touched)
    known_ids, known_scores = np.where(gone, -1, kept.ids), np.where(gone, -np.inf, kept.scores)
    parts = [
        _follow(Nearest(known_ids[part], known_scores[part], kept.floor[part]), queries[part], ids, vectors)
        for part in blocks(len(queries), block_size(len(ids), "cpu"))
    ]
    now = Nearest(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if parts else kept
    return now, ((now.ids >= 0).sum(axis=1) < places) & np.isfinite(kept.floor)


def _follow(
    kept: Nearest, queries: Float32Array, ids: Int64Array, vectors: Float32Array
) -> tuple[Int64Array, Float32Array, Float32Array]:
    """Merge the rows that exist now into the kept ones of some questions, which have lost what was touched."""
    width = kept.ids.shape[1]
    found = queries @ vectors.T  # (b, m)
    enters = found > kept.floor[:, None]
    # Few rows enter a ranking, even where all were touched: only so many columns are sorted.
    most = int(enters.sum(axis=1).max(initial=0))
    columns = np.argsort(~enters, axis=1, kind="stable")[:, :most]
    enters, found = np.take_along_axis(enters, columns, axis=1), np.take_along_axis(found, columns, axis=1)
    all_ids = np.concatenate([kept.ids, np.where(enters, ids[columns], -1)], axis=1)
    all_scores = np.concatenate([kept.scores, np.where(enters, found, -np.inf)], axis=1, dtype=np.float32)
    order = np.lexsort((all_ids, -all_scores), axis=1)
    all_ids, all_scores = (np.take_along_axis(values, order, axis=1) for values in (all_ids, all_scores))
    full = all_ids[:, width - 1] >= 0
    # If places stay empty, the old floor still holds for every row that was not kept.
    cut = full & ((all_ids[:, width:] >= 0).any(axis=1) | np.isfinite(kept.floor))
    floor = np.where(cut, all_scores[:, width - 1], kept.floor).astype(np.float32)
    return all_ids[:, :width], all_scores[:, :width], floor
