"""Truth table of the promotion gate, and its sentences."""

import numpy as np
import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.bootstrap import Interval, paired_difference
from heal_tasks.evaluation.gate import SetComparison, decide


def on(name, low, high=0.2, questions=100, tolerance=None):
    return SetComparison(name, Interval((low + high) / 2, low, high, questions), tolerance)


BETTER, TIE, WORSE = 0.01, -0.004, -0.02


@pytest.mark.parametrize(
    ("sets", "promote", "conclusion"),
    [
        ([on("a", BETTER)], True, "Promoted: better on a"),
        ([on("a", BETTER), on("b", BETTER)], True, "better on a and b"),
        ([on("a", BETTER), on("b", TIE)], True, "better on a, and not worse on any"),
        ([on("a", TIE), on("b", BETTER)], True, "better on b"),
        ([on("a", TIE), on("b", TIE)], False, "no set shows a gain"),
        ([on("a", TIE)], False, "on a tie the live generation stays"),
        ([on("a", WORSE)], False, "quality may be lost on a"),
        ([on("a", BETTER), on("b", WORSE)], False, "quality may be lost on b"),
        ([on("a", WORSE), on("b", WORSE)], False, "lost on a and b"),
        ([on("a", BETTER), on("b", WORSE, questions=29)], True, "better on a"),
        ([on("a", BETTER, questions=29)], False, "no set has the 30 questions"),
        ([on("a", BETTER, questions=29), on("b", TIE)], False, "no set shows a gain"),
        ([], False, "no set has the 30 questions"),
        ([on("a", 0.0)], False, "no set shows a gain"),
        ([on("a", BETTER), on("b", -0.005)], False, "quality may be lost on b"),
        ([on("a", BETTER, questions=30)], True, "better on a"),
        ([on("a", BETTER), on("b", -0.19, tolerance=0.2)], True, "better on a"),
        ([on("a", BETTER), on("b", -0.2, tolerance=0.2)], False, "quality may be lost on b"),
        ([on("a", TIE), on("b", BETTER, tolerance=0.2)], False, "no set shows a gain"),
        ([on("b", BETTER, tolerance=0.2)], False, "no set shows a gain"),
        ([on("a", BETTER), on("b", -0.9, tolerance=np.inf)], True, "better on a"),
        ([on("a", TIE), on("b", BETTER, tolerance=np.inf)], False, "no set shows a gain"),
        ([on("b", BETTER, tolerance=np.inf)], False, "no set has the 30 questions"),
    ],
)
def test_truth_table(sets, promote, conclusion):
    verdict = decide(sets, epsilon=0.005, min_questions=30)
    assert verdict.promote is promote
    assert conclusion in verdict.reasons[-1]
    assert len(verdict.reasons) == len(sets) + 1


def test_reasons_carry_the_numbers():
    verdict = decide(
        [SetComparison("unseen documents", Interval(0.0312, 0.0101, 0.0523, 412)), on("human", 0.1, questions=7)],
        epsilon=0.005,
        min_questions=30,
    )
    assert verdict.reasons[0] == (
        "unseen documents: nDCG@10 changes by +0.0312 (95 % interval +0.0101 to +0.0523, n = 412): it is better."
    )
    assert verdict.reasons[1] == "human: its size 7 is below 30, so this set does not vote."


def test_a_candidate_equal_to_its_rival_is_not_promoted():
    same = np.random.default_rng(0).random(50)
    difference = paired_difference(same, same, seed=0)
    assert not decide([SetComparison("a", difference)], epsilon=0.005, min_questions=30).promote


def test_refuses_a_negative_epsilon_and_an_interval_that_is_not_finite():
    with pytest.raises(InputError, match=r"epsilon is -0\.1"):
        decide([], epsilon=-0.1, min_questions=1)
    with pytest.raises(InputError, match="'a' has the interval nan"):
        decide([on("a", float("nan"))], epsilon=0.0, min_questions=1)
