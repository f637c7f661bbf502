"""NUDGE on stored vectors: base vectors and questions in, the rows that change out.

Always computed from base vectors, never from nudged ones: the result is a function of (base, questions, budget),
so it can be repeated, undone (budget 0) and never drifts. Measured on synthetic data, six batches nudged on top
of each other moved rows more than twice as far as the same batches taken from the base.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.budget import LIMITS, choose_budget
from heal_tasks.nudge.questions import QuestionSet, clean_questions, unit_rows
from heal_tasks.nudge.solve import Variant, apply_moves, gradients, plan_moves
from heal_tasks.nudge.sweep import Metric

__all__ = ["NudgeResult", "QuestionSet", "nudge", "recompute"]

# Smaller differences are rounding; writing them would touch rows for nothing.
_SMALLEST_CHANGE = 1e-6


@dataclass(frozen=True, slots=True)
class NudgeResult:
    """What NUDGE did.

    Args:
        rows: ascending int64, shape (c,): the rows that changed; every other row is its base vector.
        vectors: float32, shape (c, d): their new vectors.
        theta: the budget in use: radians for NUDGE-N, step length for NUDGE-M; 0 where nothing moves.
        variant: N or M.
        validation_before: the metric on validation at budget 0; None without validation questions.
        validation_after: at ``theta``.
        standard_error: of the paired gain at the best budget looked at, adopted or not.
        adopted: whether a budget above 0 is in use.
        dropped_questions: questions of both sets without a positive.
        moved_validation_share: share of validation questions that a row with training questions answers; near 0,
            validation cannot see a gain, near 1 it cannot see the damage to rows without questions.
    """

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    theta: float
    variant: Variant
    validation_before: float | None
    validation_after: float | None
    standard_error: float | None
    adopted: bool
    dropped_questions: int
    moved_validation_share: float


def nudge(
    base: npt.NDArray[np.floating],
    train: QuestionSet,
    validation: QuestionSet,
    *,
    variant: Variant = "N",
    metric: str = "ndcg@10",
    theta: float | None = None,
    min_gain: float = 0.0,
) -> NudgeResult:
    """Move the rows that training questions ask for, by the budget that validation questions support.

    A found budget is adopted if its gain exceeds one standard error and reaches ``min_gain``: a budget near 0 gains
    next to nothing with next to no error, and would rewrite every row for it (seen: 1,121 rows for .001).
    Without training questions nothing moves, and without validation questions only a given budget does.

    Args:
        base: float16, float32 or float64, shape (n, d): encoder output of all rows; not changed. Rows are brought to
            unit length first.
        train: questions that move rows.
        validation: other questions, of documents with and without training questions.
        variant: N keeps unit length (cosine search); M needs inner-product search.
        metric: what validation measures: ``accuracy@1``, ``ndcg@K`` or ``recall@K``.
        theta: use this budget without a search, as the incremental path does with the live generation's.
        min_gain: smallest gain worth moving rows for.

    Returns:
        The changed rows and what is known about them.

    Raises:
        InputError: a vector that is zero or not finite, dimensions that differ, a positive that is not a row, an
            unknown variant or metric, or a budget outside its range. Row and value are named.
    """
    if variant not in LIMITS:
        raise InputError(f"unknown NUDGE variant {variant!r}; take N or M")
    if theta is not None and not (math.isfinite(theta) and 0 <= theta <= LIMITS[variant]):
        raise InputError(f"budget {theta} of NUDGE-{variant} is outside 0 to {LIMITS[variant]:.4f}")
    Metric(metric)
    documents = unit_rows(base, "document")
    n, d = documents.shape
    asked = clean_questions(train, n_rows=n, dims=d, what="training")
    judged = clean_questions(validation, n_rows=n, dims=d, what="validation")
    rows, G = gradients(asked.vectors, *asked.pairs(), n_rows=n)
    moves = plan_moves(documents[rows], G, variant)
    moving = np.zeros(n, dtype=bool)
    moving[rows[moves.arrival > 0]] = True
    used = theta or 0.0
    before = after = error = None
    if judged.positives:
        found = choose_budget(judged, documents, rows, moves, metric, theta=theta)
        if theta is None and found.convincing and found.gain >= min_gain:
            used = found.theta
        before, error = float(found.before.mean()), found.standard_error
        after = float(found.after.mean()) if used == found.theta else before
    start = documents[rows]
    vectors = apply_moves(start, moves, used)
    changed = np.abs(vectors - start).max(axis=1) > _SMALLEST_CHANGE
    return NudgeResult(
        rows[changed],
        vectors[changed],
        used,
        variant,
        before,
        after,
        error,
        used > 0,
        asked.dropped + judged.dropped,
        float(np.mean([moving[wanted].any() for wanted in judged.positives])) if judged.positives else 0.0,
    )


def recompute(
    base: npt.NDArray[np.floating],
    questions: npt.NDArray[np.floating],
    answers: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    variant: Variant,
    theta: float,
) -> npt.NDArray[np.float32]:
    """Some rows as ``nudge`` gives them with the same budget; the others are not needed for it.

    Args:
        base: float16, float32 or float64, shape (m, d): encoder output of these rows.
        questions: float, shape (q, d): the training questions that they answer.
        answers: int64, shape (q,): which of the m rows answers each.
        weights: float64, shape (q,): 1 / number of rows, these and others, that answer the question.
        variant: N or M.
        theta: the budget.

    Returns:
        float32, shape (m, d).
    """
    moved = unit_rows(base, "document").copy()
    asked = unit_rows(questions, "training question") if len(questions) else np.empty((0, moved.shape[1]), np.float32)
    pairs = np.column_stack([np.arange(len(asked)), answers])
    rows, G = gradients(asked, pairs, weights, n_rows=len(moved))
    moved[rows] = apply_moves(moved[rows], plan_moves(moved[rows], G, variant), theta)
    return moved
