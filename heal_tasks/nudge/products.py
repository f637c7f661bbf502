"""Inner products of questions and rows: blocks that fit the memory, and exact products of chosen pairs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

# 4 M scores of 4 bytes are 16 MiB: large enough for the matrix product's full speed, small against the data. A GPU
# waits for the data of every block, so its blocks are larger: 256 MiB.
_CPU_SCORES, _GPU_SCORES = 1 << 22, 1 << 26
_PAIRS_AT_ONCE = 1 << 14
ROUNDING = 1e-5
"""Error of a float32 inner product of unit vectors: ten times the most seen with some thousand dimensions."""


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover 0 .. n - 1."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def block_size(scores: int, device: str, block_scores: int | None = None) -> int:
    """Number of rows with ``scores`` scores each in a block: a power of two, so that it divides into equal groups."""
    total = block_scores or (_CPU_SCORES if device == "cpu" else _GPU_SCORES)
    return 1 << max(1, total // max(1, scores)).bit_length() - 1


def exact(questions: Float32Array, rows: Float32Array, question: Int64Array, row: Int64Array) -> Float64Array:
    """Inner products of chosen pairs, summed in float64: the same to the last bit whatever else is scored.

    Args:
        questions: shape (m, d).
        rows: shape (n, d).
        question: shape (p,): question of each pair.
        row: shape (p,): row of each pair.

    Returns:
        Shape (p,).
    """
    scores = np.empty(len(row))
    for part in blocks(len(row), _PAIRS_AT_ONCE):
        scores[part] = np.einsum("ij,ij->i", questions[question[part]], rows[row[part]], dtype=np.float64)
    return scores
