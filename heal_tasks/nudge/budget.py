"""Chooses the NUDGE budget on validation questions: the one number that couples all documents.

Exact over the whole range, not on a grid: per question the few rows that matter, the budgets where they change
places, and the middle of the best cell of the sum. The similarities are one product per block of questions;
no copy of the documents and no questions-by-documents matrix is ever kept.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.nudge.candidates import Candidates, Pruner
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import Moves, Variant
from heal_tasks.nudge.sweep import Metric, best_cell, steps, value_at

# A quarter turn leaves nothing of the document's own meaning; a step of 8 is eight times its length.
LIMITS: dict[Variant, float] = {"N": np.pi / 2, "M": 8.0}

_SCORES_AT_ONCE = 1 << 24
_RESOLUTION = 1e-7


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget and what it does on the validation questions.

    Args:
        theta: radians for NUDGE-N, step length for NUDGE-M; the best one found even where it is not adopted.
        before: float64, shape (m,): the metric of each question at 0.
        after: float64, shape (m,): at ``theta``.
    """

    theta: float
    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]

    @property
    def gain(self) -> float:
        """Mean gain over the questions."""
        return float((self.after - self.before).mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the paired gain; of a single question, its whole gain."""
        difference = self.after - self.before
        if len(difference) < 2:
            return abs(self.gain)
        return float(difference.std(ddof=1) / np.sqrt(len(difference)))

    @property
    def convincing(self) -> bool:
        """Whether the gain exceeds one standard error."""
        # A gain of a single question equals its standard error; rounding must not decide that tie.
        return self.gain > self.standard_error * (1 + 1e-9)


def choose_budget(
    validation: CleanQuestions,
    base: npt.NDArray[np.float32],
    moved: npt.NDArray[np.int64],
    moves: Moves,
    metric: str,
    *,
    theta: float | None = None,
) -> Budget:
    """Find the best budget, or look at a given one.

    Args:
        validation: at least one question.
        base: float32, shape (n, d), unit length: all rows.
        moved: ascending int64, shape (a,): the rows that may move.
        moves: their moves.
        metric: ``accuracy@1``, ``ndcg@K`` or ``recall@K``; equal scores rank by lower row.
        theta: a budget to look at instead of searching.

    Returns:
        The budget with its values; whether to adopt it is ``convincing``.
    """
    scoring = Metric(metric)
    limit = LIMITS[moves.variant] if theta is None else theta
    if moves.variant == "N" and theta is None:
        limit = min(limit, float(moves.arrival.max(initial=0.0)))
    pruner = Pruner(len(base), moved, moves, limit=limit, k=scoring.k)
    kept: list[Candidates] = []
    step = max(1, _SCORES_AT_ONCE // max(1, len(base)))
    for first in range(0, len(validation.vectors), step):
        part = validation.vectors[first : first + step]
        alphas, betas = part @ base.T, part @ moves.directions.T  # (b, n), (b, a)
        kept += [pruner.candidates(alpha, beta) for alpha, beta in zip(alphas, betas, strict=True)]
    questions = list(zip(kept, validation.positives, strict=True))
    if theta is None:
        starts, at, change = zip(*(steps(rows, wanted, scoring, limit) for rows, wanted in questions), strict=True)
        theta = best_cell(sum(starts), np.concatenate(at), np.concatenate(change), limit, _RESOLUTION)
    before, after = (np.array([value_at(rows, wanted, scoring, x) for rows, wanted in questions]) for x in (0.0, theta))
    return Budget(theta, before, after)
