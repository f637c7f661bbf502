"""The step function of a metric against full matrices, and the choice of the best cell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.candidates import CandidateSearch
from heal_tasks.nudge.solve import MAX_THETA, plan_moves
from heal_tasks.nudge.sweep import Metric, StepFunction, best_cell, metric_curve
from tests.nudge.helpers import ANY_PROBLEM, problem, slow_values, unit


def curve_of(validation, base, moved, moves, metric, **options):
    limit, scoring = MAX_THETA[moves.variant], Metric(metric)
    candidates = CandidateSearch(validation.vectors, base, moved, scoring.k).find(moves, limit)
    return metric_curve(candidates, validation.positives, scoring, limit, **options)


@settings(max_examples=60)
@given(**ANY_PROBLEM, prior=st.sampled_from([0.0, 0.5, 2.0]))
def test_the_curve_is_right_at_any_theta(seed, variant, metric, a, position, prior):
    case = problem(seed, n=30, a=a, m=4, d=3, variant=variant, prior=prior)
    theta = position * MAX_THETA[variant]
    expected = slow_values(*case, metric, theta)
    curve = curve_of(*case, metric)
    np.testing.assert_allclose(curve.at_zero, slow_values(*case, metric, 0.0), atol=1e-9)
    for question, wanted in enumerate(expected):
        at = curve.at[curve.question == question]
        if np.abs(at - theta).min(initial=1.0) > 1e-5:  # at a tie itself float32 decides
            assert curve.values(theta)[question] == pytest.approx(wanted, abs=1e-9)


def test_rows_that_tie_at_zero_and_part_after_it():
    # Two equal rows, of which the second one turns towards the question: it is second at 0 and first just above.
    question = np.array([[1.0, 0.0]], dtype=np.float32)
    base = unit(np.array([[1.0, 1.0], [1.0, 1.0]]))
    candidates = CandidateSearch(question, base, np.array([1]), 1).find(plan_moves(base[1:], question, "N"), 0.5)
    curve = metric_curve(candidates, (np.array([1]),), Metric("accuracy@1"), 0.5)
    assert (curve.values(0.0).tolist(), curve.values(0.1).tolist()) == ([0.0], [1.0])


def test_small_blocks_give_the_same_curve():
    case = problem(11, m=20)
    whole, parts = curve_of(*case, "ndcg@10"), curve_of(*case, "ndcg@10", pairs_at_once=50)
    for theta in np.linspace(0, 1.5, 40):
        np.testing.assert_allclose(parts.values(theta), whole.values(theta), atol=1e-12)


def test_best_cell_takes_the_middle_of_the_widest_best():
    at, change = np.array([0.8, 0.1, 0.5, 0.2]), np.array([1.0, 1.0, 1.0, -1.0])
    # Values: 0 to .1: 0; to .2: 1; to .5: 0; to .8: 1; to 1: 2.
    assert best_cell(StepFunction(0.0, at, change), 1.0) == pytest.approx((0.9, 2.0))
    # Too narrow a cell is not taken; of the two next best the wider one is.
    narrow = StepFunction(0.0, np.append(at, 0.81), np.append(change, -2.0))
    assert best_cell(narrow, 1.0, resolution=0.15) == pytest.approx((0.65, 1.0))
    # Cells where the margin is below 0 are not taken.
    margin = StepFunction(0.0, np.array([0.85, 0.3]), np.array([-2.0, 1.0]))
    assert best_cell(StepFunction(0.0, at, change), 1.0, margin=margin) == pytest.approx((0.825, 2.0))
    constant = StepFunction(0.5, np.empty(0), np.empty(0))
    assert best_cell(constant, 1.0) == (0.5, 0.5)
    assert best_cell(constant, 0.0) == (0.0, 0.5)


@pytest.mark.parametrize("name", ["mrr@10", "ndcg", "ndcg@0", "accuracy@5", "ndcg@10 "])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(InputError, match="unknown metric"):
        Metric(name)
