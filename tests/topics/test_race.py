"""The race of starts: a sketch approximates its matrix, a merge loses least, the winner is seldom caught."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from bench.planted import plant
from heal_tasks.topics.nmf import Runs, improve, improve_on_sketch, start_random
from heal_tasks.topics.operand import Operand, Sketch, one_thread, truncated_svd
from heal_tasks.topics.race import SPARE, Track, merge_closest
from heal_tasks.topics.seeds import derive_seed
from heal_tasks.topics.tfidf import smooth_idf, weigh


def some_matrix(n: int = 40, v: int = 30) -> csr_array:
    dense = np.random.default_rng(0).random((n, v), np.float32)
    return csr_array(np.where(dense > 0.6, dense, 0))


def some_runs(seed: int, count: int, k: int) -> Runs:
    rng = np.random.default_rng(seed)
    W, H = (torch.from_numpy(rng.gamma(0.5, 1, (count, k, d)).astype(np.float32)) for d in (20, 15))
    return Runs(W, H, np.zeros(count), 0)


def model(runs: Runs, run: int, topics: Any = slice(None)) -> Any:
    return (runs.W[run, topics].T.double() @ runs.H[run, topics].double()).numpy()


def test_the_svd_is_numpys() -> None:
    X = some_matrix()
    U, S, Vt = truncated_svd(Operand.of(X), 6, 1)
    _, strengths, _ = np.linalg.svd(X.toarray())
    assert_allclose(S, strengths[:6], rtol=0.01)
    assert_allclose((U * S @ Vt).norm() ** 2, np.sum(strengths[:6] ** 2), rtol=0.01)


def test_a_sketch_of_full_rank_is_the_matrix() -> None:
    operand = Operand.of(some_matrix())
    sketch, start = Sketch.of(operand, 99, 1), start_random(operand, 3, [1, 2])
    assert sketch.left.shape == (30, 40)
    on_sketch, on_matrix = (
        improve_on_sketch(sketch, start, 7),
        improve([operand] * 2, start, max_iterations=7, tolerance=0),
    )
    assert_allclose(on_sketch.errors, on_matrix.errors, rtol=1e-5)
    assert_allclose(on_sketch.H, on_matrix.H, atol=1e-3)
    assert on_sketch.iterations == on_matrix.iterations == 14


def test_a_sketch_of_low_rank_is_about_the_nearest_matrix_of_that_rank() -> None:
    X = some_matrix()
    sketch = Sketch.of(Operand.of(X), 4, 1)
    nearest = np.sqrt(np.sum(np.linalg.svd(X.toarray(), compute_uv=False)[4:] ** 2))
    distance = np.linalg.norm(X.toarray() - (sketch.left.T @ sketch.right).numpy())
    assert 0.999 * nearest <= distance <= 1.01 * nearest


@given(seed=st.integers(0, 2**16), k=st.integers(2, 6))
def test_a_merge_loses_the_smallest_second_singular_value_of_all_pairs(seed: int, k: int) -> None:
    runs = some_runs(seed, 3, k)
    merged = merge_closest(runs)
    assert merged.W.shape == (3, k - 1, 20)
    assert float(merged.W.min()) >= 0
    assert float(merged.H.min()) >= 0
    for run in range(3):
        pairs = combinations(range(k), 2)
        least = min(np.linalg.svd(model(runs, run, list(pair)), compute_uv=False)[1] for pair in pairs)
        lost = np.linalg.norm(model(runs, run) - model(merged, run))
        assert_allclose(lost, least, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("twins", [(0, 3), (1, 2), (0, 1)])
def test_equal_and_dead_topics_are_merged_first_and_nothing_is_lost(twins: tuple[int, int]) -> None:
    runs = some_runs(1, 2, 4)
    runs.H[0, twins[0]] = 2 * runs.H[0, twins[1]]
    runs.W[1, twins[0]] = 0
    merged = merge_closest(runs)
    for run in (0, 1):
        assert_allclose(model(merged, run), model(runs, run), rtol=1e-4, atol=1e-5)
    for nothing in (merge_closest(Runs(0 * runs.W, runs.H, runs.errors, 0)), merge_closest(merge_closest(runs))):
        assert torch.isfinite(nothing.W).all()
        assert torch.isfinite(nothing.H).all()


def test_spare_topics_keep_races_out_of_poor_minima() -> None:
    corpus = plant(32, 900, supers=5, subs=2, imbalance=1.0)
    X = weigh(corpus.counts, smooth_idf(corpus.counts))
    operand = Operand.of(X)
    track = Track(operand, Sketch.of(operand, 32, 0))
    seeds = [derive_seed(seed) for seed in range(8)]

    with one_thread():
        spared, without = (
            improve([operand] * len(seeds), track.race(10, seeds, spare=spare)).errors for spare in (SPARE, 0)
        )
    best = min(spared.min(), without.min()) + 3e-4
    assert (spared > best).sum() <= 1
    assert (without > best).sum() >= 4


def test_no_more_spare_topics_than_the_matrix_allows() -> None:
    operand = Operand.of(some_matrix(8, 30))
    runs = Track(operand, Sketch.of(operand, 32, 0)).race(7, [derive_seed(1)], nndsvd=True)
    assert runs.W.shape == (1, 7, 8)
    assert runs.errors[0] < 0.2
