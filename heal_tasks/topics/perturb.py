"""Matrices beside X: perturbed copies whose topics should agree, and one that has no topics at all."""

import numpy as np
from scipy.sparse import csr_array

from heal_tasks.topics.operand import Floats


def uniform_noise(entries: Floats, noise: float, rng: np.random.Generator) -> Floats:
    """Every stored entry times a uniform draw from 1 - noise to 1 + noise.

    Args:
        entries: float32, shape (nnz,).
        noise: relative, in (0, 1).
        rng: of the draws.

    Returns:
        float32, shape (nnz,).
    """
    factors = rng.random(entries.size, np.float32)
    factors *= np.float32(2 * noise)
    factors += np.float32(1 - noise)
    factors *= entries
    return factors


def poisson_noise(entries: Floats, occurrences: Floats, rng: np.random.Generator) -> Floats:
    """Every stored entry as if its word had been counted again: a Poisson draw around the count.

    Args:
        entries: float32, shape (nnz,).
        occurrences: float32, shape (nnz,), the count that each entry stands for; of a matrix of plain counts,
            the entries themselves.
        rng: of the draws.

    Returns:
        float32, shape (nnz,); some are zero.
    """
    drawn = rng.poisson(occurrences).astype(np.float32)
    return entries * np.divide(drawn, occurrences, out=np.zeros_like(drawn), where=occurrences > 0)


def null_matrix(X: csr_array, rng: np.random.Generator) -> csr_array:
    """Each column's entries dealt out to random rows: the same words without topics.

    Args:
        X: float32 csr, shape (n, v).
        rng: of the draws.

    Returns:
        float32 csr, shape (n, v).
    """
    columns = X.tocsc()
    counts = np.diff(columns.indptr)
    rows = [rng.choice(X.shape[0], count, replace=False, shuffle=False).astype(np.int32) for count in counts]
    places = (np.concatenate([np.empty(0, np.int32), *rows]), np.repeat(np.arange(X.shape[1], dtype=np.int32), counts))
    return csr_array((columns.data, places), shape=X.shape)
