"""NUDGE on stored vectors: base vectors and questions in, the rows that change out.

Always computed from base vectors, never from nudged ones: the result is a function of (base, questions, budget),
so it can be repeated, undone (budget 0) and never drifts. Measured on synthetic data, six batches nudged on top
of each other moved rows more than twice as far as the same batches taken from the base.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.budget import LIMITS, choose_budget
from heal_tasks.nudge.contrast import Pushes
from heal_tasks.nudge.plan import PLAIN, Plan
from heal_tasks.nudge.questions import CleanQuestions, QuestionSet, clean_questions, unit_rows
from heal_tasks.nudge.solve import Variant, apply_moves, gradients, plan_moves
from heal_tasks.nudge.sweep import Metric

__all__ = ["PLAIN", "NudgeResult", "Plan", "Pushes", "QuestionSet", "nudge", "recompute"]

# Smaller differences are rounding; writing them would touch rows for nothing.
_SMALLEST_CHANGE = 1e-6

# The standard error of a mean change in nDCG@10 of so many is about .002.
_MOST_UNASKED = 2000
_MOST_ANSWERS = 10


@dataclass(frozen=True, slots=True)
class NudgeResult:
    """What NUDGE did.

    Args:
        rows: ascending int64, shape (c,): the rows that changed; every other row is its base vector.
        vectors: float32, shape (c, d): their new vectors.
        theta: the budget in use: radians for NUDGE-N, step length for NUDGE-M; 0 where nothing moves.
        variant: N or M.
        plan: the plan in use.
        centre: float32, shape (d,): the mean training question; what a centred plan took off.
        pushes: what a contrastive plan adds to the gradients of the rows that have questions; none for another one.
        validation_before: the metric on validation at budget 0; None without validation questions.
        validation_after: at ``theta``.
        gain: of the search on validation questions that had no part in it, adopted or not; of ``theta`` itself where
            it was given; None without validation questions.
        standard_error: of that gain, paired by question.
        adopted: whether a budget above 0 is in use.
        dropped_questions: questions of both sets without a positive.
        moved_validation_share: share of validation questions that a row with training questions answers; near 0,
            validation cannot see a gain, near 1 it cannot see the damage to rows without questions.
    """

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    theta: float
    variant: Variant
    plan: Plan
    centre: npt.NDArray[np.float32]
    pushes: Pushes
    validation_before: float | None
    validation_after: float | None
    gain: float | None
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
    plans: Sequence[Plan] = (PLAIN,),
    theta: float | None = None,
    centre: npt.NDArray[np.float32] | None = None,
    pushes: Pushes | None = None,
    refit: QuestionSet | None = None,
    min_gain: float = 0.0,
    max_unasked_loss: float | None = None,
    unasked: QuestionSet | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> NudgeResult:
    """Move the rows that training questions ask for, by the budget that validation questions support.

    A found budget is adopted if the gain of the search, on questions kept out of it, is above zero at the one-sided
    5 % level and reaches ``min_gain``: a budget near 0 gains next to nothing with next to no error, and would rewrite
    every row for it (seen: 1,121 rows for .001). Without training questions nothing moves, and without validation
    questions only a given budget does.

    Args:
        base: float16, float32 or float64, shape (n, d): encoder output of all rows; not changed. Rows are brought to
            unit length first.
        train: questions that move rows.
        validation: other questions, of documents with and without training questions.
        variant: N keeps unit length (cosine search); M needs inner-product search.
        metric: what validation measures: ``accuracy@1``, ``ndcg@K`` or ``recall@K``.
        plans: what validation chooses among, the preferred one first; each costs a product of the validation
            questions with the rows that move, a contrastive one two of the training questions per step as well.
        theta: use this budget and the first plan without a search, as the incremental path does with the live
            generation's.
        centre: float32, shape (d,): what a centred plan takes off; None for the mean of these training questions.
            Whoever goes on with a budget goes on with its centre, or one question more would move all rows.
        pushes: of a budget that is gone on with, for the same reason; None to compute what a plan asks for.
        refit: all questions there are, those of validation too: they move the rows by the plan and budget that were
            chosen or given without them; every figure in the result is that of the training questions alone.
        min_gain: smallest gain worth moving rows for.
        max_unasked_loss: how much questions may lose on average whose answers nobody has asked for: up to 2,000
            training questions are judged with their own answers left where they were, since validation may have few
            such questions, or none. None: any loss that validation's mean gain outweighs.
        unasked: judge these questions instead of training ones by ``max_unasked_loss``.
        seed: of the folds in which validation judges the search.
        device: where to compute similarities and pushes, ``cpu`` or a GPU.

    Returns:
        The changed rows and what is known about them.

    Raises:
        InputError: a vector that is zero or not finite, dimensions that differ, a positive that is not a row, an
            unknown variant or metric, no plan or a negative number in one, or a budget outside its range. The value and
            its row are named.
    """
    if variant not in LIMITS:
        raise InputError(f"unknown NUDGE variant {variant!r}; take N or M")
    if theta is not None and not (math.isfinite(theta) and 0 <= theta <= LIMITS[variant]):
        raise InputError(f"budget {theta} of NUDGE-{variant} is outside 0 to {LIMITS[variant]:.4f}")
    if not plans or not all(plan.possible for plan in plans):
        raise InputError(
            f"plans are {tuple(plans)}; pass at least one, with prior and contrast_steps of 0 or more, contrast_steps "
            "only with a prior, and answer_count_exponent from 0 to 1"
        )
    if max_unasked_loss is not None and not max_unasked_loss >= 0:
        raise InputError(f"max_unasked_loss is {max_unasked_loss}; it is a tolerated loss and must be 0 or more")
    Metric(metric)
    documents = unit_rows(base, "document")
    n, d = documents.shape
    asked = clean_questions(train, n_rows=n, dims=d, what="training")
    judged = clean_questions(validation, n_rows=n, dims=d, what="validation")
    rows = np.unique(asked.pairs()[0][:, 1])
    start = documents[rows]
    if centre is None:
        mean = asked.vectors.sum(axis=0, dtype=np.float64) / max(1, len(asked.vectors))
        centre = mean.astype(np.float32)
    planned = [
        plan.moves(asked, rows, start, variant, centre, pushes, device)
        for plan in (plans if theta is None else plans[:1])
    ]
    moves = [found for found, _ in planned]
    chosen, used = 0, theta or 0.0
    before = after = gain = error = None
    if judged.positives:
        guard = None
        if max_unasked_loss is not None and unasked is not None and len(unasked.positives):
            guard = clean_questions(unasked, n_rows=n, dims=d, what="unasked")
        elif max_unasked_loss is not None:
            guard = _some_questions(asked, seed)
        found = choose_budget(
            judged, documents, rows, moves, metric, theta=theta, unasked=guard,
            max_unasked_loss=max_unasked_loss or 0.0, seed=seed, device=device,
        )  # fmt: skip
        if theta is None and found.convincing and found.gain >= min_gain:
            chosen, used = found.plan, found.theta
        before, gain, error = float(found.before.mean()), found.gain, found.standard_error
        after = float(found.after.mean()) if used == found.theta else before
    pairs, _ = judged.pairs()
    can_gain = pairs[np.isin(pairs[:, 1], rows[moves[chosen].arrival > 0]), 0]
    final, kept = planned[chosen]
    if refit is not None:
        everything = clean_questions(refit, n_rows=n, dims=d, what="refit")
        rows = np.unique(everything.pairs()[0][:, 1])
        start = documents[rows]
        final, kept = plans[chosen].moves(everything, rows, start, variant, centre, pushes, device)
    vectors = apply_moves(start, final, used)
    changed = np.abs(vectors - start).max(axis=1, initial=0.0) > _SMALLEST_CHANGE
    return NudgeResult(
        rows[changed],
        vectors[changed],
        used,
        variant,
        plans[chosen],
        centre,
        kept,
        before,
        after,
        gain,
        error,
        used > 0,
        asked.dropped + judged.dropped,
        len(np.unique(can_gain)) / max(1, len(judged.positives)),
    )


def _some_questions(asked: CleanQuestions, seed: int) -> CleanQuestions | None:
    """Questions to be judged with their answers unmoved; None where there are none."""
    # With more answers than a first page, some are asked for by others.
    few = np.flatnonzero([len(rows) <= _MOST_ANSWERS for rows in asked.positives])
    chosen = np.sort(np.random.default_rng(seed).permutation(few)[:_MOST_UNASKED])
    if not len(chosen):
        return None
    return CleanQuestions(asked.vectors[chosen], tuple(asked.positives[row] for row in chosen), asked.places[chosen], 0)


def recompute(
    base: npt.NDArray[np.floating],
    questions: npt.NDArray[np.floating],
    answers: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    variant: Variant,
    theta: float,
    prior: float = 0.0,
    centre: npt.NDArray[np.float32] | None = None,
    pushes: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Some rows as ``nudge`` gives them with the same budget; the others are not needed for it.

    Args:
        base: float16, float32 or float64, shape (m, d): encoder output of these rows.
        questions: float, shape (q, d): the training questions that they answer.
        answers: int64, shape (q,): which of the m rows answers each.
        weights: float64, shape (q,): by :meth:`Plan.weights`, of 1 / number of rows, these and others, that answer the
            question.
        variant: N or M.
        theta: the budget.
        prior: of the plan.
        centre: float32, shape (d,): of a centred plan; None for another one.
        pushes: float32, shape (m, d): of a contrastive plan, 0 for rows that have come since; None for another plan.

    Returns:
        float32, shape (m, d).
    """
    moved = unit_rows(base, "document").copy()
    asked = unit_rows(questions, "training question") if len(questions) else np.empty((0, moved.shape[1]), np.float32)
    pairs = np.column_stack([np.arange(len(asked)), answers])
    rows, G = gradients(asked, pairs, weights, centre=centre)
    if pushes is not None:
        G += pushes[rows]
    moved[rows] = apply_moves(moved[rows], plan_moves(moved[rows], G, variant, prior), theta)
    return moved
