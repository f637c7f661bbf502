"""Closed-form moves: properties that must hold for any row, and an independent maximiser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from heal_tasks.nudge.solve import apply_moves, gradients, plan_moves
from tests.nudge.helpers import unit

ANGLES = st.floats(0.0, np.pi / 2)


def turn(base, G, theta):
    return apply_moves(base, plan_moves(base, G, "N"), theta)


def shift(base, G, step):
    return apply_moves(base, plan_moves(base, G, "M"), step)


def sample(seed, a=12, d=9):
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((a, d))), rng.standard_normal((a, d)).astype(np.float32)


def angle(x, y):
    """Angle of rows, exact for small ones too."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    x, y = x / np.linalg.norm(x, axis=1)[:, None], y / np.linalg.norm(y, axis=1)[:, None]
    return 2 * np.arctan2(np.linalg.norm(x - y, axis=1), np.linalg.norm(x + y, axis=1))


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), ANGLES)
def test_turn_keeps_its_bounds_and_never_loses(seed, theta):
    base, G = sample(seed)
    moved = turn(base, G, theta)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1.0, atol=2e-7)
    np.testing.assert_allclose(angle(base, moved), np.minimum(theta, angle(base, G)), atol=2e-6)
    assert (np.sum(G * moved, axis=1) >= np.sum(G * base, axis=1) - 1e-5).all()


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), ANGLES, ANGLES)
def test_a_larger_theta_never_gains_less(seed, one, other):
    base, G = sample(seed)
    less, more = (np.sum(G * turn(base, G, theta), axis=1) for theta in sorted((one, other)))
    assert (more >= less - 1e-5).all()


def test_turn_is_the_constrained_maximum():
    base, G = (rows.astype(np.float64) for rows in sample(7, a=4, d=4))

    def largest(d, g, theta):
        cap = [
            {"type": "eq", "fun": lambda x: x @ x - 1},
            {"type": "ineq", "fun": lambda x: x @ d - np.cos(theta)},
        ]
        return -optimize.minimize(lambda x: -g @ x, d, constraints=cap, method="SLSQP", options={"ftol": 1e-12}).fun

    for theta in (0.3, 0.9):
        moved = turn(base.astype(np.float32), G.astype(np.float32), theta)
        for row in range(len(base)):
            assert G[row] @ moved[row] == pytest.approx(largest(base[row], G[row], theta), abs=1e-4)


def test_turn_equals_the_package_formula():
    # nudge-ft: mu = v + sqrt(gamma/(4-gamma) (c - v^2)), Delta = gamma (G - mu d)/(2(mu - v)); rows with v >= 0.
    base, G = sample(3, a=200, d=30)
    d, g = base.astype(np.float64), G.astype(np.float64)
    gamma = 0.3
    v, c = np.sum(g * d, axis=1), np.sum(g * g, axis=1)
    theta = np.arccos(1 - gamma / 2)
    mu = v + np.sqrt(gamma / (4 - gamma) * (c - v**2))
    package = d + gamma * (g - mu[:, None] * d) / (2 * (mu - v))[:, None]
    turns = (v >= 0) & (angle(base, G) > theta)
    assert turns.sum() > 50
    np.testing.assert_allclose(turn(base, G, theta)[turns], package[turns], atol=1e-6)


def test_rows_that_face_away_from_their_questions_move_too():
    # Defect 9 of nudge-ft: rows with G.d < 0 never moved.
    base = np.array([[1.0, 0.0]], dtype=np.float32)
    moved = turn(base, np.array([[-1.0, 1.0]], dtype=np.float32), 0.5)
    np.testing.assert_allclose(moved, [[np.cos(0.5), np.sin(0.5)]], atol=1e-6)


def test_a_question_equal_to_its_document_leaves_the_row():
    # Defect 1 of nudge-ft: c - v^2 < 0 in float32 became NaN and switched NUDGE-N off.
    rng = np.random.default_rng(1)
    base = unit(rng.standard_normal((500, 384)))
    for weight in (1.0, 0.1, 3.0):
        moves = plan_moves(base, base * np.float32(weight), "N")
        assert (moves.arrival < 1e-6).all()
        np.testing.assert_allclose(apply_moves(base, moves, 0.8), base, atol=1e-6)
    close = unit(base + 1e-5 * rng.standard_normal(base.shape))
    moved = turn(base, close, 0.8)
    assert np.isfinite(moved).all()
    assert angle(moved, close).max() < 1e-6


