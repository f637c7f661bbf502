"""How questions become moves: what validation chooses among, beside the budget."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heal_tasks.nudge.contrast import Levels, Pushes, pushes
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import Moves, Variant, gradients, plan_moves


@dataclass(frozen=True, slots=True)
class Plan:
    """How questions become moves.

    Args:
        centred: take the mean training question off each question, see :func:`~heal_tasks.nudge.solve.gradients`.
        prior: how many questions a base vector counts as, see :func:`~heal_tasks.nudge.solve.plan_moves`.
        contrast: in how many steps rows are pushed off questions that they do not answer, see
            :func:`~heal_tasks.nudge.contrast.pushes`; 0: they are not. Takes a prior above 0.
        many: how much more a question weighs that has many answers: all of them together |answers| to this power, so
            0 weighs all questions alike and 1 all pairs.
    """

    centred: bool = False
    prior: float = 0.0
    contrast: int = 0
    many: float = 0.0

    @property
    def possible(self) -> bool:
        """Whether there is such a plan."""
        steps = self.contrast == 0 or (self.contrast > 0 and self.prior > 0)
        return 0 <= self.prior < math.inf and steps and 0 <= self.many <= 1

    def weights(self, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Weights of (question, row) pairs, from 1/|answers of the question|; both float64, shape (p,)."""
        return np.asarray(shares ** (1.0 - self.many), dtype=np.float64)

    def moves(
        self,
        asked: CleanQuestions,
        rows: npt.NDArray[np.int64],
        start: npt.NDArray[np.float32],
        variant: Variant,
        centre: npt.NDArray[np.float32],
        kept: Pushes | None = None,
        device: str = "cpu",
    ) -> tuple[Moves, Pushes]:
        """Where questions take the rows that they name, and what of it other rows' questions do.

        Args:
            asked: the questions.
            rows: ascending int64, shape (a,): the rows that they name.
            start: float32, shape (a, d): where these are.
            variant: N or M.
            centre: float32, shape (d,): what a centred plan takes off.
            kept: pushes from before; None to compute them.
            device: where to compute them.

        Returns:
            The moves, and the pushes in them.
        """
        pairs, shares = asked.pairs()
        _, G = gradients(asked.vectors, pairs, self.weights(shares), centre=centre if self.centred else None)
        if kept is None:
            kept = self._pushes(asked, pairs, rows, start, G, device)
        return plan_moves(start, G + kept.of(rows), variant, self.prior), kept

    def _pushes(
        self,
        asked: CleanQuestions,
        pairs: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        start: npt.NDArray[np.float32],
        G: npt.NDArray[np.float32],
        device: str,
    ) -> Pushes:
        if not self.contrast or not len(rows):
            return Pushes.none(start.shape[1])
        places = np.column_stack([pairs[:, 0], np.searchsorted(rows, pairs[:, 1])])
        weights = np.array([len(answers) for answers in asked.positives], dtype=np.float32) ** np.float32(self.many)
        found, levels = pushes(
            asked.vectors, start, places, weights, G, prior=self.prior, steps=self.contrast, device=device
        )
        return Pushes(rows, found, Levels(asked.places, levels, weights))


PLAIN = Plan()
