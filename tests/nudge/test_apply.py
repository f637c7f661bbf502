"""Moves by a plan and theta: repeatable, never compounding, and of the named rows alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.plan import Plan
from heal_tasks.nudge.questions import QuestionSet
from tests.nudge.helpers import D, World, both, moved_by, none, served, unit


def test_theta_is_the_angle_of_the_move():
    world = World()
    result = moved_by(world.documents, world.ask([3, 5]), 0.25)
    assert result.rows.tolist() == [3, 5]
    cosine = np.sum(result.vectors * world.documents[[3, 5]], axis=1)
    np.testing.assert_allclose(np.arccos(cosine), 0.25, atol=1e-3)


def test_nothing_to_move():
    world = World()
    assert len(moved_by(world.documents, none(), 0.3).rows) == 0
    assert len(moved_by(world.documents, world.ask([1]), 0.0).rows) == 0
    assert moved_by(np.empty((0, D), dtype=np.float32), none(), 0.3).vectors.shape == (0, D)


def test_nothing_compounds_and_nothing_depends_on_other_rows():
    world = World()
    train, validation = world.ask(np.arange(200)), world.ask(np.arange(300))
    first = nudge(world.documents, train, validation)
    again = nudge(world.documents, train, validation)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    more = world.ask(np.arange(250, 260))
    later = moved_by(world.documents, both(train, more), first.theta)
    assert later.rows.tolist() == [*range(200), *range(250, 260)]
    np.testing.assert_allclose(later.vectors[:200], first.vectors, atol=1e-6)


def test_duplicate_questions_and_answers_count_once():
    # Defect 8: written twice, a question weighed twice.
    world = World()
    train = world.ask([4, 4, 9])
    positives = [np.array([4]), np.array([4]), np.array([9, 4])]
    once = QuestionSet(train.vectors, positives)
    twice = QuestionSet(np.vstack([train.vectors, train.vectors]), [*positives, *(np.r_[p, p] for p in positives)])
    np.testing.assert_array_equal(
        moved_by(world.documents, twice, 0.3).vectors, moved_by(world.documents, once, 0.3).vectors
    )
    # The third question has two answers and pulls row 4 with half the weight of the others.
    G = train.vectors[0].astype(float) + train.vectors[1] + 0.5 * train.vectors[2]
    result = moved_by(world.documents, once, np.pi / 2)
    np.testing.assert_allclose(result.vectors[0], G / np.linalg.norm(G), atol=1e-6)


def test_input_is_left_alone():
    world = World()
    base, train = world.documents.copy(), world.ask(np.arange(50))
    before = train.vectors.copy()
    moved_by(base, train, 0.5)
    np.testing.assert_array_equal(base, world.documents)
    np.testing.assert_array_equal(train.vectors, before)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), theta=st.floats(0.0, np.pi / 2), n=st.integers(1, 12))
def test_own_questions_never_lose_and_unasked_rows_never_move(seed, theta, n):
    world = World(seed, n=n)
    rows = world.rng.integers(0, n, size=2 * n)
    train = world.ask(rows)
    result = moved_by(world.documents, train, theta)
    moved = served(world.documents, result)
    for row in range(n):
        total = train.vectors[rows == row].sum(axis=0)
        assert moved[row] @ total >= world.documents[row] @ total - 1e-5
    assert set(result.rows) <= set(rows)


def test_contrast_moves_rows_away_from_questions_that_they_do_not_answer():
    # Two documents close together: a question of one is nearly as near to the other, which contrast moves away.
    world = World(n=2)
    base = unit(np.vstack([world.documents[0], world.documents[0] + 0.1 * world.documents[1]]))
    questions = QuestionSet(unit(base + 0.2 * unit(world.rng.standard_normal((2, D)))), [np.array([0]), np.array([1])])
    plain, contrast = (
        served(base, moved_by(base, questions, 0.1, plan=plan))
        for plan in (Plan(prior=0.5), Plan(prior=0.5, contrast_steps=5))
    )
    margin = [
        np.diag(questions.vectors @ rows.T) - np.diag(questions.vectors[::-1] @ rows.T) for rows in (plain, contrast)
    ]
    assert (margin[1] > margin[0]).all()
