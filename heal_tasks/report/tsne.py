"""Project chunk vectors before and after alignment onto planes with t-SNE, and estimate the density of topics there.

HEAL shows its effect by such a picture. The axes of t-SNE have no meaning, nor have distances between groups: it keeps
neighbours together. PCA, which keeps distances, shows a tenth of the variance of 384 dimensions on its plane, and the
topics on top of each other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Float64Array = NDArray[np.float64]

FEWEST_POINTS = 12
"""A topic with fewer points has no contours."""

INSIDE = (0.5, 0.9)
"""Shares of a topic's points inside its contours."""

PERPLEXITY = 30
ITERATIONS = 500
"""1.6 CPU seconds for 1,000 chunks; 1,000 iterations lower the divergence from 1.09 to 1.06 and take twice as long."""

_GRID, _THINNEST = 60, 1e-6


@dataclass(frozen=True)
class Plane:
    """A projection of chunks."""

    title: str  # "before" or "after"; "served" where alignment changed no vector
    points: Float64Array  # (n, 2), within [-1, 1]
    note: str  # the silhouette of the topics among the vectors themselves; empty with fewer than two topics


def project(before: NDArray[np.floating], after: NDArray[np.floating], topics: NDArray[np.integer]) -> list[Plane]:
    """Project the same chunks in two vector spaces, each by t-SNE over cosine distances, with a fixed seed.

    The second projection starts from the first and is rotated (orthogonal Procrustes) to match it, because rotation and
    reflection would otherwise be the most visible difference. Equal vectors give one plane.

    Args:
        before: shape (n, d), n at least 4.
        after: shape (n, d').
        topics: shape (n,), topic of each chunk.
    """
    with np.errstate(invalid="ignore"):  # identical vectors have no variance: the share of a component is 0/0
        start = PCA(n_components=2, svd_solver="full").fit_transform(before.astype(np.float64))
    first = _tsne(before, start)
    if before.shape == after.shape and np.allclose(before, after, atol=1e-6):
        return [_plane("served", first, after, topics)]
    second = _tsne(after, first)
    second = second @ orthogonal_procrustes(second, first)[0]
    return [_plane("before", first, before, topics), _plane("after", second, after, topics)]


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


def _tsne(vectors: NDArray[np.floating], start: Float64Array) -> Float64Array:
    """Coordinates, shape (n, 2), found from the layout ``start``, shape (n, 2), made as small as t-SNE's own start."""
    small = 1e-4 * start / max(float(start[:, 0].std()), 1e-9)
    model = TSNE(
        metric="cosine", perplexity=min(PERPLEXITY, (len(vectors) - 1) / 3), init=small.astype(np.float32),
        max_iter=ITERATIONS, random_state=0,
    )  # fmt: skip
    with threadpool_limits(1):  # two threads take ten times as long where other processes want the second core
        points = model.fit_transform(vectors.astype(np.float32)).astype(np.float64)
    return np.asarray(points - points.mean(axis=0), dtype=np.float64)


def _plane(title: str, points: Float64Array, vectors: NDArray[np.floating], topics: NDArray[np.integer]) -> Plane:
    note = ""
    if 2 <= len(np.unique(topics)) < len(topics):
        note = f"silhouette of the topics {silhouette_score(vectors, topics, metric='cosine'):+.3f}"
    return Plane(title, points / (1.12 * max(float(np.abs(points).max()), 1e-9)), note)
