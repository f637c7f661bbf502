"""Ridge regression of stem vectors by conjugate gradients: sparse texts in, dense stem vectors out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError

Float32Array = NDArray[np.float32]

TOLERANCE = 1e-2
"""Residual, relative to the right-hand side, at which a coordinate is solved; 1e-4 takes twice the time and changes
nDCG@10 by less than .001 (bench/RESULTS.md)."""
MAX_ITERATIONS = 100
BLOCK_DIMS = 32
"""Coordinates solved together: the working set is four matrices of stems x this many numbers."""


@dataclass(frozen=True)
class Fit:
    """Fitted stem vectors."""

    vectors: Float32Array  # (v, d)
    iterations: int  # of the block of coordinates that took most


def fit_stems(
    texts: csr_array,
    targets: Float32Array,
    *,
    ridge: float,
    prior: Float32Array | None = None,
    start: Float32Array | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Solve ``argmin ||A X - Y||^2 + ridge ||X - X0||^2`` for the stem vectors X.

    Conjugate gradients on (A'A + ridge I) (X - X0) = A' (Y - A X0), preconditioned by the diagonal, one step size per
    coordinate: two sparse products per iteration.

    Args:
        texts: A, float32, shape (n, v): weighted stems of texts, as ``weigh_texts`` makes them.
        targets: Y, float32, shape (n, d): where each text is to point.
        ridge: weight of the prior, > 0.
        prior: X0, float32, shape (v, d); None: zero.
        start: where the iterations begin, float32, shape (v, d): the solution of a similar problem; None: the prior.
        tolerance: relative residual at which they end.

    Raises:
        InputError: ridge is not positive, shapes do not fit, or a target is not finite.
    """
    if not ridge > 0:
        raise InputError(f"ridge is {ridge}; it must be above 0, or stems of one text alone have no unique vector")
    (n, v), d = texts.shape, targets.shape[1] if targets.ndim == 2 else 0
    if targets.shape != (n, d) or any(given is not None and given.shape != (v, d) for given in (prior, start)):
        raise InputError(f"{n} texts of {v} stems do not fit targets {targets.shape} or the shape of prior or start")
    if not np.isfinite(targets).all():
        raise InputError("a target vector has a value that is not finite; encode its text again")
    transposed = csr_array(texts.T)
    diagonal = np.asarray(texts.multiply(texts).sum(axis=0), dtype=np.float32).ravel() + np.float32(ridge)
    vectors, iterations = np.empty((v, d), dtype=np.float32), 0
    for first in range(0, d, BLOCK_DIMS):
        part = slice(first, first + BLOCK_DIMS)
        x0 = None if prior is None else prior[:, part]
        begin = x0 if start is None else start[:, part]
        solved, needed = _solve(texts, transposed, diagonal, targets[:, part], ridge, x0, begin, tolerance)
        vectors[:, part] = solved
        iterations = max(iterations, needed)
    return Fit(vectors, iterations)


def _solve(
    texts: csr_array,
    transposed: csr_array,
    diagonal: Float32Array,
    targets: Float32Array,
    ridge: float,
    prior: Float32Array | None,
    start: Float32Array | None,
    tolerance: float,
) -> tuple[Float32Array, int]:
    """Solve for a block of coordinates; solution, float32, shape (v, b), and the number of iterations."""
    lam, inverse = np.float32(ridge), (1 / diagonal)[:, None]
    right = transposed @ targets
    if prior is not None:
        right += lam * prior
    limit = tolerance * np.linalg.norm(right, axis=0)
    x = np.zeros_like(right) if start is None else np.array(start, dtype=np.float32)
    residual = right if start is None else right - (transposed @ (texts @ x) + lam * x)
    z = inverse * residual
    direction = z.copy()
    rz = _dots(residual, z)
    for iteration in range(MAX_ITERATIONS):
        open_ = np.linalg.norm(residual, axis=0) > limit
        if not open_.any():
            return x, iteration
        product = transposed @ (texts @ direction)
        product += lam * direction
        step = np.where(open_, rz / np.where(open_, _dots(direction, product), 1), 0).astype(np.float32)
        x += step * direction
        residual -= step * product
        np.multiply(inverse, residual, out=z)
        before, rz = rz, _dots(residual, z)
        direction *= np.where(open_, rz / np.where(open_, before, 1), 0).astype(np.float32)
        direction += z
    return x, MAX_ITERATIONS


def _dots(a: Float32Array, b: Float32Array) -> NDArray[np.float64]:
    dots: NDArray[np.float64] = np.einsum("ij,ij->j", a, b, dtype=np.float64)
    return dots
