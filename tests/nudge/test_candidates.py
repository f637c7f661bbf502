"""Candidates: no row of the first places is missing, whatever theta; rows that do not move are those of a full sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.nudge.candidates import CandidateSearch
from heal_tasks.nudge.products import exact
from heal_tasks.nudge.solve import MAX_THETA, apply_moves, plan_moves
from heal_tasks.nudge.sweep import Metric, metric_curve
from tests.nudge.helpers import ANY_PROBLEM, problem, slow_unasked_values, unit


def candidates_of(validation, base, moved, moves, max_theta, k, **options):
    return CandidateSearch(validation.vectors, base, moved, k, **options).find(moves, max_theta)


def sample(seed, n, d, skew):
    """Unit rows; with skew, a few dimensions dwarf the others, as in some encoders."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((n, d)) * np.exp(skew * rng.standard_normal(d)))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 300), k=st.integers(1, 12), skew=st.floats(0.0, 3.0),
       block_scores=st.sampled_from([20, 500, None]))  # fmt: skip
def test_the_best_rows_that_do_not_move_are_those_of_a_full_sort(seed, n, k, skew, block_scores):
    rng = np.random.default_rng(seed)
    questions, base = sample(seed, 5, 16, skew), sample(seed + 1, max(n, 1), 16, skew)[:n]
    if n > 20:
        base[10:20] = base[3]  # equal scores
    moved = np.flatnonzero(rng.random(n) < 0.2)
    rows, found = CandidateSearch(questions, base, moved, k, block_scores=block_scores).best_static
    stays = np.setdiff1d(np.arange(n), moved)
    scores = questions.astype(np.float64) @ base[stays].astype(np.float64).T
    for question in range(len(questions)):
        # Rows with equal vectors must tie exactly, whatever BLAS makes of them.
        expected = exact(questions, base, np.full(len(stays), question), stays)
        np.testing.assert_allclose(expected, scores[question], atol=1e-12)
        order = np.lexsort((stays, -expected))[:k]
        missing = k - len(order)
        assert rows[question].tolist() == [*stays[order], *[-1] * missing]
        assert found[question].tolist() == [*expected[order], *[-np.inf] * missing]


@pytest.mark.parametrize("variant", ["N", "M"])
@pytest.mark.parametrize(("n", "a"), [(400, 200), (400, 400), (700, 30)])
def test_pruning_never_loses_a_row_of_the_first_places(variant, n, a):
    for seed in range(5):
        validation, base, moved, moves = case = problem(seed, n=n, a=a, m=10, d=12, variant=variant)
        found = candidates_of(*case, MAX_THETA[variant], 3)
        assert len(found.rows) / 10 < n / 3, "pruning must leave out most rows"
        for theta in np.linspace(0, MAX_THETA[variant], 60):
            rows = base.copy()
            rows[moved] = apply_moves(base[moved], moves, theta)
            best = np.argsort(-(validation.vectors @ rows.T), axis=1)[:, :3]
            for question, first in enumerate(best):
                assert np.isin(first, found.rows[found.question == question]).all()


@settings(max_examples=40)
@given(**ANY_PROBLEM)
def test_questions_with_unmoved_answers_are_ranked_right_at_any_theta(seed, variant, metric, a, position):
    validation, base, moved, moves = case = problem(seed, n=30, a=a, m=4, d=3, variant=variant, answers=3)
    limit = MAX_THETA[variant]
    theta = position * limit
    search = CandidateSearch(validation.vectors, base, moved, Metric(metric).k + 3)
    unmoved = search.with_answers_unmoved(search.find(moves, limit), validation.positives)
    curve = metric_curve(unmoved, validation.positives, Metric(metric), limit)
    if np.abs(curve.at - theta).min(initial=1.0) > 1e-5:
        expected = slow_unasked_values(*case, metric, theta)
        np.testing.assert_allclose(curve.values(theta), expected, atol=1e-9)


@pytest.mark.parametrize("variant", ["N", "M"])
def test_blocks_do_not_change_what_is_found(variant):
    case = problem(11, m=2100, variant=variant)
    vectors, (_, base, moved, moves) = case[0].vectors, case
    whole = candidates_of(*case, MAX_THETA[variant], 4)
    first, second = (
        CandidateSearch(part, base, moved, 4, block_scores=100).find(moves, MAX_THETA[variant])
        for part in (vectors[:1000], vectors[1000:])
    )
    np.testing.assert_array_equal(whole.question, np.concatenate([first.question, second.question + 1000]))
    np.testing.assert_array_equal(whole.rows, np.concatenate([first.rows, second.rows]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same():
    rng = np.random.default_rng(0)
    questions, base = unit(rng.standard_normal((40, 64))), unit(rng.standard_normal((3000, 64)))
    moved = np.arange(0, 3000, 3)
    moves = plan_moves(base[moved], unit(rng.standard_normal((len(moved), 64))), "N")
    results = [CandidateSearch(questions, base, moved, 5, device).find(moves, 1.0) for device in ("cpu", "cuda")]
    for theta in (0.0, 0.7):
        first, second = (
            found.question[order] * 3000 + found.rows[order]
            for found in results
            for scores in [found.scores(np.arange(len(found.rows)), np.full((len(found.rows), 1), theta))[:, 0]]
            for order in [np.lexsort((-scores, found.question))]
        )
        places = [np.arange(len(found.rows)) - np.searchsorted(found.question, found.question) for found in results]
        np.testing.assert_array_equal(first[places[0] < 5], second[places[1] < 5])
