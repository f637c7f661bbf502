"""The ridge regression against a dense solution in float64, and its limits."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.lexicon.fit import fit_stems
from heal_tasks.lexicon.terms import inverse_document_frequencies, weigh_texts
from tests.lexicon.planted import DIMS, planted


def problem(**planting: float) -> tuple[csr_array, NDArray[np.float32]]:
    counts, targets, _ = planted(noise=0.3, **planting)  # type: ignore[arg-type]
    return weigh_texts(counts, inverse_document_frequencies(counts)), targets


def dense(texts: csr_array, targets: NDArray, ridge: float, prior: NDArray | None = None) -> NDArray[np.float64]:
    a = texts.toarray().astype(np.float64)
    right = a.T @ targets.astype(np.float64)
    if prior is not None:
        right += ridge * prior
    return np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), right)


@pytest.mark.parametrize("ridge", [0.01, 0.3, 10.0])
@pytest.mark.parametrize("with_prior", [False, True])
def test_the_solution_is_the_dense_one(ridge: float, with_prior: bool) -> None:
    texts, targets = problem()
    prior = np.random.default_rng(1).normal(size=(texts.shape[1], DIMS)).astype(np.float32) if with_prior else None
    fit = fit_stems(texts, targets, ridge=ridge, prior=prior, tolerance=1e-6)
    np.testing.assert_allclose(fit.vectors, dense(texts, targets, ridge, prior), atol=2e-4)


def test_more_coordinates_than_a_block_are_solved_alike() -> None:
    texts, targets = problem()
    wide = np.tile(targets, (1, 12))
    one = fit_stems(texts, targets, ridge=0.3, tolerance=1e-6).vectors
    np.testing.assert_allclose(
        fit_stems(texts, wide, ridge=0.3, tolerance=1e-6).vectors, np.tile(one, (1, 12)), atol=1e-5
    )


def test_a_start_changes_the_iterations_and_not_the_solution() -> None:
    texts, targets = problem()
    cold = fit_stems(texts, targets, ridge=0.3, tolerance=1e-5)
    warm = fit_stems(texts, targets, ridge=0.3, tolerance=1e-5, start=cold.vectors)
    assert warm.iterations == 0 < cold.iterations
    far = fit_stems(texts, targets, ridge=0.3, tolerance=1e-5, start=np.full_like(cold.vectors, 3))
    np.testing.assert_allclose(far.vectors, cold.vectors, atol=1e-3)


def test_the_order_of_texts_does_not_matter() -> None:
    texts, targets = problem()
    order = np.random.default_rng(2).permutation(texts.shape[0])
    shuffled = fit_stems(csr_array(texts[order]), targets[order], ridge=0.3, tolerance=1e-6)
    np.testing.assert_allclose(
        shuffled.vectors, fit_stems(texts, targets, ridge=0.3, tolerance=1e-6).vectors, atol=1e-4
    )


def test_a_stem_that_always_comes_with_another_shares_its_vector() -> None:
    texts, targets = problem()
    doubled = csr_array(np.hstack([texts.toarray(), texts.toarray()[:, :1]]))
    vectors = fit_stems(doubled, targets, ridge=0.3, tolerance=1e-6).vectors
    np.testing.assert_allclose(vectors[0], vectors[-1], atol=1e-4)


def test_a_large_ridge_gives_the_prior_and_a_small_one_the_targets() -> None:
    counts, targets, _ = planted(texts=40, stems=200, words=30)
    texts = weigh_texts(counts, inverse_document_frequencies(counts))
    prior = np.random.default_rng(3).normal(size=(200, DIMS)).astype(np.float32)
    np.testing.assert_allclose(fit_stems(texts, targets, ridge=1e7, prior=prior).vectors, prior, atol=1e-3)
    assert np.abs(fit_stems(texts, targets, ridge=1e7).vectors).max() < 1e-5
    exact = fit_stems(texts, targets, ridge=1e-4, tolerance=1e-6).vectors
    np.testing.assert_allclose(texts @ exact, targets, atol=0.01)


def test_texts_without_stems_change_nothing() -> None:
    texts, targets = problem()
    more = csr_array((texts.data, texts.indices, np.append(texts.indptr, [texts.nnz] * 5)), shape=(305, texts.shape[1]))
    padded = np.concatenate([targets, np.ones((5, DIMS), np.float32)])
    np.testing.assert_allclose(
        fit_stems(more, padded, ridge=0.3, tolerance=1e-6).vectors,
        fit_stems(texts, targets, ridge=0.3, tolerance=1e-6).vectors,
        atol=1e-5,
    )
    empty = csr_array((3, 4), dtype=np.float32)
    assert not fit_stems(empty, np.ones((3, DIMS), np.float32), ridge=0.3).vectors.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": 0.0}, "ridge is 0.0; it must be above 0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"targets": np.ones((2, DIMS), np.float32)}, "300 texts of 80 stems do not fit targets"),
        ({"targets": np.full((300, DIMS), np.nan, np.float32)}, "not finite; encode its text again"),
        ({"prior": np.ones((3, DIMS), np.float32)}, "do not fit"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    texts, targets = problem()
    with pytest.raises(InputError, match=message):
        fit_stems(**({"texts": texts, "targets": targets, "ridge": 0.3} | change))