def test_only_the_direction_of_the_gradient_counts():
    base, G = sample(2)
    np.testing.assert_allclose(turn(base, G, 0.4), turn(base, G * 50, 0.4), atol=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0))
def test_shift_is_a_step_of_the_given_length(seed, gamma):
    base, G = sample(seed)
    moved = shift(base, G, gamma)
    np.testing.assert_allclose(np.linalg.norm(moved - base, axis=1), gamma, atol=1e-5)
    expected = gamma * np.linalg.norm(G, axis=1)
    np.testing.assert_allclose(np.sum(G * (moved - base), axis=1), expected, atol=1e-4)


def test_rows_of_many_blocks_move_as_alone():
    base, G = sample(4, a=2500)
    for move in (turn, shift):
        whole = move(base, G, 0.5)
        for part in (slice(0, 7), slice(1020, 1030), slice(2490, 2500)):
            np.testing.assert_allclose(whole[part], move(base[part], G[part], 0.5), atol=1e-7)


@pytest.mark.parametrize(("n", "count"), [(40, 80), (3000, 6000)])
def test_gradients_equal_a_loop(n, count):
    rng = np.random.default_rng(5)
    questions = unit(rng.standard_normal((30, 6)))
    pairs = np.column_stack([rng.integers(0, 30, count), rng.integers(0, n, count)])
    weights = rng.random(count) + 0.1
    expected = np.zeros((n, 6))
    for (question, row), weight in zip(pairs, weights, strict=True):
        expected[row] += weight * questions[question]
    rows, G = gradients(questions, pairs, weights)
    assert rows.tolist() == sorted(set(pairs[:, 1]))
    assert G.dtype == np.float32
    np.testing.assert_allclose(G, expected[rows], rtol=1e-5, atol=1e-6)


def test_centred_gradients_subtract_the_mean_question():
    rng = np.random.default_rng(8)
    questions = unit(rng.standard_normal((30, 6)) + 3)
    pairs = np.column_stack([np.arange(30), rng.integers(0, 10, 30)])
    centre = questions.mean(axis=0)
    rows, G = gradients(questions, pairs, np.ones(30), centre=centre)
    expected = [(questions[pairs[:, 1] == row] - centre).sum(axis=0) for row in rows]
    np.testing.assert_allclose(G, expected, atol=1e-6)


def test_a_prior_counts_the_base_vector_as_that_many_questions():
    base, G = sample(9)
    for prior in (0.5, 3.0):
        far = apply_moves(base, plan_moves(base, G, "N", prior), np.pi)
        np.testing.assert_allclose(far, unit(prior * base + G), atol=1e-6)
        far = apply_moves(base, plan_moves(base, G, "M", prior), 1e9)
        np.testing.assert_allclose(far, base + G / prior, atol=1e-5)
        near = apply_moves(base, plan_moves(base, G, "N", prior), 0.01)
        np.testing.assert_allclose(near, turn(base, G, 0.01), atol=1e-7)


def test_questions_that_cancel_give_no_direction():
    questions = unit(np.random.default_rng(6).standard_normal((1, 20)))
    pairs = np.array([[0, 4], [1, 4], [2, 9]])
    rows, G = gradients(np.vstack([questions, -questions, questions]), pairs, np.ones(3))
    assert rows.tolist() == [4, 9]
    np.testing.assert_array_equal(G, np.vstack([np.zeros_like(questions), questions]))
    base = unit(np.random.default_rng(7).standard_normal((2, 20)))
    for variant in "NM":
        moves = plan_moves(base, G, variant)
        assert moves.arrival[0] == 0
        np.testing.assert_array_equal(apply_moves(base, moves, 0.5)[0], apply_moves(base, moves, 0.0)[0])


def test_gradients_of_nothing():
    rows, G = gradients(np.empty((0, 5), dtype=np.float32), np.empty((0, 2), dtype=np.int64), np.empty(0))
    assert rows.shape == (0,)
    assert G.shape == (0, 5)
