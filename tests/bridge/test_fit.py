"""The map between two spaces, against planted maps and a dense least-squares solution."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from heal_tasks.bridge.fit import LinearMap, fit_map, fit_orthogonal
from heal_tasks.core.errors import InputError


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def texts(count: int, dims: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around a mean, with fast falling variances, as encoders give them."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, dims)) / np.sqrt(1 + np.arange(dims)) + rng.normal(size=dims) / 4)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("ij,ij->i", a, b)


def test_a_rotation_is_recovered() -> None:
    rotation, old = ortho_group.rvs(24, random_state=1).astype(np.float32), texts(2000, 24)
    made = fit_map(old[:1500], old[:1500] @ rotation, ridge=1e-6)
    np.testing.assert_allclose(made(old[1500:]), old[1500:] @ rotation, atol=1e-4)


@pytest.mark.parametrize("dims", [12, 40])
def test_more_or_fewer_dimensions_with_noise(dims: int) -> None:
    rng, old = np.random.default_rng(3), texts(3000, 24)
    truth = old @ rng.normal(size=(24, dims)).astype(np.float32) + rng.normal(size=dims).astype(np.float32)
    new = unit(truth + 0.3 * rng.normal(size=truth.shape))
    made = fit_map(old[:2500], new[:2500], ridge=1e-4)
    assert made(old[2500:]).shape == (500, dims)
    assert cosines(made(old[2500:]), unit(truth[2500:])).mean() > 0.99


def test_the_solution_is_that_of_dense_least_squares() -> None:
    rng, old = np.random.default_rng(5), texts(200, 9).astype(np.float64)
    new, ridge = rng.normal(size=(200, 7)), 0.1
    penalty = 200 * ridge * old.var(axis=0).mean()
    # A column of ones for the shift, which has no penalty; rows sqrt(penalty) for the other weights.
    left = np.vstack((np.c_[old, np.ones(200)], np.sqrt(penalty) * np.eye(9, 10)))
    right = np.vstack((new, np.zeros((9, 7))))
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    expected = np.c_[old, np.ones(200)] @ solved
    made = fit_map(old.astype(np.float32), new.astype(np.float32), ridge)
    got = old @ made.weights.T + made.shift
    length = np.linalg.norm(expected, axis=1).mean()
    np.testing.assert_allclose(got, expected / length, atol=1e-4)
    assert np.linalg.norm(got, axis=1).mean() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(made(old.astype(np.float32)), unit(expected), atol=1e-4)


def test_an_orthogonal_map_is_that_of_scipy() -> None:
    old, new = texts(300, 12), texts(300, 12, seed=1)
    made = fit_orthogonal(old, new)
    turn, _ = orthogonal_procrustes(old - old.mean(axis=0), new - new.mean(axis=0))
    expected = (old - old.mean(axis=0)) @ turn + new.mean(axis=0)
    np.testing.assert_allclose(made(old), unit(expected), atol=1e-4)
    wider = fit_orthogonal(old, texts(300, 20, seed=2)).weights
    np.testing.assert_allclose(wider.T @ wider / np.trace(wider.T @ wider) * 12, np.eye(12), atol=1e-5)


def test_composed_maps_lead_where_one_after_the_other_does() -> None:
    rng, old = np.random.default_rng(7), texts(2000, 16)
    between = unit(old @ rng.normal(size=(16, 20)).astype(np.float32) + 0.1)
    new = unit(between @ rng.normal(size=(20, 12)).astype(np.float32) - 0.1)
    first, second = fit_map(old, between), fit_map(between, new)
    composed = first.then(second)
    assert composed.weights.shape == (12, 16)
    assert cosines(composed(old), second(first(old))).min() > 0.99
    with pytest.raises(InputError, match="a map into 12 dimensions cannot be followed by one from 20"):
        second.then(second)


def test_a_shift_is_part_of_the_map_and_a_null_result_is_no_nan() -> None:
    made = LinearMap(np.eye(2, dtype=np.float32), np.array([-1, 0], dtype=np.float32))
    np.testing.assert_allclose(
        made(np.array([[0, 1], [1, 0]], np.float32)), [[-(0.5**0.5), 0.5**0.5], [0, 0]], atol=1e-6
    )


@pytest.mark.parametrize(
    ("old", "new", "ridge", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 2)), 0.1, r"shapes \(3, 2\) and \(2, 2\) are no pairs"),
        (np.ones((0, 2)), np.ones((0, 2)), 0.1, "are no pairs"),
        (np.ones((2, 2)), np.ones((2, 2)), 0.0, "ridge is 0.0"),
        (np.ones((2, 2)), np.full((2, 2), np.nan), 0.1, "not finite"),
    ],
)
def test_what_is_no_pair_is_refused(
    old: NDArray[np.float64], new: NDArray[np.float64], ridge: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_map(old.astype(np.float32), new.astype(np.float32), ridge)


def test_equal_vectors_give_the_mean() -> None:
    old, new = np.tile(texts(1, 5), (4, 1)), texts(4, 6, seed=2)
    np.testing.assert_allclose(fit_map(old, new)(old[:1]), unit(new.mean(axis=0, keepdims=True)), atol=1e-5)
