"""Chooses the NUDGE budget on validation questions: the one number that couples all documents.

Exact over the whole range, not on a grid: per question the few rows that matter, the budgets where they change
places, and the middle of the best cell of the sum. Whether to adopt it is judged on questions that had no part in the
choice: the best of thousands of cells looks good on the questions it was picked for even where there is nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.nudge.candidates import best_static, find_candidates, with_answers_unmoved
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import Moves, Variant
from heal_tasks.nudge.sweep import Margin, Metric, Ranking, Steps, best_cell

Float64Array = npt.NDArray[np.float64]

# A quarter turn leaves nothing of the document's own meaning; a step of 8 is eight times its length.
LIMITS: dict[Variant, float] = {"N": np.pi / 2, "M": 8.0}

FOLDS = 5
# One-sided 5 %. Of runs on random questions, one standard error let 18 % through, 1.645 of them 5 %, two 3 %; of runs
# with a small true gain they adopted 87 %, 70 % and 60 %. Without the folds one standard error let 50 % through.
_LEVEL = 1.645
_RESOLUTION = 1e-7


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget and what it does on the validation questions.

    Args:
        theta: radians for NUDGE-N, step length for NUDGE-M; the best one found even where it is not adopted.
        plan: which of the plans it belongs to.
        before: float64, shape (m,): the metric of each question at 0.
        after: float64, shape (m,): at ``theta``; optimistic where ``theta`` was chosen on these questions.
        judged: float64, shape (m,): of each question at the budget that the other folds chose.
    """

    theta: float
    plan: int
    before: Float64Array
    after: Float64Array
    judged: Float64Array

    @property
    def gain(self) -> float:
        """Mean gain over the questions, without the optimism of the choice."""
        return float((self.judged - self.before).mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the paired gain; of a single question, its whole gain."""
        difference = self.judged - self.before
        if len(difference) < 2:
            return abs(self.gain)
        return float(difference.std(ddof=1) / np.sqrt(len(difference)))

    @property
    def convincing(self) -> bool:
        """Whether the gain is above zero at the one-sided 5 % level."""
        return self.gain > _LEVEL * self.standard_error


def choose_budget(
    validation: CleanQuestions,
    base: npt.NDArray[np.float32],
    moved: npt.NDArray[np.int64],
    plans: Sequence[Moves],
    metric: str,
    *,
    theta: float | None = None,
    unasked: CleanQuestions | None = None,
    max_unasked_loss: float = 0.0,
    seed: int = 0,
    device: str = "cpu",
) -> Budget:
    """Find the best plan and budget, or look at a given one.

    Args:
        validation: at least one question.
        base: float32, shape (n, d), unit length: all rows.
        moved: ascending int64, shape (a,): the rows that may move.
        plans: ways to move them, the preferred one first; all of one variant.
        metric: ``accuracy@1``, ``ndcg@K`` or ``recall@K``; equal scores rank by lower row.
        theta: a budget to look at instead of searching, with the first plan.
        unasked: training questions, each of which is judged as if nobody had asked for its answers; None for none.
        max_unasked_loss: what these may lose on average; plans and budgets that cost more are not chosen.
        seed: of the folds.
        device: where to compute similarities.

    Returns:
        The budget with its values; whether to adopt it is ``convincing``.
    """
    scoring = Metric(metric)
    static = best_static(validation.vectors, base, moved, scoring.k, device)
    rankings, limits = [], []
    for moves in plans if theta is None else plans[:1]:
        limit = LIMITS[moves.variant] if theta is None else theta
        limit = min(limit, float(moves.arrival.max(initial=0.0)))
        candidates = find_candidates(
            validation.vectors, base, moved, moves, static, limit=limit, k=scoring.k, device=device
        )
        rankings.append(Ranking(candidates, validation.positives, scoring))
        limits.append(limit)
    before = rankings[0].values(0.0)
    if theta is not None:
        after = rankings[0].values(theta)
        return Budget(theta, 0, before, after, after)
    curves = [ranking.steps(limit) for ranking, limit in zip(rankings, limits, strict=True)]
    margins: list[Margin | None] = [None] * len(plans)
    if unasked is not None:
        margins = [*_margins(unasked, base, moved, plans, limits, scoring, max_unasked_loss, device)]
    fold = _folds(validation.positives, seed)
    judged = before.copy()
    for number in range(fold.max() + 1 if fold.max() > 0 else 0):
        plan, budget = _best(curves, limits, margins, fold != number)
        judged[fold == number] = rankings[plan].values(budget)[fold == number]
    plan, budget = _best(curves, limits, margins, np.ones(len(fold), dtype=bool))
    return Budget(budget, plan, before, rankings[plan].values(budget), judged)


def _margins(
    unasked: CleanQuestions,
    base: npt.NDArray[np.float32],
    moved: npt.NDArray[np.int64],
    plans: Sequence[Moves],
    limits: Sequence[float],
    scoring: Metric,
    max_loss: float,
    device: str,
) -> Iterator[Margin]:
    """What each plan leaves of the loss that questions may suffer whose own answers do not move."""
    k = scoring.k + max(len(rows) for rows in unasked.positives)
    static = best_static(unasked.vectors, base, moved, k, device)
    for moves, limit in zip(plans, limits, strict=True):
        found = find_candidates(unasked.vectors, base, moved, moves, static, limit=limit, k=k, device=device)
        unmoved = with_answers_unmoved(found, unasked.vectors, base, unasked.positives)
        ranking = Ranking(unmoved, unasked.positives, scoring)
        curve = ranking.steps(limit)
        start = float((curve.start - ranking.values(0.0)).mean()) + max_loss
        yield Margin(start, curve.at, curve.change / len(unasked.positives))


def _best(
    curves: Sequence[Steps],
    limits: Sequence[float],
    margins: Sequence[Margin | None],
    chosen: npt.NDArray[np.bool_],
) -> tuple[int, float]:
    """The best plan and its best budget on some of the questions; of equal plans the first."""
    found = []
    for curve, limit, margin in zip(curves, limits, margins, strict=True):
        felt = chosen[curve.question]
        start = curve.start[chosen].sum()
        found.append(best_cell(start, curve.at[felt], curve.change[felt], limit, _RESOLUTION, margin))
    values = np.array([value for _, value in found])
    plan = int(np.flatnonzero(values >= values.max() - 1e-9)[0])
    return plan, found[plan][0]


def _folds(positives: Sequence[npt.NDArray[np.int64]], seed: int) -> npt.NDArray[np.int64]:
    """Fold of each question; questions of one document share theirs, so that none judges what another has chosen."""
    _, document = np.unique([rows[0] for rows in positives], return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(document.max() + 1)
    return np.asarray(shuffled[document] % FOLDS, dtype=np.int64)
