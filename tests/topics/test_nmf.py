"""The factorisation against slow, obvious references."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmf import improve, project, residuals, start_nndsvd, start_random
from heal_tasks.topics.operand import Operand

Floats = NDArray[np.float32]


class Factorised(NamedTuple):
    """One factorisation: float32 factors of shapes (n, k) and (k, v)."""

    document_factors: Floats
    term_factors: Floats
    relative_error: float
    iterations: int


def factorise(X: csr_array, k: int, *, start: str = "random", seed: int = 0, **limits: Any) -> Factorised:
    operand = Operand.of(X)
    begin = start_nndsvd(operand, k, seed) if start == "nndsvd" else start_random(operand, k, [seed])
    runs = improve([operand], begin, **limits)
    return Factorised(runs.W[0].t().contiguous().numpy(), runs.H[0].numpy(), float(runs.errors[0]), runs.iterations)


def sparse_matrix(seed: int, n: int = 60, v: int = 90, k: int = 4, density: float = 0.4) -> csr_array:
    rng = np.random.default_rng(seed)
    dense = rng.gamma(0.5, 1, (n, k)) @ rng.gamma(0.5, 1, (k, v)) * (rng.random((n, v)) < density)
    return csr_array(dense.astype(np.float32))


def multiplicative_updates(X: NDArray[np.float64], k: int, seed: int, rounds: int = 600) -> float:
    """Lee and Seung's updates, dense and in float64; returns the relative error."""
    rng = np.random.default_rng(seed)
    W, H = rng.random((X.shape[0], k)), rng.random((k, X.shape[1]))
    for _ in range(rounds):
        H *= (W.T @ X) / (W.T @ W @ H + 1e-12)
        W *= (X @ H.T) / (W @ H @ H.T + 1e-12)
    return float(np.linalg.norm(X - W @ H) / np.linalg.norm(X))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("start", ["random", "nndsvd"])
def test_multiplicative_updates_do_not_find_a_better_fit(seed: int, start: str) -> None:
    X = sparse_matrix(seed)
    dense = X.toarray().astype(np.float64)
    reference = min(multiplicative_updates(dense, 4, start) for start in range(3))
    ours = min(factorise(X, 4, start=start, seed=number).relative_error for number in range(3))
    assert ours <= reference * 1.01


@pytest.mark.parametrize("start", ["random", "nndsvd"])
def test_reported_error_is_the_dense_error_and_never_rises(start: str) -> None:
    X = sparse_matrix(3)
    errors = []
    for rounds in range(1, 25):
        fit = factorise(X, 4, start=start, seed=5, max_iterations=rounds, tolerance=0)
        dense_error = np.linalg.norm(X.toarray() - fit.document_factors @ fit.term_factors)
        assert fit.relative_error == pytest.approx(dense_error / np.linalg.norm(X.toarray()), rel=1e-4)
        assert fit.iterations == rounds
        errors.append(fit.relative_error)
    assert (np.diff(errors) <= 1e-6).all()
    assert errors[-1] < errors[0]


def test_recovers_an_exact_factorisation() -> None:
    rng = np.random.default_rng(0)
    W, H = np.zeros((90, 3)), rng.random((3, 50)) * (rng.random((3, 50)) < 0.5)
    W[np.arange(90), np.arange(90) % 3] = 1 + rng.random(90)
    fit = factorise(csr_array((W @ H).astype(np.float32)), 3, seed=1, tolerance=1e-9)
    assert fit.relative_error < 1e-3
    assert len({tuple(np.unique(fit.document_factors.argmax(1)[topic::3])) for topic in range(3)}) == 3


