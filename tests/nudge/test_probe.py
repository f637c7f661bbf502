"""The questions that follow a nudge: after any changes the first places are those of a full search."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.nudge.probe import Nearest, follow
from heal_tasks.nudge.products import Int64Array


def search(queries: np.ndarray, rows: dict[int, np.ndarray], width: int) -> Nearest:
    """The slow, obvious way."""
    ids = np.full((len(queries), width), -1, np.int64)
    scores = np.full((len(queries), width), -np.inf, np.float32)
    for number, query in enumerate(queries):
        ranked = sorted((-np.float32(query @ vector), key) for key, vector in rows.items())[:width]
        for place, (score, key) in enumerate(ranked):
            ids[number, place], scores[number, place] = key, -score
    return Nearest.of(ids, scores)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 30), nights=st.integers(1, 6), grid=st.booleans())
def test_first_places_are_those_of_a_full_search(seed: int, rows: int, nights: int, grid: bool) -> None:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        # On a grid many scores are equal, and every sum is exact in any order.
        values = rng.integers(-1, 2, (count, 4)) if grid else rng.normal(size=(count, 4))
        return values.astype(np.float32)

    queries, width, places = draw(5), 8, 4
    now = dict(zip(range(rows), draw(rows), strict=True))
    kept, next_id = search(queries, now, width), rows
    for _ in range(nights):
        deleted = [key for key in now if rng.random() < 0.2]
        changed = [key for key in now if key not in deleted and rng.random() < 0.2]
        added = list(range(next_id, next_id + int(rng.integers(0, 5))))
        next_id += len(added)
        for key in deleted:
            del now[key]
        now.update(zip([*changed, *added], draw(len(changed) + len(added)), strict=True))
        touched = np.array([*deleted, *changed, *added], np.int64)
        there: Int64Array = np.array(sorted([*changed, *added]), np.int64)
        vectors = np.array([now[int(key)] for key in there], np.float32).reshape(-1, 4)
        kept, short = follow(kept, queries, touched, there, vectors, places=places)
        whole = search(queries, now, width)
        np.testing.assert_allclose(kept.scores[~short, :places], whole.scores[~short, :places], rtol=1e-5, atol=1e-6)
        if not grid:
            np.testing.assert_array_equal(kept.ids[~short, :places], whole.ids[~short, :places])
        for field in ("ids", "scores", "floor"):
            getattr(kept, field)[short] = getattr(whole, field)[short]


def test_memory_stays_small_where_every_row_was_touched() -> None:
    """As after the first questions of another language model: about every chunk."""
    rng = np.random.default_rng(0)
    queries, before = (rng.normal(size=(count, 8)).astype(np.float32) for count in (1500, 10_000))
    ids = np.arange(len(before))
    scores = queries @ before.T
    nearest = np.argsort(-scores, axis=1)[:, :40]
    kept = Nearest.of(ids[nearest], np.take_along_axis(scores, nearest, axis=1))
    del scores
    tracemalloc.start()
    now, _ = follow(kept, queries, ids, ids, before, places=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(now.ids[:, :10], kept.ids[:, :10])
    assert peak < 120 << 20, "36 bytes for each question and row would be 515 MiB"


def test_a_question_whose_rows_have_gone_is_ranked_anew() -> None:
    queries = np.eye(2, dtype=np.float32)
    rows = {key: np.array([1 - key / 100, key / 100], np.float32) for key in range(20)}
    kept = search(queries, rows, 6)
    gone = np.array([0, 1, 2], np.int64)
    nothing = np.empty((0, 2), np.float32)
    _, short = follow(kept, queries, gone, np.empty(0, np.int64), nothing, places=4)
    assert short.tolist() == [True, False]
    _, short = follow(kept, queries, gone, np.empty(0, np.int64), nothing, places=3)
    assert short.tolist() == [False, False]


def test_a_corpus_that_is_kept_whole_is_never_ranked_anew() -> None:
    queries = np.eye(2, dtype=np.float32)
    kept = search(queries, {1: np.array([1, 0], np.float32), 2: np.array([0, 1], np.float32)}, 6)
    touched = np.array([1, 2], np.int64)
    now, short = follow(kept, queries, touched, np.empty(0, np.int64), np.empty((0, 2), np.float32), places=4)
    assert not short.any()
    assert (now.ids == -1).all()


@pytest.mark.parametrize("score", [0.5, 0.4])
def test_a_row_no_better_than_the_last_kept_one_stays_out(score: float) -> None:
    kept = Nearest.of(np.array([[3, 7]]), np.array([[0.9, 0.5]], np.float32))
    vector = np.array([[score]], np.float32)
    now, _ = follow(kept, np.ones((1, 1), np.float32), np.array([9]), np.array([9]), vector, places=1)
    assert now.ids.tolist() == [[3, 7]]
