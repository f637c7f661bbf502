"""The projection's geometry: dots that can be counted, a turn that is undone, contours that hold what they say."""

import re

import numpy as np
import pytest

from heal_tasks.report.pca import FEWEST_POINTS, INSIDE, MOST_TOPICS, SIDE, TOP, Cloud, plot_projection

RNG = np.random.default_rng(0)
NAMES = [(7, "cells, blood"), (3, "stars, dust"), (5, "laws, courts")]


def planted(apart: float, per_topic: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three topics around directions of their own, and the topic of each vector."""
    topics = np.repeat([7, 3, 5], per_topic)
    centres = np.eye(3, 16)[np.repeat([0, 1, 2], per_topic)]
    vectors = apart * centres + np.random.default_rng(1).normal(size=(len(topics), 16)) / 4
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), topics


def dots(cloud: Cloud) -> np.ndarray:
    return np.array([pair.split() for pair in re.findall(r"M([\d.]+ [\d.]+)h0", cloud.points)], dtype=float)


def inside(points: np.ndarray, path: str) -> np.ndarray:
    """Even-odd rule: how often a ray to the right crosses the path."""
    crossings = np.zeros(len(points), dtype=int)
    for line in path.split("M")[1:]:
        corners = np.array([pair.split() for pair in line.split("L")], dtype=float)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            spans = (points[:, 1] < y0) != (points[:, 1] < y1)
            with np.errstate(divide="ignore", invalid="ignore"):
                crossings += spans & (points[:, 0] < x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    return crossings % 2 == 1


def silhouettes(plot):
    return [float(re.search(r"topics ([+-][\d.]+)", panel.note)[1]) for panel in plot.panels]


def test_every_chunk_is_a_dot_of_its_topic_in_both_panels():
    (before, topics), (after, _) = planted(0.5), planted(3.0)
    plot = plot_projection(before, after, topics, NAMES)
    assert [panel.title for panel in plot.panels] == ["before", "after"]
    assert plot.names == ("cells, blood", "stars, dust", "laws, courts")
    assert plot.chunks == 180
    for panel in plot.panels:
        assert {cloud.kind: len(dots(cloud)) for cloud in panel.clouds} == {0: 60, 1: 60, 2: 60}
        places = np.concatenate([dots(cloud) for cloud in panel.clouds])
        assert panel.left < places[:, 0].min() < places[:, 0].max() < panel.left + SIDE
        assert TOP < places[:, 1].min() < places[:, 1].max() < TOP + SIDE
    low, high = silhouettes(plot)
    assert low < 0.2 < 0.6 < high
    assert plot.panels[1].note in plot.description


def test_the_second_panel_is_turned_to_lie_like_the_first():
    vectors, topics = planted(2.0)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(16, 16)))
    plot = plot_projection(vectors, vectors @ turn, topics, NAMES)
    for first, second in zip(*(panel.clouds for panel in plot.panels), strict=True):
        moved = dots(second) - (plot.panels[1].left, 0)
        assert np.abs(dots(first) - moved).max() <= 0.11


def test_one_scale_for_both():
    vectors, topics = planted(2.0)
    plot = plot_projection(vectors, 0.5 * vectors, topics, NAMES)
    spread = [np.ptp(np.concatenate([dots(cloud) for cloud in panel.clouds]), axis=0) for panel in plot.panels]
    assert spread[1] == pytest.approx(spread[0] / 2, rel=0.01)


def test_contours_hold_the_shares_that_they_are_drawn_for():
    vectors, topics = planted(2.0, per_topic=200)
    for panel in plot_projection(vectors, vectors, topics, NAMES).panels:
        for cloud in panel.clouds:
            held = [inside(dots(cloud), path).mean() for path in cloud.contours]
            assert held == pytest.approx(INSIDE, abs=0.03)


def test_small_topics_share_grey_and_have_no_contours():
    vectors = RNG.normal(size=(20 * (MOST_TOPICS + 2), 5))
    topics = np.repeat(np.arange(MOST_TOPICS + 2), 20)
    topics[: 20 - FEWEST_POINTS + 1] = -1
    plot = plot_projection(vectors, vectors, topics, [(topic, f"t{topic}") for topic in range(MOST_TOPICS + 2)])
    assert plot.names == tuple(f"t{topic}" for topic in range(MOST_TOPICS))
    clouds = {cloud.kind: cloud for cloud in plot.panels[0].clouds}
    assert len(dots(clouds[-1])) == 40 + 20 - FEWEST_POINTS + 1
    assert clouds[-1].contours == clouds[0].contours == ()
    assert len(clouds[1].contours) == len(INSIDE)


@pytest.mark.parametrize(
    "vectors", [np.ones((30, 4)), np.outer(np.linspace(1, 2, 30), np.ones(4))], ids=["one place", "a line"]
)
def test_vectors_without_a_plane_are_drawn_without_contours(vectors):
    plot = plot_projection(vectors, vectors, np.zeros(30, dtype=np.int64), [(0, "all")])
    (cloud,) = plot.panels[0].clouds
    assert np.isfinite(dots(cloud)).all()
    assert len(dots(cloud)) == 30
    assert cloud.contours == ()
    assert "silhouette" not in plot.panels[0].note
