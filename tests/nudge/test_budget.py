"""The exact budget search against brute force: full matrices, every budget of a dense grid."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.budget import LIMITS, Budget, choose_budget
from heal_tasks.nudge.candidates import best_static, find_candidates, with_answers_unmoved
from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import apply_moves, plan_moves
from heal_tasks.nudge.sweep import Metric, Ranking, best_cell

METRICS = ["accuracy@1", "ndcg@10", "recall@10", "ndcg@3"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def problem(seed, *, n=60, a=20, m=15, d=5, variant="N", answers=2, prior=0.0):
    """Random rows, of which some move, and questions near random rows."""
    rng = np.random.default_rng(seed)
    base = unit(rng.standard_normal((n, d)))
    moved = np.sort(rng.choice(n, a, replace=False))
    moves = plan_moves(base[moved], rng.standard_normal((a, d)).astype(np.float32), variant, prior)
    positives = tuple(np.sort(rng.choice(n, rng.integers(1, answers + 1), replace=False)) for _ in range(m))
    vectors = unit(np.array([base[rows].sum(axis=0) for rows in positives]) + 0.7 * rng.standard_normal((m, d)))
    return CleanQuestions(vectors, positives, np.arange(len(positives)), 0), base, moved, moves


def choose(validation, base, moved, moves, metric, **options):
    return choose_budget(validation, base, moved, [moves], metric, **options)


def candidates_of(validation, base, moved, moves, limit, k):
    static = best_static(validation.vectors, base, moved, k)
    return find_candidates(validation.vectors, base, moved, moves, static, limit=limit, k=k)


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
        found = choose(*case, metric)
        np.testing.assert_allclose(found.before, slow_values(*case, metric, 0.0), atol=1e-9)
        np.testing.assert_allclose(found.after, slow_values(*case, metric, found.theta), atol=1e-9)
        grid = np.linspace(0, LIMITS[variant], 400)[1:]
        best = max(slow_values(*case, metric, theta).mean() for theta in grid)
        assert found.after.mean() >= best - 1e-9
        assert 0 <= found.theta <= LIMITS[variant]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    variant=st.sampled_from(["N", "M"]),
    metric=st.sampled_from(METRICS),
    a=st.integers(1, 30),
    position=st.floats(0.001, 0.999),
    prior=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_the_step_function_is_right_at_any_budget(seed, variant, metric, a, position, prior):
    validation, _, _, _ = case = problem(seed, n=30, a=a, m=4, d=3, variant=variant, prior=prior)
    limit = LIMITS[variant]
    theta = position * limit
    expected = slow_values(*case, metric, theta)
    ranking = Ranking(candidates_of(*case, limit, Metric(metric).k), validation.positives, Metric(metric))
    steps = ranking.steps(limit)
    for question in range(len(expected)):
        own = steps.question == question
        at, change = steps.at[own], steps.change[own]
        if np.abs(at - theta).min(initial=1.0) > 1e-5:  # at a tie itself float32 decides
            assert steps.start[question] + change[at < theta].sum() == pytest.approx(expected[question], abs=1e-9)
            assert ranking.values(theta)[question] == pytest.approx(expected[question], abs=1e-9)


def slow_unasked_values(validation, base, moved, moves, metric, theta):
    """The metric of each question where its own answers alone stay as they were."""
    values = []
    for number, wanted in enumerate(validation.positives):
        one = CleanQuestions(validation.vectors[number : number + 1], (wanted,), np.array([number]), 0)
        others = ~np.isin(moved, wanted)
        stayed = replace(moves, directions=moves.directions[others], arrival=moves.arrival[others])
        values.append(slow_values(one, base, moved[others], stayed, metric, theta)[0])
    return np.array(values)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    variant=st.sampled_from(["N", "M"]),
    metric=st.sampled_from(METRICS),
    a=st.integers(1, 30),
    position=st.floats(0.001, 0.999),
)
def test_questions_whose_answers_nobody_asked_for_are_ranked_right_at_any_budget(seed, variant, metric, a, position):
    validation, base, _, _ = case = problem(seed, n=30, a=a, m=4, d=3, variant=variant, answers=3)
    limit = LIMITS[variant]
    theta = position * limit
    found = candidates_of(*case, limit, Metric(metric).k + 3)
    ranking = Ranking(
        with_answers_unmoved(found, validation.vectors, base, validation.positives),
        validation.positives,
        Metric(metric),
    )
    steps = ranking.steps(limit)
    if np.abs(steps.at - theta).min(initial=1.0) > 1e-5:
        expected = slow_unasked_values(*case, metric, theta)
        np.testing.assert_allclose(ranking.values(theta), expected, atol=1e-9)


@pytest.mark.parametrize("variant", ["N", "M"])
@pytest.mark.parametrize("allowed", [0.0, 0.02, 1.0])
def test_the_best_budget_within_what_unasked_questions_may_lose(variant, allowed):
    bound = 0
    for seed in range(6):
        case = problem(seed, a=40, m=30, variant=variant)
        asked = problem(seed, a=40, m=30, variant=variant)[0]
        asked = CleanQuestions(asked.vectors[::2], asked.positives[::2], asked.places[::2], 0)
        found = choose(*case, "ndcg@10", unasked=asked, max_unasked_loss=allowed)

        def lost(theta, asked=asked, case=case):
            return -(slow_unasked_values(asked, *case[1:], "ndcg@10", theta).mean()
                - slow_unasked_values(asked, *case[1:], "ndcg@10", 0.0).mean())  # fmt: skip

        assert lost(found.theta) <= allowed + 1e-9
        grid = np.linspace(0, LIMITS[variant], 60)[1:]
        gains = [slow_values(*case, "ndcg@10", theta).mean() for theta in grid if lost(theta) <= allowed]
        assert found.after.mean() >= max(gains, default=0.0) - 1e-9
        bound += found.after.mean() < choose(*case, "ndcg@10").after.mean() - 1e-9
    assert (bound > 0) == (allowed < 1)


@pytest.mark.parametrize("variant", ["N", "M"])
@pytest.mark.parametrize(("n", "a"), [(400, 200), (400, 400), (700, 30)])
def test_pruning_never_loses_a_row_of_the_first_places(variant, n, a):
    for seed in range(5):
        validation, base, moved, moves = case = problem(seed, n=n, a=a, m=10, d=12, variant=variant)
        found = candidates_of(*case, LIMITS[variant], 3)
        assert len(found.rows) / 10 < n / 3, "pruning must leave out most rows"
        for theta in np.linspace(0, LIMITS[variant], 60):
            rows = base.copy()
            rows[moved] = apply_moves(base[moved], moves, theta)
            best = np.argsort(-(validation.vectors @ rows.T), axis=1)[:, :3]
            for question, first in enumerate(best):
                assert np.isin(first, found.rows[found.question == question]).all()


def test_a_crossing_known_in_closed_form():
    # The answer turns towards the question from 60 degrees; the competitor stands still at 20 degrees.
    question = np.array([[1.0, 0.0]], dtype=np.float32)
    degrees = np.deg2rad([60, -20])
    base = np.column_stack([np.cos(degrees), np.sin(degrees)]).astype(np.float32)
    moves = plan_moves(base[:1], question, "N")
    found = choose(
        CleanQuestions(question, (np.array([0]),), np.array([0]), 0), base, np.array([0]), moves, "accuracy@1"
    )
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
    validation = CleanQuestions(vectors, (np.array([0]), np.array([2])), np.arange(2), 0)
    moves = plan_moves(base[:1], question.astype(np.float32), "N")
    case = (validation, base, np.array([0]), moves)
    found = choose(*case, "accuracy@1")
    grid = np.linspace(0, np.deg2rad(60), 4001)
    values = np.array([slow_values(*case, "accuracy@1", theta).mean() for theta in grid])
    best = grid[values == values.max()]
    assert values.max() == 1.0
    assert found.theta == pytest.approx((best[0] + best[-1]) / 2, abs=1e-3)


def test_many_questions_in_small_blocks_equal_one_block(monkeypatch):
    case = problem(11, m=20)
    whole = choose(*case, "ndcg@10")
    monkeypatch.setattr("heal_tasks.nudge.products.CPU_SCORES_AT_ONCE", 100)
    monkeypatch.setattr("heal_tasks.nudge.candidates.QUESTIONS_AT_ONCE", 3)
    monkeypatch.setattr("heal_tasks.nudge.products._PAIRS_AT_ONCE", 7)
    monkeypatch.setattr("heal_tasks.nudge.sweep._PAIRS_AT_ONCE", 50)
    parts = choose(*case, "ndcg@10")
    assert parts.theta == whole.theta
    np.testing.assert_array_equal(parts.after, whole.after)


def test_a_given_budget_is_looked_at_and_not_changed():
    case = problem(12)
    found = choose(*case, "ndcg@10", theta=0.3)
    assert found.theta == 0.3
    np.testing.assert_allclose(found.after, slow_values(*case, "ndcg@10", 0.3), atol=1e-9)


def test_best_cell_takes_the_middle_of_the_widest_best():
    at, change = np.array([0.8, 0.1, 0.5, 0.2]), np.array([1.0, 1.0, 1.0, -1.0])
    # Values: 0 to .1: 0; to .2: 1; to .5: 0; to .8: 1; to 1: 2.
    assert best_cell(0.0, at, change, 1.0, 1e-7) == pytest.approx((0.9, 2.0))
    # Too narrow a cell is not taken; of the two next best the wider one is.
    assert best_cell(0.0, np.append(at, 0.81), np.append(change, -2.0), 1.0, 0.15) == pytest.approx((0.65, 1.0))
    assert best_cell(0.5, np.empty(0), np.empty(0), 1.0, 1e-7) == (0.5, 0.5)
    assert best_cell(0.5, np.empty(0), np.empty(0), 0.0, 1e-7) == (0.0, 0.5)


def test_standard_error_and_adoption():
    before = np.zeros(100)
    after = (np.arange(100) < 10).astype(float)
    budget = Budget(0.3, 0, before, np.ones(100), after)
    assert budget.gain == pytest.approx(0.1)
    assert budget.standard_error == pytest.approx(after.std(ddof=1) / 10)
    assert budget.convincing
    assert not Budget(0.3, 0, before, before, np.r_[1.0, np.zeros(99)]).convincing, "a gain of one question is luck"
    assert not Budget(0.3, 0, before, before, before).convincing
    assert not Budget(0.3, 0, np.zeros(1), np.ones(1), np.ones(1)).convincing, "one question has no standard error"


@pytest.mark.parametrize("name", ["mrr@10", "ndcg", "ndcg@0", "accuracy@5", "ndcg@10 "])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(InputError, match="unknown metric"):
        Metric(name)
