"""Checks and cleans the input of NUDGE.

A single NaN makes the published package find no gain, an index of -1 moves an unrelated row, and a repeated question
counts twice, all without a message. Here the first two are errors that name row and value, and equal questions merge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.products import Float32Array, Float64Array, Int64Array, blocks

# Rounding of float32 sums of some thousand squares.
_UNIT_TOLERANCE = 3e-6
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions with the rows that answer them."""

    vectors: NDArray[np.floating]  # (q, d), of any length above zero
    positives: Sequence[NDArray[np.integer]]  # rows that answer each question; an empty array drops the question


@dataclass(frozen=True, slots=True)
class CleanQuestions:
    """Distinct unit questions, each with at least one positive."""

    vectors: Float32Array  # (q, d), unit length
    positives: tuple[Int64Array, ...]  # sorted distinct rows of each question
    places: Int64Array  # (q,): index of the first of equal questions in the set as it was given

    def pairs(self) -> tuple[Int64Array, Float64Array]:
        """All (question, row) pairs, shape (p, 2), and weights 1/|positives of the question|, shape (p,)."""
        sizes = np.array([len(rows) for rows in self.positives], dtype=np.int64)
        rows = np.concatenate(self.positives) if len(sizes) else np.empty(0, dtype=np.int64)
        return np.column_stack([np.repeat(np.arange(len(sizes)), sizes), rows]), np.repeat(1.0 / sizes, sizes)

    def rows(self) -> Int64Array:
        """All rows that answer a question, ascending, shape (a,)."""
        return np.unique(self.pairs()[0][:, 1])


def unit_rows(rows: NDArray[np.floating], what: str) -> Float32Array:
    """Check vectors, shape (n, d), and bring them to unit length; what is float32 and of unit length is not copied.

    Args:
        rows: float16, float32 or float64.
        what: the name of a row in an error, for example ``document``.

    Raises:
        InputError: not a matrix of floats, or a row that is zero or has a value that is not finite.
    """
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise InputError(f"{what} vectors must be a matrix of floats, got {rows.dtype} of shape {rows.shape}")
    if rows.dtype == np.float32:
        near = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if np.all(np.abs(near - 1) <= _UNIT_TOLERANCE):  # false for NaN
            return np.asarray(rows, dtype=np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64, casting="same_kind"))
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        values = rows[bad[0]][~np.isfinite(rows[bad[0]])]
        found = values[0] if len(values) else lengths[bad[0]]
        raise InputError(f"{what} {bad[0]} has the value {found} in its vector; encode it again")
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise InputError(f"{what} {zero[0]} has a zero vector, which has no direction; encode it again or leave it out")
    unit = np.empty(rows.shape, dtype=np.float32)
    for part in blocks(len(rows), _ROWS_AT_ONCE):
        unit[part] = rows[part] / lengths[part, None]
    return unit


def clean_questions(questions: QuestionSet, *, n_rows: int, dims: int, what: str) -> CleanQuestions:
    """Check questions, bring them to unit length, drop those without positives and merge equal ones.

    Equal questions become one with the positives of all, so that a question written twice does not count twice. The
    order is that of first appearance.

    Args:
        questions: the questions to clean.
        n_rows: number of document rows that positives may name.
        dims: dimensions of the document vectors.
        what: the name of the set in an error, for example ``training``.

    Raises:
        InputError: vectors as in :func:`unit_rows`, other dimensions, or a positive outside 0 .. n_rows - 1.
    """
    if len(questions.vectors) != len(questions.positives):
        raise InputError(
            f"{what} set: {len(questions.vectors)} vectors but {len(questions.positives)} lists of positives; "
            "pass one per question"
        )
    if len(questions.vectors) == 0:
        return CleanQuestions(np.empty((0, dims), dtype=np.float32), (), np.empty(0, dtype=np.int64))
    if questions.vectors.ndim != 2 or questions.vectors.shape[1] != dims:
        raise InputError(
            f"{what} questions of shape {questions.vectors.shape} do not fit documents of {dims} dimensions; "
            "encode both with the same model"
        )
    unit = unit_rows(questions.vectors, f"{what} question")
    for row, given in enumerate(questions.positives):
        wanted = np.asarray(given)
        if wanted.size and (wanted.ndim != 1 or wanted.dtype.kind not in "iu"):
            raise InputError(
                f"{what} question {row} has positives of type {wanted.dtype} and shape {wanted.shape}; "
                "pass a list of integers"
            )
    sizes = np.array([len(given) for given in questions.positives], dtype=np.int64)
    rows = np.concatenate([np.asarray(given, dtype=np.int64) for given in questions.positives])
    owners = np.repeat(np.arange(len(sizes)), sizes)
    bad = np.flatnonzero((rows < 0) | (rows >= n_rows))
    if len(bad):
        raise InputError(
            f"{what} question {owners[bad[0]]} names document {rows[bad[0]]}, but rows are 0 to {n_rows - 1}"
        )
    same = _first_equal(unit)
    pairs = np.unique(same[owners] * n_rows + rows)
    kept, starts = np.unique(pairs // n_rows, return_index=True)
    answers = pairs % n_rows
    return CleanQuestions(
        unit if len(kept) == len(unit) else unit[kept],
        tuple(answers[first:last] for first, last in zip(starts, np.append(starts[1:], len(answers)), strict=True)),
        kept,
    )


def _first_equal(rows: Float32Array) -> Int64Array:
    """Index of the first row that equals each row, shape (n,)."""
    # Adding 0 makes -0.0 and 0.0 the same bytes.
    whole = (rows + np.float32(0)).view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(row.tobytes(), place) for place, row in enumerate(whole)], dtype=np.int64)