def test_runs_together_are_the_runs_alone() -> None:
    X, seeds = sparse_matrix(4), [1, 2, 3]
    noisy = [csr_array((X.data * (1 + 0.1 * run), X.indices, X.indptr), shape=X.shape) for run in range(3)]
    together = improve([Operand.of(matrix) for matrix in noisy], start_random(Operand.of(X), 3, seeds))
    for run, seed in enumerate(seeds):
        alone = improve([Operand.of(noisy[run])], start_random(Operand.of(X), 3, [seed]))
        assert together.errors[run] == pytest.approx(alone.errors[0], rel=1e-4)
        assert_allclose(together.H[run], alone.H[0], atol=5e-3)
        dense = noisy[run].toarray() - together.W[run].numpy().T @ together.H[run].numpy()
        assert together.errors[run] == pytest.approx(
            np.linalg.norm(dense) / np.linalg.norm(noisy[run].toarray()), rel=1e-3
        )
    assert together.iterations > 3


def test_other_entries_on_one_pattern_are_the_other_matrix() -> None:
    X = sparse_matrix(8)
    other = csr_array((X.data * np.random.default_rng(0).random(X.nnz, np.float32), X.indices, X.indptr), shape=X.shape)
    replaced, built = Operand.of(X).with_entries(other.data), Operand.of(other)
    assert_array_equal(replaced.rows.to_dense(), other.toarray())
    assert_array_equal(replaced.columns.to_dense(), other.toarray().T)
    assert replaced.squared_norm == built.squared_norm


def test_a_topic_without_weight_can_come_back() -> None:
    X = sparse_matrix(9)
    runs = start_random(Operand.of(X), 2, [0])
    runs.H[0, 1] = 0
    assert improve([Operand.of(X)], runs).H[0, 1].max() > 0


def test_same_seed_same_factors_other_seed_other_start() -> None:
    X = sparse_matrix(5)
    first, again, other = (factorise(X, 3, seed=seed, max_iterations=1) for seed in (1, 1, 2))
    assert_array_equal(first.term_factors, again.term_factors)
    assert not np.array_equal(first.term_factors, other.term_factors)


def test_zero_matrix_and_largest_k() -> None:
    assert factorise(csr_array(np.zeros((4, 5), np.float32)), 2).relative_error == 0
    for start in ("random", "nndsvd"):
        assert factorise(sparse_matrix(6, n=3, v=5), 3, start=start).relative_error < 0.05


@pytest.mark.parametrize("k", [0, 6])
@pytest.mark.parametrize("start", ["random", "nndsvd"])
def test_k_out_of_range(k: int, start: str) -> None:
    with pytest.raises(InputError, match=rf"k={k} topics for a matrix of shape \(5, 7\); use 1 <= k <= 5"):
        factorise(sparse_matrix(0, n=5, v=7), k, start=start)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**20), k=st.integers(1, 6))
def test_projection_is_the_non_negative_least_squares_solution(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    X, H = sparse_matrix(seed, n=8, v=30), rng.random((k, 30), np.float32)
    W = project(X, H, max_iterations=2000, tolerance=1e-8)
    assert (W >= 0).all()
    for row, weights in zip(X.toarray(), W, strict=True):
        _, best = nnls(H.T.astype(np.float64), row.astype(np.float64))
        assert np.linalg.norm(row - weights @ H) <= best * 1.001 + 1e-4


def test_residuals_are_the_dense_ones() -> None:
    X = csr_array(np.vstack([sparse_matrix(7, n=10).toarray(), np.zeros((1, 90), np.float32)]))
    fit = factorise(X, 3, seed=0)
    W = project(X, fit.term_factors)
    dense = X.toarray()
    norms = np.linalg.norm(dense[:-1], axis=1)
    expected = np.linalg.norm(dense - W @ fit.term_factors, axis=1)[:-1] / norms
    assert_allclose(residuals(X, W, fit.term_factors), [*expected, 1.0], atol=1e-4)


def test_projection_refuses_another_vocabulary() -> None:
    with pytest.raises(InputError, match="rows with 90 terms, factors with 7"):
        project(sparse_matrix(0), np.ones((2, 7), np.float32))
