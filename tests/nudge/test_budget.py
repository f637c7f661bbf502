"""The exact budget search against brute force: full matrices, every budget of a dense grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.budget import LIMITS, Budget, choose_budget
from heal_tasks.nudge.candidates import Pruner
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import apply_moves, plan_moves
from heal_tasks.nudge.sweep import Metric, best_cell, steps

METRICS = ["accuracy@1", "ndcg@10", "recall@10", "ndcg@3"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def problem(seed, *, n=60, a=20, m=15, d=5, variant="N", answers=2):
    """Random rows, of which some move, and questions near random rows."""
    rng = np.random.default_rng(seed)
    base = unit(rng.standard_normal((n, d)))
    moved = np.sort(rng.choice(n, a, replace=False))
    moves = plan_moves(base[moved], rng.standard_normal((a, d)).astype(np.float32), variant)
    positives = tuple(np.sort(rng.choice(n, rng.integers(1, answers + 1), replace=False)) for _ in range(m))
    vectors = unit(np.array([base[rows].sum(axis=0) for rows in positives]) + 0.7 * rng.standard_normal((m, d)))
    return CleanQuestions(vectors, positives, 0), base, moved, moves


def slow_values(validation, base, moved, moves, metric, theta):
    """The metric of each question from the full, moved matrix."""
    rows = base.copy()
    rows[moved] = apply_moves(base[moved], moves, theta)
    k = min(int(metric.split("@")[1]), len(rows))
    order = np.argsort(-(validation.vectors @ rows.T), axis=1, kind="stable")[:, :k]
    relevant = np.zeros((len(order), len(rows)))
    for row, wanted in enumerate(validation.positives):
        relevant[row, wanted] = 1.0
    discounts = 1 / np.log2(np.arange(2, k + 2)) if metric.startswith("ndcg") else np.ones(k)
    ideal = -np.sort(-relevant, axis=1)[:, :k] @ discounts
    return np.take_along_axis(relevant, order, axis=1) @ discounts / ideal


@pytest.mark.parametrize("variant", ["N", "M"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("a", [5, 20, 60])
def test_no_budget_of_a_dense_grid_beats_the_exact_one(variant, metric, a):
    for seed in range(3):
        case = problem(seed, a=a, variant=variant)
        found = choose_budget(*case, metric)
        np.testing.assert_allclose(found.before, slow_values(*case, metric, 0.0), atol=1e-9)
        np.testing.assert_allclose(found.after, slow_values(*case, metric, found.theta), atol=1e-9)
        grid = np.linspace(0, LIMITS[variant], 400)[1:]
        best = max(slow_values(*case, metric, theta).mean() for theta in grid)
        assert found.after.mean() >= best - 1e-9
        assert 0 <= found.theta <= LIMITS[variant]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    variant=st.sampled_from(["N", "M"]),
    metric=st.sampled_from(METRICS),
    a=st.integers(1, 30),
    position=st.floats(0.001, 0.999),
)
def test_the_step_function_is_right_at_any_budget(seed, variant, metric, a, position):
    validation, base, moved, moves = case = problem(seed, n=30, a=a, m=4, d=3, variant=variant)
    limit = LIMITS[variant]
    theta = position * limit
    pruner = Pruner(len(base), moved, moves, limit=limit, k=Metric(metric).k)
    expected = slow_values(*case, metric, theta)
    for row, (vector, wanted) in enumerate(zip(validation.vectors, validation.positives, strict=True)):
        candidates = pruner.candidates(base @ vector, moves.directions @ vector)
        start, at, change = steps(candidates, wanted, Metric(metric), limit)
        if np.abs(at - theta).min(initial=1.0) > 1e-5:  # at a tie itself float32 decides
            assert start + change[at < theta].sum() == pytest.approx(expected[row], abs=1e-9)


def test_pruning_never_loses_a_row_of_the_first_places():
    for seed in range(10):
        validation, base, moved, moves = problem(seed, n=400, a=200, m=10, d=12)
        pruner = Pruner(len(base), moved, moves, limit=LIMITS["N"], k=3)
        kept = [pruner.candidates(base @ vector, moves.directions @ vector) for vector in validation.vectors]
        assert np.mean([len(rows.rows) for rows in kept]) < 120, "pruning must leave out most rows"
        for theta in np.linspace(0, LIMITS["N"], 60):
            rows = base.copy()
            rows[moved] = apply_moves(base[moved], moves, theta)
            best = np.argsort(-(validation.vectors @ rows.T), axis=1)[:, :3]
            for candidates, first in zip(kept, best, strict=True):
                assert np.isin(first, candidates.rows).all()


def test_a_crossing_known_in_closed_form():
    # The answer turns towards the question from 60 degrees; the competitor stands still at 20 degrees.
    question = np.array([[1.0, 0.0]], dtype=np.float32)
    degrees = np.deg2rad([60, -20])
    base = np.column_stack([np.cos(degrees), np.sin(degrees)]).astype(np.float32)
    moves = plan_moves(base[:1], question, "N")
    found = choose_budget(CleanQuestions(question, (np.array([0]),), 0), base, np.array([0]), moves, "accuracy@1")
    # Ahead from a turn of 40 degrees until it arrives at 60: the middle is 50.
    assert np.rad2deg(found.theta) == pytest.approx(50, abs=1e-3)
    assert (found.before.tolist(), found.after.tolist()) == ([0.0], [1.0])


def test_budget_at_which_one_question_wins_and_another_loses():
    # One answer catches up at 40 degrees, and from 55 on it overtakes another question's static answer.
    question = np.array([[1.0, 0.0, 0.0]])
    degrees = np.deg2rad([60, -20])
    base = np.column_stack([np.cos(degrees), np.sin(degrees), np.zeros(2)])
    tilt = np.deg2rad(5)
    other = np.array([[np.cos(tilt), np.sin(tilt) * np.sin(0.2), np.sin(tilt) * np.cos(0.2)]])
    vectors = unit(np.vstack([question, other]))
    base = unit(np.vstack([base, [[np.cos(0.35), 0.0, np.sin(0.35)]]]))
    validation = CleanQuestions(vectors, (np.array([0]), np.array([2])), 0)
    moves = plan_moves(base[:1], question.astype(np.float32), "N")
    case = (validation, base, np.array([0]), moves)
    found = choose_budget(*case, "accuracy@1")
    grid = np.linspace(0, np.deg2rad(60), 4001)
    values = np.array([slow_values(*case, "accuracy@1", theta).mean() for theta in grid])
    best = grid[values == values.max()]
    assert values.max() == 1.0
    assert found.theta == pytest.approx((best[0] + best[-1]) / 2, abs=1e-3)


def test_many_questions_in_small_blocks_equal_one_block(monkeypatch):
    case = problem(11, m=20)
    whole = choose_budget(*case, "ndcg@10")
    monkeypatch.setattr("heal_tasks.nudge.budget._SCORES_AT_ONCE", 100)
    parts = choose_budget(*case, "ndcg@10")
    assert parts.theta == pytest.approx(whole.theta, abs=1e-6)
    np.testing.assert_array_equal(parts.after, whole.after)


def test_a_given_budget_is_looked_at_and_not_changed():
    case = problem(12)
    found = choose_budget(*case, "ndcg@10", theta=0.3)
    assert found.theta == 0.3
    np.testing.assert_allclose(found.after, slow_values(*case, "ndcg@10", 0.3), atol=1e-9)


def test_best_cell_takes_the_middle_of_the_widest_best():
    at, change = np.array([0.8, 0.1, 0.5, 0.2]), np.array([1.0, 1.0, 1.0, -1.0])
    # Values: 0 to .1: 0; to .2: 1; to .5: 0; to .8: 1; to 1: 2.
    assert best_cell(0.0, at, change, 1.0, 1e-7) == pytest.approx(0.9)
    # Too narrow a cell is not taken; of the two next best the wider one is.
    assert best_cell(0.0, np.append(at, 0.81), np.append(change, -2.0), 1.0, 0.05) == pytest.approx(0.65)
    assert best_cell(0.5, np.empty(0), np.empty(0), 1.0, 1e-7) == 0.5
    assert best_cell(0.5, np.empty(0), np.empty(0), 0.0, 1e-7) == 0.0


def test_standard_error_and_adoption():
    before = np.zeros(100)
    after = (np.arange(100) < 10).astype(float)
    budget = Budget(0.3, before, after)
    assert budget.gain == pytest.approx(0.1)
    assert budget.standard_error == pytest.approx(after.std(ddof=1) / 10)
    assert budget.convincing
    assert not Budget(0.3, before, np.r_[1.0, np.zeros(99)]).convincing, "a gain of one question is luck"
    assert not Budget(0.3, before, before).convincing
    assert not Budget(0.3, np.zeros(1), np.ones(1)).convincing, "one question has no standard error"


@pytest.mark.parametrize("name", ["mrr@10", "ndcg", "ndcg@0", "accuracy@5", "ndcg@10 "])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(InputError, match="unknown metric"):
        Metric(name)
