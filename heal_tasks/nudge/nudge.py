"""NUDGE on stored vectors: chooses plan and theta on validation questions, and returns the rows that change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.apply import MovedRows, changed_rows, move_rows, moves_of
from heal_tasks.nudge.contrast import Displacements
from heal_tasks.nudge.plan import PLAIN, NudgeRecord, Plan, check_theta
from heal_tasks.nudge.questions import CleanQuestions, QuestionSet, clean_questions, unit_rows
from heal_tasks.nudge.solve import Variant
from heal_tasks.nudge.sweep import Metric
from heal_tasks.nudge.theta import ThetaChoice, choose_theta

# The standard error of a mean change in nDCG@10 of so many is about .002.
_MOST_UNASKED = 2000
_MOST_ANSWERS = 10


@dataclass(frozen=True, slots=True)
class NudgeResult(MovedRows):
    """The rows that NUDGE moves, and the figures of the choice.

    Args:
        variant: N or M.
        theta: radians (N) or step length (M); 0 where nothing moves.
        plan: the plan in use.
        centre: float32, shape (d,): the mean training question, which a centred plan subtracts.
        adopted: True if theta is above 0.
        validation_before: the metric on validation at theta 0; None without validation questions.
        validation_after: at ``theta``.
        gain: cross-validated gain of theta on validation questions, adopted or not; None without any.
        standard_error: of that gain, paired by question.
        dropped_questions: questions of both sets without a positive.
        moved_validation_share: share of validation questions that a moved row answers; near 0, validation cannot see a
            gain, near 1 it cannot see the damage to rows without questions.
    """

    variant: Variant
    theta: float
    plan: Plan
    centre: npt.NDArray[np.float32]
    adopted: bool
    validation_before: float | None
    validation_after: float | None
    gain: float | None
    standard_error: float | None
    dropped_questions: int
    moved_validation_share: float

    def record(self, *, by_people: bool = False) -> NudgeRecord:
        """The record that moves further rows in the same way."""
        return self.plan.record(self.variant, self.theta, self.centre, by_people=by_people)


def nudge(
    base: npt.NDArray[np.floating],
    train: QuestionSet,
    validation: QuestionSet,
    *,
    variant: Variant = "N",
    metric: str = "ndcg@10",
    plans: Sequence[Plan] = (PLAIN,),
    refit: QuestionSet | None = None,
    min_gain: float = 0.0,
    max_unasked_loss: float | None = None,
    unasked: QuestionSet | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> NudgeResult:
    """Move the rows that training questions name, by the plan and theta that validation questions support.

    Theta is adopted if its cross-validated gain is above zero at the one-sided 5 % level and reaches ``min_gain``: a
    theta near 0 gains next to nothing with next to no error, and would rewrite every row for it (seen: 1,121 rows for
    .001). Without training or validation questions nothing moves.

    Args:
        base: float16, float32 or float64, shape (n, d): encoder output of all rows; not changed. Rows are brought to
            unit length first.
        train: questions that move rows.
        validation: other questions, of documents with and without training questions.
        variant: N keeps unit length (cosine search); M needs inner-product search.
        metric: of validation: ``accuracy@1``, ``ndcg@K`` or ``recall@K``.
        plans: the plans that validation chooses among, the preferred one first. Each costs a product of the validation
            questions with the rows that move, a contrastive one two of the training questions per step as well.
        refit: all questions there are, those of validation too: they move the rows by the plan and theta that were
            chosen without them. All figures in the result are those of the training questions alone.
        min_gain: smallest gain for which rows are moved.
        max_unasked_loss: largest mean loss allowed on questions whose answers no question has moved: up to 2,000
            training questions are ranked with their own answers at the base vectors, since validation may have few
            such questions, or none. None: any loss, if validation gains on average.
        unasked: questions to which ``max_unasked_loss`` applies, instead of training questions.
        seed: of the folds in which validation judges the search.
        device: where to compute similarities and displacements, ``cpu`` or a GPU.

    Returns:
        The changed rows and the figures of the choice.

    Raises:
        InputError: a vector that is zero or not finite, dimensions that differ, a positive that is not a row, an
            unknown variant or metric, no plan, or a negative loss. The value and its row are named.
    """
    check_theta(variant)
    Metric(metric)
    if not plans:
        raise InputError("there are no plans to choose among; pass at least one")
    if max_unasked_loss is not None and not max_unasked_loss >= 0:
        raise InputError(f"max_unasked_loss is {max_unasked_loss}; the tolerated loss must be >= 0")
    documents = unit_rows(base, "document")
    n, d = documents.shape
    asked = clean_questions(train, n_rows=n, dims=d, what="training")
    judged = clean_questions(validation, n_rows=n, dims=d, what="validation")
    rows = asked.rows()
    start = documents[rows]
    centre = (asked.vectors.sum(axis=0, dtype=np.float64) / max(1, len(asked.vectors))).astype(np.float32)
    planned = [moves_of(plan, variant, asked, rows, start, centre, device=device) for plan in plans]
    choice: ThetaChoice | None = None
    if judged.positives:
        guard = None
        if max_unasked_loss is not None and unasked is not None and len(unasked.positives):
            guard = clean_questions(unasked, n_rows=n, dims=d, what="unasked")
        elif max_unasked_loss is not None:
            guard = _some_questions(asked, seed)
        choice = choose_theta(
            judged, documents, rows, [moves for moves, _ in planned], metric, unasked=guard,
            max_unasked_loss=max_unasked_loss or 0.0, seed=seed, device=device,
        )  # fmt: skip
    number, theta = 0, 0.0
    if choice and choice.convincing and choice.gain >= min_gain:
        number, theta = choice.plan, choice.theta
    moves, displacements = planned[number]
    pairs, _ = judged.pairs()
    can_gain = np.unique(pairs[np.isin(pairs[:, 1], rows[moves.arrival > 0]), 0])
    if not theta:
        moved = MovedRows(rows[:0], start[:0], Displacements.none(d))
    elif refit is not None:
        moved = move_rows(documents, refit, plans[number].record(variant, theta, centre), device=device)
    else:
        moved = changed_rows(rows, start, moves, theta, displacements)
    before = float(choice.before.mean()) if choice else None
    return NudgeResult(
        rows=moved.rows,
        vectors=moved.vectors,
        displacements=moved.displacements,
        variant=variant,
        theta=theta,
        plan=plans[number],
        centre=centre,
        adopted=theta > 0,
        validation_before=before,
        validation_after=float(choice.after.mean()) if choice and theta else before,
        gain=choice.gain if choice else None,
        standard_error=choice.standard_error if choice else None,
        dropped_questions=asked.dropped + judged.dropped,
        moved_validation_share=len(can_gain) / max(1, len(judged.positives)),
    )


def _some_questions(asked: CleanQuestions, seed: int) -> CleanQuestions | None:
    """Questions to be ranked with their answers at the base vectors; None where there are none."""
    # Of more answers than a first page holds, some are moved by other questions.
    few = np.flatnonzero([len(rows) <= _MOST_ANSWERS for rows in asked.positives])
    chosen = np.sort(np.random.default_rng(seed).permutation(few)[:_MOST_UNASKED])
    if not len(chosen):
        return None
    return CleanQuestions(asked.vectors[chosen], tuple(asked.positives[row] for row in chosen), asked.places[chosen], 0)
