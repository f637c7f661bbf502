"""Chooses plan and theta on validation questions: human questions by gain, written ones by the absence of loss.

Theta is the largest angle (N) or step length (M) that a row may move: the one number that couples all documents. The
search is exact over the whole range, not on a grid: it finds the few rows per question that matter, each theta where
two of them change places (a breakpoint), and the middle of the best interval between two breakpoints of the sum. Theta
is judged by cross-validation, because the best of thousands of intervals looks good on its own questions by chance.

A written question that is held out asks another fact of a passage than those that move it, and mostly in its words, so
it cannot show what moving towards questions gains: on ATT&CK human questions gain .037 by a language model's questions
where these lose .001 to .013 (bench/RESULTS.md). They tell how far rows may move before passages are confused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heal_tasks.nudge.candidates import CandidateSearch
from heal_tasks.nudge.products import Float32Array, Float64Array, Int64Array
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import MAX_THETA, Moves
from heal_tasks.nudge.sweep import Metric, MetricCurve, StepFunction, best_cell, metric_curve

_FOLDS = 5
# One-sided 5 %. Of runs on random questions, one standard error let 18 % through, 1.645 of them 5 %, two 3 %; of runs
# with a small true gain they adopted 87 %, 70 % and 60 %. Without the folds one standard error let 50 % through.
_LEVEL = 1.645


@dataclass(frozen=True, slots=True)
class ThetaChoice:
    """The best theta and its effect on the validation questions."""

    theta: float  # radians (N) or step length (M); set even where it is not convincing
    plan: int  # index of the plan that it belongs to
    before: Float64Array  # (m,): the metric of each question at 0
    after: Float64Array  # (m,): at theta; optimistic, since theta was chosen on these questions
    held_out: Float64Array  # (m,): of each question at the plan and theta that the other folds chose

    @property
    def gain(self) -> float:
        """Mean gain over the questions, without the optimism of the choice."""
        return float((self.held_out - self.before).mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the paired gain; of a single question, its whole gain."""
        return _standard_error(self.held_out - self.before)

    @property
    def convincing(self) -> bool:
        """True if the gain is above zero at the one-sided 5 % level."""
        return self.gain > _LEVEL * self.standard_error


def choose_theta(
    validation: CleanQuestions,
    base: Float32Array,
    moved: Int64Array,
    plans: Sequence[Moves],
    metric: str,
    *,
    unasked: CleanQuestions | None = None,
    max_unasked_loss: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
) -> ThetaChoice:
    """Find the best plan and theta, convincing or not.

    Args:
        validation: at least one question.
        base: shape (n, d), unit length: all rows.
        moved: shape (a,), ascending: the rows that may move.
        plans: moves of these rows by each plan, the preferred one first; all of one variant.
        metric: ``accuracy@1``, ``ndcg@K`` or ``recall@K``; equal scores rank by lower row.
        unasked: questions that are ranked with their own answers at their base vectors; None for none.
        max_unasked_loss: largest mean loss of these; plans and thetas that lose more are not chosen.
        seed: of the folds.
        device: where to compute similarities, ``cpu`` or a GPU.
    """
    curves = [*_curves(validation, base, moved, plans, metric, device)]
    margins: list[StepFunction | None] = [None] * len(plans)
    if unasked is not None:
        everything = np.ones(len(unasked.positives), dtype=bool)
        for number, curve in enumerate(_curves(unasked, base, moved, plans, metric, device, answers_move=False)):
            change = curve.total(everything)
            allowed = max_unasked_loss * len(everything)
            margins[number] = replace(change, start=change.start - curve.at_zero.sum() + allowed)
    before = curves[0].at_zero
    fold = _folds(validation.positives, seed)
    held_out = before.copy()
    for number in np.unique(fold) if fold.max() else []:
        plan, theta = _best(curves, margins, fold != number)
        held_out[fold == number] = curves[plan].values(theta)[fold == number]
    plan, theta = _best(curves, margins, np.ones(len(fold), dtype=bool))
    return ThetaChoice(theta, plan, before, curves[plan].values(theta), held_out)


