"""Similarities of questions to many rows, in blocks, on the CPU or a GPU.

The product of all questions with all rows is nearly all the work of NUDGE, and it only has to tell which few rows
matter. So it is approximate with a known bound: 8-bit integers where the CPU has no faster way, float32 otherwise;
whoever uses it rescores what is left with ``exact``.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

Float32Array = npt.NDArray[np.float32]

# 4 M scores of 4 bytes are 16 MiB: large enough for the product's full speed, small against the data.
SCORES_AT_ONCE = 1 << 22
QUESTIONS_AT_ONCE = 2048
_PAIRS_AT_ONCE = 1 << 14
# Ten times what float32 sums of some thousand products of unit vectors were seen to differ by.
ROUNDING = 1e-5


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover 0 .. n - 1."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def exact(
    questions: Float32Array, rows: Float32Array, question: npt.NDArray[np.int64], row: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Inner products of chosen pairs, summed in float64: the same to the last bit whatever else is scored.

    Args:
        questions: float32, shape (m, d).
        rows: float32, shape (n, d).
        question: int64, shape (p,): which question.
        row: int64, shape (p,): which row.

    Returns:
        float64, shape (p,).
    """
    scores = np.empty(len(row))
    for part in blocks(len(row), _PAIRS_AT_ONCE):
        scores[part] = np.einsum("ij,ij->i", questions[question[part]], rows[row[part]], dtype=np.float64)
    return scores


class FloatProduct:
    """Scores in float32, wrong by at most ``ROUNDING``.

    Args:
        questions: float32, shape (m, d), unit length.
        device: ``cpu`` or a GPU.
    """

    def __init__(self, questions: Float32Array, device: str) -> None:
        self._device = device
        self._questions = torch.from_numpy(questions).to(device)

    def scores(self, rows: Float32Array) -> torch.Tensor:
        """Score rows, float32, shape (b, d), of length 0 or 1: float32, shape (m, b)."""
        return self._questions @ torch.from_numpy(rows).to(self._device).T
