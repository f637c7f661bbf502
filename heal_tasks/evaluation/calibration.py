"""Relevance: the probability that a row answers a question, as a function of its score."""

import numpy as np
from numpy.typing import NDArray

Curve = dict[str, list[float]]
"""Points of a piecewise linear curve: ``scores``, ascending, and ``shares``, from 0 to 1; empty without rows."""
MOST_POINTS = 24
"""Points of a stored curve; more follow the noise of a few hundred questions."""


def relevance_curve(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> Curve:
    """Fit the share of right rows as a rising function of the score, by isotonic regression.

    Args:
        scores: of found rows, shape (m,).
        right: whether each answers its question, shape (m,).

    Returns:
        The points of a piecewise linear curve: ``scores``, ascending, and ``shares``, from 0 to 1; empty without rows.
    """
    if not len(scores):
        return {}
    from sklearn.isotonic import IsotonicRegression  # takes a second

    order = np.argsort(scores)
    ascending = np.asarray(scores, dtype=np.float64)[order]
    shares = IsotonicRegression(y_min=0, y_max=1).fit_transform(ascending, right[order].astype(np.float64))
    at = np.unique(np.linspace(0, len(ascending) - 1, MOST_POINTS).round().astype(np.int64))
    kept, first = np.unique(ascending[at].round(6), return_index=True)
    return {"scores": kept.tolist(), "shares": shares[at[first]].round(6).tolist()}
