"""Displacements: equal to a loop, unchanged by later questions, and a gain where a query cone lifts all rows."""

import numpy as np
import pytest
import torch

from heal_tasks.nudge.apply import recompute
from heal_tasks.nudge.contrast import Displacements, displace
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.plan import Plan
from heal_tasks.nudge.questions import QuestionSet
from heal_tasks.nudge.solve import apply_moves, plan_moves
from tests.nudge.helpers import moved_by, served, unit

D = 12


def slowly(questions, base, answers, weights, G, prior, steps, levels=None):
    """Question by question, in float64; given levels, each row against those instead of against the other rows."""
    rows, so_far = base.astype(np.float64), np.zeros(base.shape)
    found = np.zeros(len(questions))
    for step in range(1, steps + 1):
        for number, (question, own) in enumerate(zip(questions.astype(np.float64), answers, strict=True)):
            heights = np.exp(rows @ question / 0.05)
            found[number] = np.log(heights.sum())
            others = heights.sum() if levels is None else np.exp(levels[number]) + heights
            shares = weights[number] * heights / others
            for row in range(len(base)):
                if row not in own:
                    so_far[row] -= shares[row] * question
        rows = base + (step * G + so_far) / (prior * steps)
        rows /= np.linalg.norm(rows, axis=1)[:, None]
    return so_far / steps, found


def asked_at_random(rng, rows, fewest):
    questions, base = unit(rng.standard_normal((30, D))), unit(rng.standard_normal((rows, D)))
    answers = [rng.choice(rows, size=rng.integers(fewest, 5), replace=False) for _ in questions]
    pairs = np.array([(number, row) for number, own in enumerate(answers) for row in np.sort(own)])
    weights = np.array([max(1, len(own)) ** 0.5 for own in answers], dtype=np.float32)
    return questions, base, answers, pairs, weights, rng.standard_normal(base.shape).astype(np.float32)


@pytest.mark.parametrize(("steps", "prior"), [(1, 0.5), (4, 2.0)])
def test_displacements_equal_a_loop(steps, prior):
    questions, base, answers, pairs, weights, G = asked_at_random(np.random.default_rng(10), 14, 1)
    found, levels = displace(questions, base, pairs, weights, G, prior=prior, steps=steps, block_scores=40)
    assert found.dtype == levels.dtype == np.float32
    wanted, high = slowly(questions, base, answers, weights, G, prior, steps)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_allclose(levels, high, atol=2e-5)


@pytest.mark.parametrize(("steps", "prior"), [(1, 0.5), (4, 2.0)])
def test_late_displacements_equal_a_loop(steps, prior):
    rng = np.random.default_rng(11)
    # Most of the earlier questions are not about the late rows.
    questions, base, answers, pairs, weights, G = asked_at_random(rng, 6, 0)
    levels = rng.uniform(5.0, 15.0, len(questions)).astype(np.float32)
    options = {"prior": prior, "steps": steps, "log_sum_exp": levels, "block_scores": 40}
    found, _ = displace(questions, base, pairs, weights, G, **options)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slowly(questions, base, answers, weights, G, prior, steps, levels)[0], atol=2e-5)
    # Together as alone.
    for row in range(len(base)):
        own = pairs[pairs[:, 1] == row] * [1, 0]
        alone, _ = displace(questions, base[[row]], own, weights, G[[row]], **options)
        np.testing.assert_allclose(alone[0], found[row], atol=1e-5)


def test_a_late_row_is_displaced_about_as_if_it_had_been_there():
    rng = np.random.default_rng(5)
    base = unit(rng.standard_normal((200, 48)) + 1.5 * rng.standard_normal((1, 48)))
    asked = np.repeat(np.arange(200), 3)
    questions = unit(base[asked] + 1.2 * unit(rng.standard_normal((600, 48))))
    G = np.zeros((200, 48), dtype=np.float32)
    np.add.at(G, asked, questions)
    ones, pairs = np.ones(600, dtype=np.float32), np.column_stack([np.arange(600), asked])
    whole, _ = displace(questions, base, pairs, ones, G, prior=1.0, steps=5)
    # The last ten rows and the questions about them come later.
    then = asked < 190
    _, levels = displace(questions[then], base[:190], pairs[then], ones[then], G[:190], prior=1.0, steps=5)
    none = np.empty((0, 2), dtype=np.int64)
    late, _ = displace(questions[then], base[190:], none, ones[then], G[190:], prior=1.0, steps=5, log_sum_exp=levels)
    error = np.linalg.norm(late - whole[190:], axis=1) / np.linalg.norm(whole[190:], axis=1)
    assert np.median(error) < 0.3


