"""Decides whether a candidate generation may replace its rival, and says why in sentences for people.

The rule: not worse than the rival by more than epsilon on any question set, and better on at least one,
both judged by the lower bound of the paired difference in nDCG@10. A tie keeps the rival: a switch costs
readers something and must buy something. Where one set decides, the others have a wide tolerance: they can still
refuse a candidate, but a gain on them does not promote it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.bootstrap import Interval


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Candidate against rival on one question set.

    Args:
        question_set: its name, as people will read it.
        questions: how many questions were scored.
        difference: candidate minus rival in nDCG@10.
        tolerance: loss in nDCG@10 that this set puts up with because another one decides; None: it decides too.
    """

    question_set: str
    questions: int
    difference: Interval
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision.

    Args:
        promote: whether the candidate may go live.
        reasons: one sentence per question set, then the conclusion.
    """

    promote: bool
    reasons: tuple[str, ...]


def decide(comparisons: Sequence[SetComparison], *, epsilon: float, min_questions: int) -> Verdict:
    """Apply the gate.

    Args:
        comparisons: one per question set.
        epsilon: loss in nDCG@10 that still counts as a tie, >= 0.
        min_questions: a set with fewer questions does not vote.

    Returns:
        The verdict with its reasons.

    Raises:
        InputError: epsilon is negative, or an interval is not finite.
    """
    if not epsilon >= 0:
        raise InputError(f"epsilon is {epsilon}; it is a tolerated loss and must be 0 or more")
    reasons: list[str] = []
    worse: list[str] = []
    better: list[str] = []
    voting = 0
    for item in comparisons:
        low, high = item.difference.low, item.difference.high
        if not all(math.isfinite(bound) for bound in (low, high, item.difference.value)):
            raise InputError(f"question set {item.question_set!r} has the interval {low} to {high}; score it again")
        if item.questions < min_questions:
            reasons.append(
                f"{item.question_set}: {item.questions} questions are fewer than {min_questions}, "
                "so this set does not vote."
            )
            continue
        voting += 1
        tolerance = epsilon if item.tolerance is None else item.tolerance
        if not low > -tolerance:
            worse.append(item.question_set)
            meaning = f"it may lose more than {tolerance:g}"
        elif item.tolerance is not None:
            meaning = f"it decides nothing, since it does not lose more than {tolerance:g}"
        elif low > 0:
            better.append(item.question_set)
            meaning = "it is better"
        else:
            meaning = "it is not worse, and not shown to be better"
        reasons.append(
            f"{item.question_set}: nDCG@10 changes by {item.difference.value:+.4f} (95 % interval {low:+.4f} to "
            f"{high:+.4f}, {item.questions} questions): {meaning}."
        )
    if not voting:
        conclusion = f"Not promoted: no question set has the {min_questions} questions that a vote needs."
    elif worse:
        conclusion = f"Not promoted: quality may be lost on {' and '.join(worse)}."
    elif not better:
        conclusion = "Not promoted: no question set shows a gain, and a tie keeps what is live."
    else:
        conclusion = f"Promoted: better on {' and '.join(better)}, and not worse on any voting set."
    return Verdict(bool(voting and better and not worse), (*reasons, conclusion))
