"""The gate: decide if a candidate may replace its rival, with the reasons as sentences.

The lower bound of the paired difference must be above -epsilon on every set of questions or documents that decides, and
above zero on at least one. A tie keeps the rival, because a switch has a cost for readers. Sets that do not decide have
a wide tolerance: they can refuse a candidate, but a gain on them does not promote it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.bootstrap import Interval


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Candidate against rival on one set of questions or documents."""

    name: str  # of the set, in the sentences
    difference: Interval  # candidate minus rival in the metric
    tolerance: float | None = None  # tolerated loss of a set that does not decide; None if it decides; inf: shown only
    metric: str = "nDCG@10"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision."""

    promote: bool  # the candidate may go live
    reasons: tuple[str, ...]  # one sentence per question set, and the conclusion


def decide(comparisons: Sequence[SetComparison], *, epsilon: float, min_questions: int) -> Verdict:
    """Apply the gate.

    Args:
        comparisons: one per question set.
        epsilon: loss that still counts as a tie, >= 0.
        min_questions: a set with fewer questions or documents does not vote.

    Raises:
        InputError: epsilon is negative, or an interval is not finite.
    """
    if not epsilon >= 0:
        raise InputError(f"epsilon is {epsilon}; the tolerated loss must be >= 0")
    reasons, better, worse = list[str](), list[str](), list[str]()
    voting = 0
    for item in comparisons:
        low, value, high = item.difference.low, item.difference.value, item.difference.high
        if not math.isfinite(low + value + high):
            raise InputError(f"set {item.name!r} has the interval {low} to {high}; score it again")
        if item.difference.n < min_questions:
            few = f"its size {item.difference.n} is below {min_questions}, so this set does not vote."
            reasons.append(f"{item.name}: {few}")
            continue
        voting += item.tolerance != math.inf
        tolerance = epsilon if item.tolerance is None else item.tolerance
        if not low > -tolerance:
            worse.append(item.name)
            meaning = f"a loss of more than {tolerance:g} cannot be ruled out"
        elif item.tolerance == math.inf:
            meaning = "it is not the goal, and does not vote"
        elif item.tolerance is not None:
            meaning = f"loss within the tolerance of {tolerance:g}; this set cannot promote"
        elif low > 0:
            better.append(item.name)
            meaning = "it is better"
        else:
            meaning = "it is not worse, and not shown to be better"
        reasons.append(
            f"{item.name}: {item.metric} changes by {value:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, n = "
            f"{item.difference.n}): {meaning}."
        )
    if not voting:
        conclusion = f"Not promoted: no set has the {min_questions} questions that a vote needs."
    elif worse:
        conclusion = f"Not promoted: quality may be lost on {' and '.join(worse)}."
    elif not better:
        conclusion = "Not promoted: no set shows a gain, and on a tie the live generation stays."
    else:
        conclusion = f"Promoted: better on {' and '.join(better)}, and not worse on any voting set."
    return Verdict(bool(voting and better and not worse), (*reasons, conclusion))