def test_displacements_of_some_rows():
    kept = Displacements(np.array([2, 5, 9]), np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(kept.of(np.array([0, 2, 9])), [[0, 0], [0, 1], [4, 5]])
    np.testing.assert_array_equal(Displacements.none(2).of(np.array([1, 4])), np.zeros((2, 2)))


def test_a_question_more_moves_its_own_row_only_and_by_hand():
    rng = np.random.default_rng(1)
    base = unit(rng.standard_normal((20, D)))
    asked = np.repeat(np.arange(15), 2)
    questions = unit(base[asked] + 0.7 * rng.standard_normal((30, D)))
    plan = Plan(prior=0.7, contrast_steps=4, answer_count_exponent=0.5)
    positives = [np.array([row]) for row in asked]
    first = moved_by(base, QuestionSet(questions, positives), 0.6, plan=plan)
    assert first.displacements.rows.tolist() == list(range(15))
    assert (np.abs(first.displacements.vectors).max(axis=1) > 0).all()
    assert first.displacements.levels.questions.tolist() == list(range(30))
    assert first.displacements.levels.weights.tolist() == [1.0] * 30
    # One more question, of a row that has some and of one that has none.
    late = QuestionSet(np.vstack([questions, unit(base[[3]] + base[[17]])]), [*positives, np.array([3, 17])])
    kept = moved_by(base, late, 0.6, plan=plan, displacements=first.displacements)
    before, after = served(base, first), served(base, kept)
    assert np.flatnonzero(np.abs(after - before).max(axis=1) > 1e-6).tolist() == [3, 17]
    # Row by row, from the stored displacements.
    record = plan.record("N", 0.6, None)
    for row in (3, 8, 17, 19):
        own = [number for number, found in enumerate(late.positives) if row in found]
        shares = np.array([1 / len(late.positives[number]) for number in own])
        alone = recompute(
            base[[row]], late.vectors[own], np.zeros(len(own), dtype=np.int64), shares, record,
            first.displacements.of(np.array([row])),
        )  # fmt: skip
        np.testing.assert_allclose(alone[0], after[row], atol=1e-6)


def test_contrast_removes_the_direction_that_all_questions_share():
    # In a strong query cone rows that move rise against every question, that of other rows too.
    rng = np.random.default_rng(2)
    base, cone = unit(rng.standard_normal((300, 48))), unit(rng.standard_normal((1, 48)))

    def ask(rows):
        noise = 1.2 * unit(rng.standard_normal((len(rows), 48)))
        return QuestionSet(unit(base[rows] + 1.5 * cone + noise), [np.array([row]) for row in rows])

    everything = np.repeat(np.arange(300), 2)
    train, validation, test = ask(np.repeat(np.arange(150), 3)), ask(everything), ask(everything)
    found = {}
    for plan in (Plan(prior=1.0), Plan(prior=1.0, contrast_steps=5)):
        result = nudge(base, train, validation, metric="accuracy@1", plans=[plan])
        moved = served(base, result)
        found[plan.contrast_steps] = float(((test.vectors @ moved.T).argmax(axis=1) == everything).mean())
    assert found[5] > found[0] + 0.02


def test_the_exponent_weighs_questions_by_the_number_of_their_answers():
    rng = np.random.default_rng(3)
    base, questions = unit(rng.standard_normal((30, D))), unit(rng.standard_normal((2, D)))
    train = QuestionSet(questions, [np.array([3]), np.arange(25)])
    for exponent, weights in ((0.0, (1.0, 1 / 25)), (0.5, (1.0, 1 / 5)), (1.0, (1.0, 1.0))):
        found = moved_by(base, train, 0.2, plan=Plan(answer_count_exponent=exponent))
        G = np.array([weights], np.float32) @ questions
        expected = apply_moves(base[[3]], plan_moves(base[[3]], G, "N"), 0.2)
        np.testing.assert_allclose(found.vectors[found.rows == 3], expected, atol=1e-6)


def test_questions_that_must_not_lose_bound_theta():
    rng = np.random.default_rng(4)
    base, cone = unit(rng.standard_normal((300, 48))), unit(rng.standard_normal((1, 48)))

    sides = unit(rng.standard_normal((300, 48)))

    def ask(rows):
        noise = 1.6 * unit(rng.standard_normal((len(rows), 48)))
        return QuestionSet(unit(base[rows] + sides[rows] + 0.8 * cone + noise), [np.array([row]) for row in rows])

    def right(rows, questions):
        return float(((questions.vectors @ rows.T).argmax(axis=1) == np.concatenate(questions.positives)).mean())

    train, own, others = ask(np.repeat(np.arange(150), 3)), ask(np.repeat(np.arange(150), 2)), ask(np.arange(150, 210))
    validation = QuestionSet(np.vstack([own.vectors, others.vectors]), [*own.positives, *others.positives])
    lost = []
    for unasked in (None, others):
        result = nudge(base, train, validation, metric="accuracy@1", plans=[Plan(), Plan(prior=2.0)], unasked=unasked)
        moved = served(base, result)
        lost.append(right(base, others) - right(moved, others))
        if unasked is None:
            assert right(moved, own) > right(base, own)
    assert lost[0] > 0.05
    assert lost[1] <= 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_the_same_displacements():
    questions, base, _, pairs, weights, G = asked_at_random(np.random.default_rng(12), 200, 1)
    (ours, ours_levels), (theirs, their_levels) = (
        displace(questions, base, pairs, weights, G, prior=1.0, steps=5, device=device) for device in ("cuda", "cpu")
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    np.testing.assert_allclose(ours_levels, their_levels, atol=2e-5)
