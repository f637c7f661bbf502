"""The metrics by which encoders and systems are judged: their keys, their names for readers, and topic agreement."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

TOP_K = 10
"""Places of a ranking that count."""
Metric = Literal["ndcg@10", "topic_agreement@10"]
NDCG: Metric = "ndcg@10"
TOPIC_AGREEMENT: Metric = "topic_agreement@10"


def metric_name(metric: str) -> str:
    """The key of a metric as a reader sees it: ``ndcg@10`` is nDCG@10, ``topic_agreement@10`` is topic agreement@10."""
    return metric.replace("ndcg", "nDCG").replace("_", " ")


def topic_agreement(found_paths: NDArray[np.integer], own_paths: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of the levels of each document's topic path that the documents found for it share, on average.

    Args:
        found_paths: shape (m, k, L): paths of the nearest other documents, topic ids from level 1 down, unique in the
            whole tree; -1 after a path's end, and all -1 for an empty place, which shares nothing.
        own_paths: shape (m, L), padded alike, each with at least one level.

    Returns:
        Values from 0 to 1, float64, shape (m,).
    """
    own = own_paths[:, None, :]  # (m, 1, L)
    shared = ((found_paths == own) & (own >= 0)).sum(axis=(1, 2))
    return np.asarray(shared / (found_paths.shape[1] * (own_paths >= 0).sum(axis=1)), dtype=np.float64)
