"""Project chunk vectors before and after alignment onto planes, and estimate the density of topics there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

Float64Array = NDArray[np.float64]

FEWEST_POINTS = 12
"""A topic with fewer points has no contours."""

INSIDE = (0.5, 0.9)
"""Shares of a topic's points inside its contours."""

_GRID, _THINNEST = 60, 1e-6


@dataclass(frozen=True)
class Plane:
    """A projection of chunks."""

    title: str  # "before" or "after"
    points: Float64Array  # (n, 2), within [-1, 1]
    note: str  # share of the variance that the plane holds, and the silhouette of the topics


def project(
    before: NDArray[np.floating], after: NDArray[np.floating], topics: NDArray[np.integer]
) -> tuple[Plane, Plane]:
    """Project the same chunks in two vector spaces, each onto the plane of its largest variance (PCA).

    Both planes have one scale, and the second is rotated (orthogonal Procrustes) to match the first.

    Args:
        before: shape (n, d), n at least 3.
        after: shape (n, d').
        topics: shape (n,), topic of each chunk.
    """
    (first, note), (second, note_after) = (_plane(vectors, topics) for vectors in (before, after))
    # PCA leaves rotation and reflection open; without this they would be the most visible difference.
    second = second @ orthogonal_procrustes(second, first)[0]
    scale = 1.12 * max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-9)
    return Plane("before", first / scale, note), Plane("after", second / scale, note_after)


def estimate_density(points: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array] | None:
    """Estimate the density of points within [-1, 1], shape (n, 2), with Gaussian kernels.

    Returns:
        Ticks of a grid, float64, shape (g,), for x and y; densities, shape (g, g), rows by y; ascending densities
        whose contours hold the shares ``INSIDE`` of the points. None for too few points or points on a line.
    """
    if len(points) < FEWEST_POINTS or np.linalg.eigvalsh(np.cov(points.T))[0] < _THINNEST:
        return None
    kernels, ticks = gaussian_kde(points.T), np.linspace(-1, 1, _GRID)
    grid = np.stack(np.meshgrid(ticks, ticks)).reshape(2, -1)
    levels = np.unique(np.quantile(kernels(points.T), [1 - share for share in INSIDE]))
    return ticks, kernels(grid).reshape(_GRID, _GRID), levels


def _plane(vectors: NDArray[np.floating], topics: NDArray[np.integer]) -> tuple[Float64Array, str]:
    """Centred coordinates, shape (n, 2), and the note."""
    pca = PCA(n_components=2, svd_solver="full")
    with np.errstate(invalid="ignore"):  # identical vectors have no variance: the share is 0/0
        points = pca.fit_transform(vectors.astype(np.float64))
    note = f"{np.nan_to_num(pca.explained_variance_ratio_.sum()):.0%} of the variance"
    if 2 <= len(np.unique(topics)) < len(topics):
        note += f", silhouette of the topics {silhouette_score(vectors, topics, metric='cosine'):+.3f}"
    return points, note
