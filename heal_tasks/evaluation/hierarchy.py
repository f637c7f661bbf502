"""Agreement of retrieved documents with the topic tree: hierarchical precision, recall and F1, and topic agreement.

The first three are only reported. Definitions of Kiritchenko, Matwin, Nock, Famili 2006 (shared ancestors over
ancestors of the prediction and of the truth), pooled over all pairs of question and retrieved document; the definition
in the HEAL paper (arXiv 2412.04661) is not known.
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


def topic_agreement(found_paths: NDArray[np.integer], own_paths: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of the levels of each document's topic path that the documents found for it share, on average.

    Args:
        found_paths: shape (m, k, L): paths of the nearest other documents, as in ``hierarchical_scores``; of an empty
            place all -1, which shares nothing.
        own_paths: shape (m, L), each with at least one level.

    Returns:
        Values from 0 to 1, float64, shape (m,).
    """
    own = own_paths[:, None, :]  # (m, 1, L)
    shared = ((found_paths == own) & (own >= 0)).sum(axis=(1, 2))
    return np.asarray(shared / (found_paths.shape[1] * (own_paths >= 0).sum(axis=1)), dtype=np.float64)


def _scores(suffix: str, shared: int, predicted: int, wanted: int) -> dict[str, float]:
    return {
        f"precision{suffix}": shared / predicted if predicted else 0.0,
        f"recall{suffix}": shared / wanted if wanted else 0.0,
        f"f1{suffix}": 2 * shared / (predicted + wanted) if predicted + wanted else 0.0,
    }
