"""The plans for moving rows that validation chooses among, and the record of a chosen one."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heal_tasks.nudge.contrast import Levels, Pushes, pushes
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import Moves, Variant, gradients, plan_moves


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to turn questions into moves of the rows that answer them.

    Args:
        centred: subtract the mean training question from each question, see :func:`~heal_tasks.nudge.solve.gradients`.
        prior: number of questions that a base vector counts as, see :func:`~heal_tasks.nudge.solve.plan_moves`.
        contrast_steps: number of steps in which rows are pushed away from questions that they do not answer, see
            :func:`~heal_tasks.nudge.contrast.pushes`; 0 for none. Needs a prior above 0.
        answer_count_exponent: a question with a answers weighs a to this power, shared among its answers: 0 gives all
            questions the same weight, 1 all (question, answer) pairs.
    """

    centred: bool = False
    prior: float = 0.0
    contrast_steps: int = 0
    answer_count_exponent: float = 0.0

    @property
    def possible(self) -> bool:
        """Whether there is such a plan."""
        contrast = self.contrast_steps == 0 or (self.contrast_steps > 0 and self.prior > 0)
        return 0 <= self.prior < math.inf and contrast and 0 <= self.answer_count_exponent <= 1

    def weights(self, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Weights of (question, row) pairs, from 1/|answers of the question|; both float64, shape (p,)."""
        return np.asarray(shares ** (1.0 - self.answer_count_exponent), dtype=np.float64)

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
        if not self.contrast_steps or not len(rows):
            return Pushes.none(start.shape[1])
        places = np.column_stack([pairs[:, 0], np.searchsorted(rows, pairs[:, 1])])
        sizes = np.array([len(answers) for answers in asked.positives], dtype=np.float32)
        weights = sizes ** np.float32(self.answer_count_exponent)
        found, levels = pushes(
            asked.vectors, start, places, weights, G, prior=self.prior, steps=self.contrast_steps, device=device
        )
        return Pushes(rows, found, Levels(asked.places, levels, weights))


PLAIN = Plan()
PLANS = (
    Plan(prior=1.0),
    Plan(centred=True),
    *(Plan(prior=prior, contrast_steps=5, answer_count_exponent=0.5) for prior in (2.0, 4.0)),
)
"""The plans that validation chooses among, the preferred one first."""


@dataclass(frozen=True, slots=True, eq=False)
class NudgeRecord:
    """Everything about a chosen plan that is needed to move further rows in the same way.

    Args:
        variant: N or M.
        theta: the largest angle in radians (N) or the step length (M).
        prior: see :class:`Plan`.
        centre: float32, shape (d,): the mean question that a centred plan subtracts; None for another plan.
        contrast_steps: see :class:`Plan`.
        answer_count_exponent: see :class:`Plan`.
        by_people: True if only questions asked by people moved the rows.
    """

    variant: Variant
    theta: float
    prior: float
    centre: npt.NDArray[np.float32] | None
    contrast_steps: int
    answer_count_exponent: float
    by_people: bool

    @property
    def plan(self) -> Plan:
        """The plan without its centre."""
        return Plan(self.centre is not None, self.prior, self.contrast_steps, self.answer_count_exponent)

    def to_json(self) -> dict[str, Any]:
        """The record as values that JSON can hold; :meth:`from_json` gives back exactly the same record."""
        record = {name: getattr(self, name) for name in self.__slots__}
        return record | {"centre": None if self.centre is None else self.centre.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "NudgeRecord":
        """Read what :meth:`to_json` returned."""
        centre = value["centre"]
        return cls(**value | {"centre": None if centre is None else np.array(centre, dtype=np.float32)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NudgeRecord) and self.to_json() == other.to_json()
