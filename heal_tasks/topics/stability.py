"""Agreement of the topics of repeated factorisations: optimal assignment, and silhouettes on angles."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from heal_tasks.topics.operand import Floats

_ROUNDS = 20


def align(topics: Floats, first: int) -> tuple[Floats, NDArray[np.intp]]:
    """Assign the topics of every run to shared centroids, starting from those of one run.

    Args:
        topics: shape (runs, k, v), rows of unit length.
        first: the run to start from.

    Returns:
        Centroids, shape (k, v), unit rows; and per run the topic of each centroid, shape (runs, k).
    """
    centroids = topics[first]
    order = np.zeros(topics.shape[:2], np.intp)
    for _ in range(_ROUNDS):
        before = order
        order = np.stack([linear_sum_assignment(centroids @ run.T, maximize=True)[1] for run in topics])
        centroids = unit_rows(reorder(topics, order).mean(axis=0))
        if np.array_equal(before, order):
            break
    return centroids, order


def reorder(runs: Floats, order: NDArray[np.intp]) -> Floats:
    """Put the topics of each run, shape (runs, k, d), into the order of shape (runs, k) that ``align`` found."""
    return np.take_along_axis(runs, order[:, :, None], axis=1)


def silhouettes(runs: Floats) -> NDArray[np.float64]:
    """Mean silhouette of each topic, shape (k,), over aligned runs, on the angle between factors; 1 for k = 1.

    ``runs`` has shape (runs, k, d) with rows of unit length or zero, topic j of every run aligned.
    """
    count, k, _ = runs.shape
    if k == 1:
        return np.ones(1)
    flat = runs.reshape(count * k, -1)
    angles = np.arccos(np.clip(flat @ flat.T, -1, 1)).astype(np.float64)
    np.fill_diagonal(angles, 0)
    to_topic = angles.reshape(count, k, count, k).sum(axis=2)  # (run, topic, other topic)
    own = np.arange(k)
    inside = to_topic[:, own, own] / (count - 1)
    to_topic[:, own, own] = np.inf
    nearest = to_topic.min(axis=2) / count
    widest = np.maximum(np.maximum(inside, nearest), 1e-12)
    return np.asarray(((nearest - inside) / widest).mean(axis=0))


def unit_rows(factors: Floats) -> Floats:
    """Scale rows to unit Euclidean length; zero rows stay zero."""
    norms = np.linalg.norm(factors, axis=-1, keepdims=True)
    return np.ascontiguousarray(factors / np.maximum(norms, 1e-12))
