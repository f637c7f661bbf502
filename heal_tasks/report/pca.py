"""How chunk vectors lie before and after alignment, for people: projections onto a plane, without the drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import gaussian_kde
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

Float64Array = NDArray[np.float64]

SIDE, GAP, TOP = 350, 20, 24
MOST_TOPICS = 8
"""Topics with a colour of their own; the smaller ones share grey."""

FEWEST_POINTS = 12
"""A topic with fewer points has no density worth drawing."""

INSIDE = (0.5, 0.9)
"""Shares of a topic's points inside its contours."""

_GRID, _THINNEST = 60, 0.01


@dataclass(frozen=True)
class Cloud:
    """A topic in one panel.

    Args:
        kind: number of its colour; -1 for grey.
        points: SVG path with a dot per chunk.
        contours: SVG paths around the shares of points in ``INSIDE``; empty where there are too few points.
    """

    kind: int
    points: str
    contours: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One projection.

    Args:
        title: what is projected.
        left: x of its left side.
        clouds: grey first, so that it hides none.
        note: how much of the variance the plane holds, and the silhouette of the topics.
    """

    title: str
    left: int
    clouds: tuple[Cloud, ...]
    note: str


@dataclass(frozen=True)
class ProjectionPlot:
    """Two projections side by side, in SVG user units with y downwards.

    Args:
        description: what the plot shows, in a sentence or two.
        panels: before and after, in the same scale, the second turned to lie like the first.
        names: of the topics with a colour, by number.
        chunks: how many are drawn.
    """

    description: str
    panels: tuple[Panel, ...]
    names: tuple[str, ...]
    chunks: int
    side: int = SIDE
    top: int = TOP
    width: int = 2 * SIDE + GAP
    height: int = TOP + SIDE + 22


def plot_projection(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    topics: NDArray[np.integer],
    names: Sequence[tuple[int, str]],
) -> ProjectionPlot:
    """Project the same chunks in two vector spaces, each onto the plane in which they are spread most (PCA).

    Args:
        before: float, shape (n, d), n at least 3.
        after: float, shape (n, d'); the same chunks.
        topics: integer, shape (n,): topic of each chunk.
        names: topic ids with words for people, the largest first.

    Returns:
        The geometry.
    """
    (first, share_before), (second, share_after) = _plane(before), _plane(after)
    # A plane has no up and no left: without this, nothing but the picture's turn might catch the eye.
    second = second @ orthogonal_procrustes(second, first)[0]
    half = 1.12 * max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-9)
    kinds = {topic: number for number, (topic, _) in enumerate(names[:MOST_TOPICS])}
    coloured = np.array([kinds.get(int(topic), -1) for topic in topics])
    panels, said = [], []
    for number, (title, plane, share, vectors) in enumerate(
        (("before", first, share_before, before), ("after", second, share_after, after))
    ):
        left = number * (SIDE + GAP)
        places = (plane / half + 1) * SIDE / 2 + (left, TOP)
        clouds = tuple(
            Cloud(kind, _dots(places[coloured == kind]), _contours(places[coloured == kind], left) if kind >= 0 else ())
            for kind in (-1, *range(len(kinds)))
            if (coloured == kind).any()
        )
        note = f"{share:.0%} of the variance"
        apart = _silhouette(vectors, topics)
        if apart is not None:
            note += f", silhouette of the topics {apart:+.3f}"
        panels.append(Panel(title, left, clouds, note))
        said.append(f"{title}: {note}")
    return ProjectionPlot(
        f"{len(topics)} chunks on a plane; {'; '.join(said)}.", tuple(panels),
        tuple(words for _, words in names[:MOST_TOPICS]), len(topics),
    )  # fmt: skip


def _plane(vectors: NDArray[np.floating]) -> tuple[Float64Array, float]:
    """Centred coordinates, shape (n, 2), and the share of the variance that they hold."""
    found = PCA(n_components=2, svd_solver="full")
    # Vectors that are all the same have no variance to hold a share of.
    with np.errstate(invalid="ignore"):
        places = found.fit_transform(vectors.astype(np.float64))
    return places, float(np.nan_to_num(found.explained_variance_ratio_.sum()))


def _silhouette(vectors: NDArray[np.floating], topics: NDArray[np.integer]) -> float | None:
    if not 2 <= len(np.unique(topics)) < len(topics):
        return None
    return float(silhouette_score(vectors, topics, metric="cosine"))


def _dots(places: Float64Array) -> str:
    # A line of no length with round ends is a dot: a tenth of what a circle takes.
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)


def _contours(places: Float64Array, left: int) -> tuple[str, ...]:
    """Paths around the shares ``INSIDE`` of the points, by a Gaussian density estimate."""
    # Points on a line have no density on a plane.
    if len(places) < FEWEST_POINTS or np.linalg.eigvalsh(np.cov(places.T))[0] < _THINNEST:
        return ()
    density = gaussian_kde(places.T)
    xs, ys = np.linspace(left, left + SIDE, _GRID), np.linspace(TOP, TOP + SIDE, _GRID)
    grid = np.stack(np.meshgrid(xs, ys))
    contours = contour_generator(xs, ys, density(grid.reshape(2, -1)).reshape(_GRID, _GRID), line_type="Separate")

    def path(level: float) -> str:
        lines = cast("list[Float64Array]", contours.lines(level))
        return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in lines)

    return tuple(path(float(np.quantile(density(places.T), 1 - share))) for share in INSIDE)
