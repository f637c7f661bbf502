"""The search for theta against brute force: full matrices, every theta of a dense grid."""

import numpy as np
import pytest

from heal_tasks.nudge.questions import CleanQuestions
from heal_tasks.nudge.solve import MAX_THETA, plan_moves
from heal_tasks.nudge.theta import ThetaChoice, boldest_plan, choose_theta
from tests.nudge.helpers import METRICS, problem, slow_unasked_values, slow_values, unit


def choose(validation, base, moved, moves, metric, **options):
    return choose_theta(validation, base, moved, [moves], metric, **options)


@pytest.mark.parametrize("variant", ["N", "M"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("a", [5, 20, 60])
def test_no_theta_of_a_dense_grid_beats_the_exact_one(variant, metric, a):
    for seed in range(2):
        case = problem(seed, a=a, variant=variant)
        found = choose(*case, metric)
        np.testing.assert_allclose(found.before, slow_values(*case, metric, 0.0), atol=1e-9)
        np.testing.assert_allclose(found.after, slow_values(*case, metric, found.theta), atol=1e-9)
        grid = np.linspace(0, MAX_THETA[variant], 200)[1:]
        best = max(slow_values(*case, metric, theta).mean() for theta in grid)
        assert found.after.mean() >= best - 1e-9
        assert 0 <= found.theta <= MAX_THETA[variant]


@pytest.mark.parametrize("variant", ["N", "M"])
@pytest.mark.parametrize("allowed", [0.0, 0.02, 1.0])
def test_the_best_theta_within_the_loss_allowed_to_unasked_questions(variant, allowed):
    bound = 0
    for seed in (3, 4, 5):
        case = problem(seed, a=40, m=30, variant=variant)
        asked = problem(seed, a=40, m=30, variant=variant)[0]
        asked = CleanQuestions(asked.vectors[::2], asked.positives[::2], asked.places[::2])
        found = choose(*case, "ndcg@10", unasked=asked, max_unasked_loss=allowed)

        def lost(theta, asked=asked, case=case):
            return -(slow_unasked_values(asked, *case[1:], "ndcg@10", theta).mean()
                - slow_unasked_values(asked, *case[1:], "ndcg@10", 0.0).mean())  # fmt: skip

        assert lost(found.theta) <= allowed + 1e-9
        grid = np.linspace(0, MAX_THETA[variant], 60)[1:]
        gains = [slow_values(*case, "ndcg@10", theta).mean() for theta in grid if lost(theta) <= allowed]
        assert found.after.mean() >= max(gains, default=0.0) - 1e-9
        bound += found.after.mean() < choose(*case, "ndcg@10").after.mean() - 1e-9
    assert (bound > 0) == (allowed < 1)


def test_a_crossing_known_in_closed_form():
    # The answer turns towards the question from 60 degrees; the competitor stands still at 20 degrees.
    question = np.array([[1.0, 0.0]], dtype=np.float32)
    degrees = np.deg2rad([60, -20])
    base = np.column_stack([np.cos(degrees), np.sin(degrees)]).astype(np.float32)
    moves = plan_moves(base[:1], question, "N")
    found = choose(CleanQuestions(question, (np.array([0]),), np.array([0])), base, np.array([0]), moves, "accuracy@1")
    # Ahead from a turn of 40 degrees until it arrives at 60: the middle is 50.
    assert np.rad2deg(found.theta) == pytest.approx(50, abs=1e-3)
    assert (found.before.tolist(), found.after.tolist()) == ([0.0], [1.0])


def test_theta_at_which_one_question_wins_and_another_loses():
    # One answer catches up at 40 degrees, and from 55 on it overtakes another question's static answer.
    question = np.array([[1.0, 0.0, 0.0]])
    degrees = np.deg2rad([60, -20])
    base = np.column_stack([np.cos(degrees), np.sin(degrees), np.zeros(2)])
    tilt = np.deg2rad(5)
    other = np.array([[np.cos(tilt), np.sin(tilt) * np.sin(0.2), np.sin(tilt) * np.cos(0.2)]])
    vectors = unit(np.vstack([question, other]))
    base = unit(np.vstack([base, [[np.cos(0.35), 0.0, np.sin(0.35)]]]))
    validation = CleanQuestions(vectors, (np.array([0]), np.array([2])), np.arange(2))
    moves = plan_moves(base[:1], question.astype(np.float32), "N")
    case = (validation, base, np.array([0]), moves)
    found = choose(*case, "accuracy@1")
    grid = np.linspace(0, np.deg2rad(60), 4001)
    values = np.array([slow_values(*case, "accuracy@1", theta).mean() for theta in grid])
    best = grid[values == values.max()]
    assert values.max() == 1.0
    assert found.theta == pytest.approx((best[0] + best[-1]) / 2, abs=1e-3)


def test_standard_error_and_adoption():
    before = np.zeros(100)
    after = (np.arange(100) < 10).astype(float)
    choice = ThetaChoice(0.3, 0, before, np.ones(100), after)
    assert choice.gain == pytest.approx(0.1)
    assert choice.standard_error == pytest.approx(after.std(ddof=1) / 10)
    assert choice.convincing
    assert not ThetaChoice(0.3, 0, before, before, np.r_[1.0, np.zeros(99)]).convincing, (
        "a gain of one question is luck"
    )
    assert not ThetaChoice(0.3, 0, before, before, before).convincing
    assert not ThetaChoice(0.3, 0, np.zeros(1), np.ones(1), np.ones(1)).convincing, "one question has no standard error"


@pytest.mark.parametrize("variant", ["N", "M"])
def test_bold_plans_have_to_show_that_they_lose_nothing_and_the_last_one_loses_only_if_it_shows(variant):
    found = set()
    for seed in range(12):
        validation, base, moved, _ = problem(seed, a=40, m=30, variant=variant)
        asked = problem(seed + 100, a=40, m=30, variant=variant)[0]
        G = np.random.default_rng(seed).standard_normal((len(moved), base.shape[1])).astype(np.float32)
        plans = [plan_moves(base[moved], G, variant, prior) for prior in (1.0, 4.0, 16.0)]
        for unasked, allowed in ((None, 0.1), (asked, 0.1), (None, 0.2), (asked, -0.1)):
            choice = boldest_plan(validation, base, moved, plans, "ndcg@10", max_loss=allowed, unasked=unasked)
            wanted = None
            for number, moves in enumerate(plans):
                case, full = (base, moved, moves, "ndcg@10"), MAX_THETA[variant]
                before, after = (slow_values(validation, *case, theta) for theta in (0.0, full))
                changes = [after - before]
                if unasked is not None:
                    still = [slow_unasked_values(unasked, *case, theta) for theta in (0.0, full)]
                    changes.append(still[1] - still[0])
                doubt = -1.645 if number < 2 else 1.645
                if min(change.mean() + doubt * change.std(ddof=1) / 30**0.5 for change in changes) >= -allowed:
                    wanted = number
                    break
            assert choice.theta == (0.0 if wanted is None else full)
            assert choice.plan == (2 if wanted is None else wanted)
            np.testing.assert_allclose(choice.before, before, atol=1e-9)
            np.testing.assert_allclose(choice.held_out, after, atol=1e-9)
            found.add(wanted)
    assert found == {None, 0, 1, 2}
