"""The map between two spaces: by ridge regression or orthogonal, fitted to texts that both encoders have encoded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError

Float32Array = NDArray[np.float32]

RIDGE = 1e-2
"""Weight of the penalty, relative to the mean eigenvalue of the old vectors' covariance. Ten times more costs 2 to 4
points of the recall of mapped queries, a tenth brings nothing (bench/RESULTS.md)."""


@dataclass(frozen=True)
class LinearMap:
    """A map ``x -> weights x + shift`` between two spaces; its results have a mean length of about 1."""

    weights: Float32Array  # (d_new, d_old)
    shift: Float32Array  # (d_new,)

    def __call__(self, vectors: Float32Array) -> Float32Array:
        """Map vectors of unit length, float32, shape (n, d_old), to vectors of unit length, float32, (n, d_new)."""
        mapped = vectors @ self.weights.T + self.shift
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.asarray(mapped / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)

    def then(self, following: "LinearMap") -> "LinearMap":
        """The map that applies this one and then another one.

        Results of this one are not scaled to unit length in between; their lengths are about 1.
        """
        if following.weights.shape[1] != len(self.weights):
            raise InputError(
                f"a map into {len(self.weights)} dimensions cannot be followed by one from "
                f"{following.weights.shape[1]}; compose maps that meet in one space"
            )
        return LinearMap(following.weights @ self.weights, following.weights @ self.shift + following.shift)


def fit_map(old: Float32Array, new: Float32Array, ridge: float = RIDGE) -> LinearMap:
    """Solve ``argmin mean_i |A x_i + b - y_i|^2 + ridge c |A|^2`` and scale the result.

    c is the mean eigenvalue of the covariance of x, so that ``ridge`` has no unit.

    Args:
        old: x, vectors of texts in the old space, float32, shape (n, d_old).
        new: y, vectors of the same texts in the new space, float32, shape (n, d_new).
        ridge: weight of the penalty, > 0.

    Raises:
        InputError: there are no texts, shapes do not fit, a value is not finite, or ridge is not positive.
    """
    if old.ndim != 2 or new.ndim != 2 or not len(old) or len(old) != len(new):
        raise InputError(f"vectors of shapes {old.shape} and {new.shape} are no pairs; give both of each text")
    if not ridge > 0:
        raise InputError(f"ridge is {ridge}; it must be above 0, or few texts have no unique map")
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise InputError("a vector has a value that is not finite; encode its text again")
    x, y = old.astype(np.float64), new.astype(np.float64)
    mean_old, mean_new = x.mean(axis=0), y.mean(axis=0)
    x -= mean_old
    covariance = x.T @ x / len(x)
    penalty = ridge * np.trace(covariance) / len(covariance) or 1.0  # equal vectors have no covariance
    solved = np.linalg.solve(covariance + penalty * np.eye(len(covariance)), x.T @ (y - mean_new) / len(x)).T
    return _scaled(solved, mean_old, mean_new, old)


def fit_orthogonal(old: Float32Array, new: Float32Array) -> LinearMap:
    """The orthogonal map (orthogonal Procrustes) of vectors from which their means are taken; arguments as ``fit_map``.

    Between spaces of different dimensions it is an isometry of the smaller one.
    """
    mean_old, mean_new = old.mean(axis=0, dtype=np.float64), new.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd((new - mean_new).T @ (old - mean_old), full_matrices=False)
    return _scaled(left @ right, mean_old, mean_new, old)


def _scaled(
    weights: NDArray[np.float64], mean_old: NDArray[np.float64], mean_new: NDArray[np.float64], old: Float32Array
) -> LinearMap:
    """The map that brings mean to mean. Composed maps need results of length 1, which regression shrinks."""
    shift = mean_new - weights @ mean_old
    length = np.linalg.norm(old @ weights.T + shift, axis=1).mean()
    return LinearMap((weights / length).astype(np.float32), (shift / length).astype(np.float32))