def boldest_plan(
    validation: CleanQuestions,
    base: Float32Array,
    moved: Int64Array,
    plans: Sequence[Moves],
    metric: str,
    *,
    max_loss: float,
    unasked: CleanQuestions | None = None,
    device: str = "cpu",
) -> ThetaChoice:
    """Find the boldest plan by which rows may move as far as they like without losing more than ``max_loss``.

    The prior of a plan bounds its moves: a row with few questions stays near its base vector. A bold plan has to show
    that it loses no more; the last plan is taken unless it is shown to lose more, both at the one-sided 5 % level. By
    the mean alone chance decides: prior 8 loses .004 of ATT&CK's questions, with a standard error of .004.

    In the result theta is the largest there is, or 0 if no plan will do; ``held_out`` and ``after`` are those of the
    plan, or of the last.

    Args:
        validation: at least one question.
        base: shape (n, d), unit length: all rows.
        moved: shape (a,), ascending: the rows that may move.
        plans: moves of these rows by each plan, the boldest first; at least one, all of one variant.
        metric: as in ``choose_theta``.
        max_loss: largest mean loss, of the validation questions and of the unasked ones.
        unasked: as in ``choose_theta``.
        device: where to compute similarities, ``cpu`` or a GPU.
    """
    curves = _curves(validation, base, moved, plans, metric, device)
    guards = iter(()) if unasked is None else _curves(unasked, base, moved, plans, metric, device, answers_move=False)
    for number, curve in enumerate(curves):
        guard, after = next(guards, None), curve.values(curve.max_theta)
        changes = [after - curve.at_zero]
        if guard:
            changes.append(guard.values(guard.max_theta) - guard.at_zero)
        doubt = _LEVEL if number == len(plans) - 1 else -_LEVEL
        taken = all(change.mean() + doubt * _standard_error(change) >= -max_loss for change in changes)
        choice = ThetaChoice(MAX_THETA[plans[0].variant] * taken, number, curve.at_zero, after, after)
        if taken:
            break
    return choice


def _curves(
    questions: CleanQuestions,
    base: Float32Array,
    moved: Int64Array,
    plans: Sequence[Moves],
    metric: str,
    device: str,
    *,
    answers_move: bool = True,
) -> Iterator[MetricCurve]:
    """The metric of questions over all theta, plan by plan; their own answers may be kept at the base vectors."""
    scoring = Metric(metric)
    # For each answer that falls back to its base vector another row may come up.
    k = scoring.k + (0 if answers_move else max(len(rows) for rows in questions.positives))
    search = CandidateSearch(questions.vectors, base, moved, k, device)
    for moves in plans:
        max_theta = min(MAX_THETA[moves.variant], float(moves.arrival.max(initial=0.0)))
        candidates = search.find(moves, max_theta)
        if not answers_move:
            candidates = search.with_answers_unmoved(candidates, questions.positives)
        yield metric_curve(candidates, questions.positives, scoring, max_theta)


def _standard_error(differences: Float64Array) -> float:
    """Standard error of the mean of paired differences; of a single one, its whole size."""
    if len(differences) < 2:
        return float(abs(differences.mean()))
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _best(
    curves: Sequence[MetricCurve], margins: Sequence[StepFunction | None], chosen: NDArray[np.bool_]
) -> tuple[int, float]:
    """The best plan and theta on some of the questions; of equal plans the first."""
    found = [
        best_cell(curve.total(chosen), curve.max_theta, margin=margin)
        for curve, margin in zip(curves, margins, strict=True)
    ]
    values = np.array([value for _, value in found])
    plan = int(np.flatnonzero(values >= values.max() - 1e-9)[0])
    return plan, found[plan][0]


def _folds(positives: Sequence[Int64Array], seed: int) -> Int64Array:
    """Fold of each question. Questions of one document share a fold, so none judges a choice made on its document."""
    _, document = np.unique([rows[0] for rows in positives], return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(document.max() + 1)
    return np.asarray(shuffled[document] % _FOLDS, dtype=np.int64)
