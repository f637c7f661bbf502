"""The plans for moving rows that validation chooses among, and the record of a chosen one."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.products import Float32Array, Float64Array
from heal_tasks.nudge.solve import MAX_THETA, Variant


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to turn questions into moves of the rows that answer them.

    A question with a answers weighs a to the power ``answer_count_exponent``, shared among its answers: 0 gives all
    questions the same weight, 1 all (question, answer) pairs.

    Raises:
        InputError: a value out of range.
    """

    centred: bool = False  # subtract the mean training question from each question, see solve.gradients
    prior: float = 0.0  # number of questions that a base vector counts as, see solve.plan_moves
    contrast_steps: int = 0  # steps of contrast.displace, which need a prior above 0; 0 for none
    answer_count_exponent: float = 0.0

    def __post_init__(self) -> None:
        contrast = self.contrast_steps == 0 or (self.contrast_steps > 0 and self.prior > 0)
        if not (0 <= self.prior < math.inf and contrast and 0 <= self.answer_count_exponent <= 1):
            raise InputError(
                f"{self} is impossible; prior and contrast_steps must be 0 or more, contrast_steps only with a prior, "
                "and answer_count_exponent from 0 to 1"
            )

    def weights(self, shares: Float64Array) -> Float64Array:
        """Weights of (question, row) pairs, from 1/|answers of the question|; both of shape (p,)."""
        return np.asarray(shares ** (1.0 - self.answer_count_exponent), dtype=np.float64)

    def record(
        self, variant: Variant, theta: float, centre: Float32Array | None, *, by_people: bool = False
    ) -> "NudgeRecord":
        """The record of this plan with a theta; ``centre`` is unused by a plan that is not centred."""
        subtracted = centre if self.centred else None
        return NudgeRecord(
            variant, theta, self.prior, subtracted, self.contrast_steps, self.answer_count_exponent, by_people
        )


PLAIN = Plan()
PLANS = (
    Plan(prior=1.0),
    Plan(centred=True),
    *(Plan(prior=prior, contrast_steps=5, answer_count_exponent=0.5) for prior in (2.0, 4.0)),
)
"""The plans that validation chooses among, the preferred one first.

Centred plans gain on documents without questions (ATT&CK by document: .428 to .521), contrastive ones where documents
share questions (NFCorpus: .364 to .420) or have many (ATT&CK: .727 to .765), a prior where they have few. Seven more
plans gained at most .001 on the official splits (bench/RESULTS.md).
"""


WRITTEN_PLANS = tuple(Plan(prior=prior, contrast_steps=5, answer_count_exponent=0.5) for prior in (2.0, 4.0, 8.0))
"""The plans for written questions, the boldest first, as far as the prior lets rows move.

With a language model's questions and the lexicon, human questions of the train split of ATT&CK gain .038 by prior 2,
.045 by 4, .037 by 8 and .028 by 16, while written ones lose .030, .007, .001 and nothing. At the same loss plans
without contrast gain less (bench/RESULTS.md).
"""
WRITTEN_PLAN_OF_MANY = Plan(centred=True, prior=8.0)
"""The plan for written questions where there are too many for contrast: .028, and a loss of .004."""


def check_theta(variant: Variant, theta: float = 0.0) -> None:
    """Refuse an unknown variant, and a theta out of its range."""
    if variant not in MAX_THETA:
        raise InputError(f"unknown NUDGE variant {variant!r}; take N or M")
    if not 0 <= theta <= MAX_THETA[variant]:
        raise InputError(f"theta {theta} of NUDGE-{variant} is outside 0 to {MAX_THETA[variant]:.4f}")


@dataclass(frozen=True, slots=True, eq=False)
class NudgeRecord:
    """Everything about a chosen plan that is needed to move further rows in the same way.

    Raises:
        InputError: an unknown variant, or theta out of range.
    """

    variant: Variant
    theta: float  # the largest angle in radians (N) or the step length (M)
    prior: float  # this and the others as in Plan
    centre: Float32Array | None  # (d,): the mean question that a centred plan subtracts; None for another plan
    contrast_steps: int
    answer_count_exponent: float
    by_people: bool  # True if only human questions moved the rows

    def __post_init__(self) -> None:
        check_theta(self.variant, self.theta)

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
        """Read the result of :meth:`to_json`."""
        centre = value["centre"]
        return cls(**value | {"centre": None if centre is None else np.array(centre, dtype=np.float32)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NudgeRecord) and self.to_json() == other.to_json()
