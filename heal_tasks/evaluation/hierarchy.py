"""Hierarchical precision, recall and F1 of retrieved documents over the topic tree, reported beside nDCG.

Not used by the gate, because the model was trained on these labels. Definitions of Kiritchenko, Matwin, Nock, Famili
2006 (shared ancestors over ancestors of the prediction and of the truth), pooled over all pairs of question and
retrieved document; the definition in the HEAL paper (arXiv 2412.04661) is not known.
"""

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError


def hierarchical_scores(retrieved_paths: NDArray[np.integer], query_paths: NDArray[np.integer]) -> dict[str, float]:
    """Compare the label paths of retrieved documents with the path of each question's own document.

    Args:
        retrieved_paths: shape (m, k, L): topic ids, unique in the whole tree, from level 1 down; -1 where a path has
            ended or a place is empty.
        query_paths: shape (m, L): paths of the questions' documents, padded alike.

    Returns:
        ``precision``, ``recall`` and ``f1`` over all levels, and ``precision@level1`` etc. for each level that a path
        reaches. A ratio without a denominator is 0.

    Raises:
        InputError: the shapes do not fit.
    """
    if retrieved_paths.ndim != 3 or query_paths.shape != (retrieved_paths.shape[0], retrieved_paths.shape[2]):
        raise InputError(
            f"retrieved paths of shape {retrieved_paths.shape} do not fit question paths of shape {query_paths.shape}; "
            "expected (m, k, L) and (m, L)"
        )
    truth = query_paths[:, None, :]  # (m, 1, L)
    shared = ((retrieved_paths == truth) & (truth >= 0)).sum(axis=(0, 1))  # (L,)
    predicted = (retrieved_paths >= 0).sum(axis=(0, 1))
    wanted = (query_paths >= 0).sum(axis=0) * retrieved_paths.shape[1]
    scores = _scores("", int(shared.sum()), int(predicted.sum()), int(wanted.sum()))
    for level in range(query_paths.shape[1]):
        if predicted[level] or wanted[level]:
            scores |= _scores(f"@level{level + 1}", int(shared[level]), int(predicted[level]), int(wanted[level]))
    return scores


def _scores(suffix: str, shared: int, predicted: int, wanted: int) -> dict[str, float]:
    return {
        f"precision{suffix}": shared / predicted if predicted else 0.0,
        f"recall{suffix}": shared / wanted if wanted else 0.0,
        f"f1{suffix}": 2 * shared / (predicted + wanted) if predicted + wanted else 0.0,
    }
