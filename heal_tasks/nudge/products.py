"""Similarities of questions to many rows, in blocks, on the CPU or a GPU.

The product of all questions with all rows is nearly all the work of NUDGE, and it only has to tell which few rows
matter. So it may be wrong by a known bound: on the CPU it is taken in 8-bit integers, where that costs about half of
float32. Whoever uses it rescores what is left with ``exact``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float32Array = npt.NDArray[np.float32]

# 4 M scores of 4 bytes are 16 MiB: large enough for the product's full speed, small against the data.
CPU_SCORES_AT_ONCE = 1 << 22
# A GPU waits for the rows of every block and for what is found in it, so it gets larger ones: 256 MiB.
GPU_SCORES_AT_ONCE = 1 << 26
QUESTIONS_AT_ONCE = 2048
_PAIRS_AT_ONCE = 1 << 14
# Ten times what float32 sums of some thousand products of unit vectors were seen to differ by.
ROUNDING = 1e-5
_SEVEN_BITS, _ZERO = 63, 64


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover 0 .. n - 1."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def scores_at_once(device: str) -> int:
    """How many scores a block has."""
    return CPU_SCORES_AT_ONCE if device == "cpu" else GPU_SCORES_AT_ONCE


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


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a block of rows.

    Args:
        codes: float32 or uint8, shape (m, b).
        unit: float32, shape (m, 1): a question's score is its code times this; the code 0 may also be a negative score.
        wrong: float32, shape (m, 1): the most by which a question's scores may be wrong, for either reason not less.
    """

    codes: torch.Tensor
    unit: torch.Tensor
    wrong: torch.Tensor


class FloatProduct:
    """Scores in float32.

    Args:
        questions: float32, shape (m, d), unit length.
        device: ``cpu`` or a GPU.
    """

    def __init__(self, questions: Float32Array, device: str) -> None:
        self._questions = torch.from_numpy(questions).to(device)
        self._one = self._questions.new_ones((len(questions), 1))

    def scores(self, rows: Float32Array) -> Scores:
        """Score rows, float32, shape (b, d), of length 0 or 1."""
        codes = self._questions @ torch.from_numpy(rows).to(self._questions.device).T
        return Scores(codes, self._one, self._one * ROUNDING)


class ByteProduct:
    """Scores as 8-bit integers from 7-bit questions and 8-bit rows, on the CPU.

    A vector x stored as y is wrong by |x - y|, so a score by at most |q - q'| |d'| + |q| |d - d'| (Cauchy-Schwarz) and
    half a step of the result. Seven bits, because without VNNI two products are added in 16 bits, which saturate at
    2 * 127 * 127 < 32768.

    Args:
        questions: float32, shape (m, d), unit length.
    """

    def __init__(self, questions: Float32Array) -> None:
        exactly = torch.from_numpy(questions)
        step = exactly.abs().amax(dim=1, keepdim=True) / _SEVEN_BITS
        stored = (exactly / step).round_()
        self._error = (exactly - stored * step).norm(dim=1, keepdim=True)
        self._questions = (stored + _ZERO).to(torch.uint8)
        # One output step for all questions, as wide as the largest possible score of 1 needs.
        self._out = float(1.0 / step.min() / 255)
        self._unit = step * self._out

    def scores(self, rows: Float32Array) -> Scores:
        """Score rows, float32, shape (b, d), of length 0 or 1."""
        exactly = torch.from_numpy(rows)
        step = (exactly.abs().amax(dim=1) / 127).clamp_min_(1e-30)
        weights = torch.ops.onednn.qlinear_prepack((exactly / step[:, None]).round_().to(torch.int8), None)
        zeros = torch.zeros(len(rows), dtype=torch.int64)
        codes = torch.ops.onednn.qlinear_pointwise(
            self._questions, 1.0, _ZERO, weights, step, zeros, None, self._out, 0, torch.uint8, "none", [], ""
        )
        # A value is off by at most half a step, so a row by half of it times the root of the dimensions.
        error = float(step.max()) / 2 * rows.shape[1] ** 0.5
        return Scores(codes, self._unit, self._error * (1 + error) + error + self._unit / 2 + ROUNDING)


def product(questions: Float32Array, device: str) -> FloatProduct | ByteProduct:
    """The cheapest product for a device."""
    if device == "cpu" and torch.backends.mkldnn.enabled and hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return ByteProduct(questions)
    return FloatProduct(questions, device)
