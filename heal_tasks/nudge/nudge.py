"""NUDGE on stored vectors: chooses plan and theta on validation questions, and returns the rows that change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.apply import MovedRows, changed_rows, move_rows, moves_of
from heal_tasks.nudge.contrast import Displacements
from heal_tasks.nudge.plan import PLAIN, NudgeRecord, Plan, check_theta
from heal_tasks.nudge.products import Float32Array
from heal_tasks.nudge.questions import QuestionSet, clean_questions, unit_rows
from heal_tasks.nudge.solve import Variant
from heal_tasks.nudge.sweep import Metric
from heal_tasks.nudge.theta import ThetaChoice, boldest_plan, choose_theta


@dataclass(frozen=True, slots=True)
class NudgeResult(MovedRows):
    """The rows that NUDGE moves, by which plan and theta, and the choice of these."""

    variant: Variant
    theta: float  # radians (N) or step length (M); 0 where nothing moves
    plan: Plan
    centre: Float32Array  # (d,): the mean training question, which a centred plan subtracts
    choice: ThetaChoice | None  # the best plan and theta, adopted or not; None without validation questions

    @property
    def adopted(self) -> bool:
        """True if theta is above 0."""
        return self.theta > 0

    def record(self, *, by_people: bool = False) -> NudgeRecord:
        """The record that moves further rows in the same way."""
        return self.plan.record(self.variant, self.theta, self.centre, by_people=by_people)


def nudge(
    base: NDArray[np.floating],
    train: QuestionSet,
    validation: QuestionSet,
    *,
    variant: Variant = "N",
    metric: str = "ndcg@10",
    plans: Sequence[Plan] = (PLAIN,),
    refit: QuestionSet | None = None,
    min_gain: float = 0.0,
    max_loss: float | None = None,
    unasked: QuestionSet | None = None,
    max_unasked_loss: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
) -> NudgeResult:
    """Move the rows that training questions name, by the plan and theta that validation questions support.

    Theta is adopted if its cross-validated gain is above zero at the one-sided 5 % level and reaches ``min_gain``: a
    theta near 0 gains next to nothing with next to no error, and would rewrite every row for it (seen: 1,121 rows for
    .001). Without training or validation questions nothing moves.

    Args:
        base: shape (n, d): encoder output of all rows, of any length; not changed.
        train: questions that move rows.
        validation: other questions, of documents with and without training questions.
        variant: N keeps unit length (cosine search); M needs inner-product search.
        metric: of validation: ``accuracy@1``, ``ndcg@K`` or ``recall@K``.
        plans: the plans that validation chooses among, the preferred one first. Each costs a product of the validation
            questions with the rows that move, a contrastive one two of the training questions per step as well.
        refit: all questions there are, those of validation too: they move the rows by the plan and theta that were
            chosen without them. The choice in the result is that by the training questions alone.
        min_gain: smallest gain for which rows are moved.
        max_loss: rows need no gain to move, but may lose no more than this, see ``boldest_plan``; the plans are in
            order, the boldest first. None: theta is chosen by gain.
        unasked: questions about documents that no training question names, ranked with their own answers at the base
            vectors. None: these may lose, if validation gains on average.
        max_unasked_loss: largest mean loss of these.
        seed: of the folds in which validation judges the search.
        device: where to compute similarities and displacements, ``cpu`` or a GPU.

    Raises:
        InputError: a vector that is zero or not finite, dimensions that differ, a positive that is not a row, an
            unknown variant or metric, no plan, or a negative loss. The value and its row are named.
    """
    check_theta(variant)
    Metric(metric)
    if not plans:
        raise InputError("there are no plans to choose among; pass at least one")
    if not max_unasked_loss >= 0:
        raise InputError(f"max_unasked_loss is {max_unasked_loss}; the tolerated loss must be >= 0")
    documents = unit_rows(base, "document")
    n, d = documents.shape
    asked = clean_questions(train, n_rows=n, dims=d, what="training")
    judged = clean_questions(validation, n_rows=n, dims=d, what="validation")
    rows = asked.rows()
    start = documents[rows]
    centre = (asked.vectors.sum(axis=0, dtype=np.float64) / max(1, len(asked.vectors))).astype(np.float32)
    planned = [moves_of(plan, variant, asked, rows, start, centre, device=device) for plan in plans]
    choice, adopted = None, False
    if judged.positives:
        guard = None
        if unasked is not None and len(unasked.positives):
            guard = clean_questions(unasked, n_rows=n, dims=d, what="unasked")
        candidates = [moves for moves, _ in planned]
        if max_loss is None:
            choice = choose_theta(
                judged, documents, rows, candidates, metric, unasked=guard,
                max_unasked_loss=max_unasked_loss, seed=seed, device=device,
            )  # fmt: skip
            adopted = choice.convincing and choice.gain >= min_gain
        else:
            choice = boldest_plan(
                judged, documents, rows, candidates, metric, unasked=guard, max_loss=max_loss, device=device
            )
            adopted = choice.theta > 0
    number, theta = (choice.plan, choice.theta) if choice and adopted else (0, 0.0)
    moves, displacements = planned[number]
    if not theta:
        moved = MovedRows(rows[:0], start[:0], Displacements.none(d))
    elif refit is not None:
        moved = move_rows(documents, refit, plans[number].record(variant, theta, centre), device=device)
    else:
        moved = changed_rows(rows, start, moves, theta, displacements)
    return NudgeResult(moved.rows, moved.vectors, moved.displacements, variant, theta, plans[number], centre, choice)
