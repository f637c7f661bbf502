"""The approximate product is wrong by no more than it says, and what is found with it is exact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.nudge.candidates import best_static, find_candidates
from heal_tasks.nudge.products import ByteProduct, FloatProduct, exact
from heal_tasks.nudge.solve import plan_moves

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sample(seed, n, d, skew):
    """Unit rows; with skew, a few dimensions dwarf the others, as some encoders have it."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((n, d)) * np.exp(skew * rng.standard_normal(d)))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 90), d=st.integers(1, 70), skew=st.floats(0.0, 4.0))
def test_a_score_is_within_its_bound(seed, n, d, skew):
    questions, rows = sample(seed, 7, d, skew), sample(seed + 1, n, d, skew)
    rows[0] = questions[0]
    truth = questions.astype(np.float64) @ rows.astype(np.float64).T
    for product in (ByteProduct(questions), FloatProduct(questions, "cpu")):
        found = product.scores(rows)
        about = (found.codes * found.unit).numpy()
        lowest = 0.0 if isinstance(product, ByteProduct) else -1.0
        assert (np.abs(about - np.maximum(truth, lowest)) <= found.wrong.numpy()).all()


def test_bytes_do_not_saturate():
    # All values at their largest: the sum of two products must fit 16 bits on a CPU without VNNI.
    questions = unit(np.ones((3, 384)) * [[1], [-1], [1]])
    rows = unit(np.vstack([np.ones(384), -np.ones(384), np.tile([1, -1], 192)]))
    found = ByteProduct(questions).scores(rows)
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])  # 0 stands for negative scores too
    np.testing.assert_allclose((found.codes * found.unit).numpy(), truth, atol=0.03)


def test_the_bound_is_tight_enough_to_leave_most_rows_out():
    questions, rows = sample(0, 50, 384, 0.0), sample(1, 500, 384, 0.0)
    assert ByteProduct(questions).scores(rows).wrong.max() < 0.05


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 300), k=st.integers(1, 12), skew=st.floats(0.0, 3.0))
def test_the_best_rows_that_stay_are_those_of_a_full_sort(seed, n, k, skew):
    rng = np.random.default_rng(seed)
    questions, base = sample(seed, 5, 16, skew), sample(seed + 1, max(n, 1), 16, skew)[:n]
    if n > 20:
        base[10:20] = base[3]  # equal scores
    moved = np.flatnonzero(rng.random(n) < 0.2)
    found = best_static(questions, base, moved, k)
    stays = np.setdiff1d(np.arange(n), moved)
    scores = questions.astype(np.float64) @ base[stays].astype(np.float64).T
    for question in range(len(questions)):
        own = found.question == question
        # Rows with equal vectors must tie exactly, whatever BLAS makes of them.
        expected = exact(questions, base, np.full(len(stays), question), stays)
        np.testing.assert_allclose(expected, scores[question], atol=1e-12)
        best = np.sort(stays[np.lexsort((stays, -expected))[:k]])
        assert found.rows[own].tolist() == best.tolist()


@GPU
def test_a_gpu_finds_the_same():
    questions, base = sample(0, 40, 64, 0.0), sample(1, 3000, 64, 0.0)
    moved = np.arange(0, 3000, 3)
    moves = plan_moves(base[moved], sample(2, len(moved), 64, 0.0), "N")
    results = []
    for device in ("cpu", "cuda"):
        static = best_static(questions, base, moved, 5, device)
        results.append(find_candidates(questions, base, moved, moves, static, limit=1.0, k=5, device=device))
    for budget in (0.0, 0.7):
        first, second = (
            found.question[order] * 3000 + found.rows[order]
            for found in results
            for order in [np.lexsort((-found.scores(budget), found.question))]
        )
        places = [np.arange(len(found.rows)) - np.searchsorted(found.question, found.question) for found in results]
        np.testing.assert_array_equal(first[places[0] < 5], second[places[1] < 5])
