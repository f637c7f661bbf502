"""Moves rows by a stored record, without a search: served vectors as a function of base vectors, questions and record."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.nudge.contrast import Pushes
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.nudge.questions import QuestionSet, clean_questions, unit_rows
from heal_tasks.nudge.solve import apply_moves

# Smaller differences are rounding; writing them would touch rows for nothing.
SMALLEST_CHANGE = 1e-6


@dataclass(frozen=True, slots=True)
class MovedRows:
    """Rows that questions have moved.

    Args:
        rows: ascending int64, shape (c,): the rows that changed.
        vectors: float32, shape (c, d): their new vectors.
        pushes: the contrastive displacements in them; none for another plan.
    """

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    pushes: Pushes


def move_rows(
    base: npt.NDArray[np.floating],
    questions: QuestionSet,
    record: NudgeRecord,
    *,
    pushes: Pushes | None = None,
    device: str = "cpu",
) -> MovedRows:
    """Move all rows that questions name, by a record.

    Args:
        base: float, shape (n, d): encoder output of all rows; not changed.
        questions: those that move rows.
        record: plan, theta and centre.
        pushes: stored contrastive displacements; None to compute them.
        device: where to compute, ``cpu`` or a GPU.

    Returns:
        The rows that changed.
    """
    asked = clean_questions(questions, n_rows=len(base), dims=base.shape[1], what="moving")
    rows = np.unique(asked.pairs()[0][:, 1])
    start = unit_rows(base[rows], "document")
    centre = np.zeros(base.shape[1], dtype=np.float32) if record.centre is None else record.centre
    moves, kept = record.plan.moves(asked, rows, start, record.variant, centre, pushes, device)
    return changed_rows(rows, start, apply_moves(start, moves, record.theta), kept)


def changed_rows(
    rows: npt.NDArray[np.int64], start: npt.NDArray[np.float32], moved: npt.NDArray[np.float32], pushes: Pushes
) -> MovedRows:
    """Those of some rows that moved by more than rounding.

    Args:
        rows: int64, shape (a,).
        start: float32, shape (a, d): before.
        moved: float32, shape (a, d): after.
        pushes: the contrastive displacements in them.

    Returns:
        The rows that changed.
    """
    changed = np.abs(moved - start).max(axis=1, initial=0.0) > SMALLEST_CHANGE
    return MovedRows(rows[changed], moved[changed], pushes)
