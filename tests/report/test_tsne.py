"""The map: every chunk is a dot of its topic, neighbours stay neighbours, contours hold their shares."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from heal_tasks.report.plots import SIDE, draw_plane
from heal_tasks.report.tsne import FEWEST_POINTS, INSIDE, Plane, estimate_density, project

RNG = np.random.default_rng(0)
COLOURS = {7: 0, 3: 1, 5: 2}


def planted(apart: float, per_topic: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Three topics around directions of their own, and the topic of each vector."""
    topics = np.repeat([7, 3, 5], per_topic)
    centres = np.eye(3, 16)[np.repeat([0, 1, 2], per_topic)]
    vectors = apart * centres + np.random.default_rng(1).normal(size=(len(topics), 16)) / 4
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), topics


def drawn(before: np.ndarray, after: np.ndarray, topics: np.ndarray) -> list[ElementTree.Element]:
    colours = np.array([COLOURS.get(topic, -1) for topic in topics.tolist()])
    return [ElementTree.fromstring(draw_plane(plane, colours)) for plane in project(before, after, topics)]


def paths(picture: ElementTree.Element, kind: str) -> dict[int, list[str]]:
    """SVG paths of dots or contours by the number of their colour."""
    found = {}
    for group in picture.iter("g"):
        if named := re.search(rf"-{kind}(-?\d+)$", group.get("id", "")):
            found[int(named[1])] = [path.get("d", "") for path in group.iter("path")]
    return found


def dots(path: str) -> np.ndarray:
    return np.array(re.findall(r"M ([\d.]+) ([\d.]+) L \1 \2", path), dtype=float)


def inside(points: np.ndarray, path: str) -> np.ndarray:
    """Even-odd rule: how often a ray to the right crosses the path."""
    crossings = np.zeros(len(points), dtype=int)
    for line in path.split("M")[1:]:
        corners = np.array(re.findall(r"([\d.]+) ([\d.]+)", line), dtype=float)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            spans = (points[:, 1] < y0) != (points[:, 1] < y1)
            with np.errstate(divide="ignore", invalid="ignore"):
                crossings += spans & (points[:, 0] < x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    return crossings % 2 == 1


def test_every_chunk_is_a_dot_of_its_topic_in_both_planes():
    (before, topics), (after, _) = planted(0.5), planted(3.0)
    pictures, planes = drawn(before, after, topics), project(before, after, topics)
    assert [plane.title for plane in planes] == ["before", "after"]
    assert [picture.findtext("title") for picture in pictures] == ["Chunk vectors before", "Chunk vectors after"]
    for picture, plane in zip(pictures, planes, strict=True):
        places = {number: dots(path) for number, (path,) in paths(picture, "dots").items()}
        assert {number: len(found) for number, found in places.items()} == {0: 60, 1: 60, 2: 60}
        everywhere = np.concatenate(list(places.values()))
        assert 0 < everywhere.min() < everywhere.max() < SIDE + 44
        assert plane.note in (picture.findtext("desc") or "")
        assert plane.note in [text.text for text in picture.iter("text")]
    low, high = (float(re.search(r"topics ([+-][\d.]+)", plane.note)[1]) for plane in planes)
    assert low < 0.2 < 0.6 < high


def test_neighbours_are_of_one_topic_and_a_group_keeps_its_place():
    (before, topics), (after, _) = planted(2.0), planted(3.0)
    first, second = project(before, after, topics)
    for plane in (first, second):
        distances = np.linalg.norm(plane.points[:, None] - plane.points[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        assert (topics[distances.argmin(axis=1)] == topics).mean() > 0.95
    moved = [np.linalg.norm((second.points - first.points)[topics == topic].mean(axis=0)) for topic in COLOURS]
    apart = np.linalg.norm(first.points[topics == 7].mean(axis=0) - first.points[topics == 3].mean(axis=0))
    assert max(moved) < apart / 2


def test_the_same_vectors_always_give_the_same_points():
    (before, topics), (after, _) = planted(2.0, per_topic=15), planted(3.0, per_topic=15)
    for first, again in zip(project(before, after, topics), project(before, after, topics), strict=True):
        assert np.array_equal(first.points, again.points)


def test_equal_vectors_are_drawn_once():
    vectors, topics = planted(2.0)
    (plane,) = project(vectors, vectors.astype(np.float32), topics)
    assert plane.title == "served"
    assert 0.8 < np.abs(plane.points).max() < 1


def test_contours_hold_their_shares_of_the_points():
    places = np.repeat([[-0.4, 0], [0.3, 0.3], [0.3, -0.4]], 200, axis=0)
    plane = Plane("after", places + np.random.default_rng(3).normal(size=(600, 2)) / 10, "")
    picture = ElementTree.fromstring(draw_plane(plane, np.repeat([0, 1, 2], 200)))
    contours = paths(picture, "contours")
    assert sorted(contours) == [0, 1, 2]
    for number, (path,) in paths(picture, "dots").items():
        held = [inside(dots(path), contour).mean() for contour in contours[number]]
        assert held == pytest.approx(sorted(INSIDE, reverse=True), abs=0.03)


def test_small_and_grey_topics_have_no_contours():
    vectors = RNG.normal(size=(60, 5))
    topics = np.repeat([7, 3, 9], 20)
    topics[: 20 - FEWEST_POINTS + 1] = 9
    for picture in drawn(vectors, vectors, topics):
        counts = {number: len(dots(path)) for number, (path,) in paths(picture, "dots").items()}
        assert counts == {0: FEWEST_POINTS - 1, 1: 20, -1: 40 - FEWEST_POINTS + 1}
        assert list(paths(picture, "contours")) == [1]


def test_vectors_in_one_place_are_drawn_without_contours():
    vectors, topics = np.ones((30, 4)), np.full(30, 7)
    (plane,), (picture,) = project(vectors, vectors, topics), drawn(vectors, vectors, topics)
    assert np.isfinite(plane.points).all()
    assert estimate_density(plane.points) is None
    assert len(dots(paths(picture, "dots")[0][0])) == 30
    assert paths(picture, "contours") == {}
    assert plane.note == ""
