"""Beside the published package (nudge-ft): equal where both are right, and right where it is not."""

import contextlib
import io

import numpy as np
import pytest
from nudge import NUDGEM, NUDGEN

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.candidates import CandidateSearch
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.questions import QuestionSet, clean_questions
from heal_tasks.nudge.solve import MAX_THETA, apply_moves, gradients, plan_moves
from heal_tasks.nudge.sweep import Metric, metric_curve
from heal_tasks.nudge.theta import choose_theta
from tests.nudge.helpers import moved_by, unit

D = 48
GRID = [0.02 * step for step in range(25)]


class World:
    """Documents with questions that lean to their own side; no question faces away from its document."""

    def __init__(self, seed=0, n=250, asked=150):
        self.rng = np.random.default_rng(seed)
        self.documents = unit(self.rng.standard_normal((n, D)))
        self.sides = unit(self.rng.standard_normal((n, D)))
        self.train = self.ask(np.repeat(np.arange(asked), 3))
        self.validation = self.ask(np.repeat(np.arange(n), 2))

    def ask(self, rows):
        noise = unit(self.rng.standard_normal((len(rows), D)))
        return QuestionSet(unit(self.documents[rows] + 1.1 * self.sides[rows] + noise), [np.array([r]) for r in rows])


def package(kind, documents, train, validation, **options):
    sets = [{"q_embs": s.vectors, "q_ans_indx": [list(rows) for rows in s.positives]} for s in (train, validation)]
    with contextlib.redirect_stdout(io.StringIO()):
        return kind().finetune_embeddings(documents, *sets, **options)


def add(questions, vectors, positives):
    return QuestionSet(np.vstack([questions.vectors, vectors]), [*questions.positives, *positives])


def gains(world, theirs):
    """Top-1 on validation after and before."""
    wanted = np.concatenate(world.validation.positives)
    return [np.mean((world.validation.vectors @ rows.T).argmax(axis=1) == wanted) for rows in (theirs, world.documents)]


def solved(world):
    train = clean_questions(world.train, n_rows=len(world.documents), dims=D, what="training")
    return gradients(train.vectors, *train.pairs())


@pytest.mark.parametrize("gamma", [0.02, 0.3, 0.48])
def test_vectors_are_equal_at_the_same_theta(gamma):
    world = World()
    rows, G = solved(world)
    theirs = package(NUDGEN, world.documents, world.train, world.validation, gamma=gamma)
    base = world.documents[rows]
    ours = apply_moves(base, plan_moves(base, G, "N"), np.arccos(1 - gamma / 2))
    np.testing.assert_allclose(ours, theirs[rows], atol=1e-6)
    theirs = package(NUDGEM, world.documents, world.train, world.validation, gamma=gamma)
    np.testing.assert_allclose(apply_moves(base, plan_moves(base, G, "M"), gamma), theirs[rows], atol=1e-6)


def curve_of(world, rows, moves, metric):
    validation = clean_questions(world.validation, n_rows=len(world.documents), dims=D, what="validation")
    limit, scoring = MAX_THETA[moves.variant], Metric(metric)
    candidates = CandidateSearch(validation.vectors, world.documents, rows, scoring.k).find(moves, limit)
    return validation, metric_curve(candidates, validation.positives, scoring, limit)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("val_k", [1, 5])
def test_nudge_n_finds_the_theta_of_the_grid_and_better(seed, val_k):
    world = World(seed)
    rows, G = solved(world)
    moves = plan_moves(world.documents[rows], G, "N")
    validation, curve = curve_of(world, rows, moves, f"recall@{val_k}")
    values = np.array([curve.values(np.arccos(1 - gamma / 2)).mean() for gamma in GRID])
    theirs = package(NUDGEN, world.documents, world.train, world.validation, val_k=val_k)
    squared = np.max(np.sum((theirs.astype(np.float64) - world.documents) ** 2, axis=1))
    assert squared == pytest.approx(GRID[int(np.flatnonzero(values >= values.max() - 1e-9)[0])], abs=1e-5)
    ours = choose_theta(validation, world.documents, rows, [moves], f"recall@{val_k}")
    assert ours.after.mean() >= values.max() - 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_nudge_m_finds_the_same_cell(seed):
    world = World(seed)
    rows, G = solved(world)
    moves = plan_moves(world.documents[rows], G, "M")
    validation, curve = curve_of(world, rows, moves, "accuracy@1")
    theirs = package(NUDGEM, world.documents, world.train, world.validation)
    gamma = float(np.linalg.norm(theirs[rows] - world.documents[rows], axis=1).mean())
    ours = choose_theta(validation, world.documents, rows, [moves], "accuracy@1")
    # The package stops at the left end of its best cell, where a question is exactly tied.
    assert ours.after.mean() == pytest.approx(curve.values(gamma + 1e-5).mean(), abs=1e-9)


def test_questions_equal_to_their_documents():
    world = World()
    train = add(world.train, world.documents[200:220], [np.array([row]) for row in range(200, 220)])
    theirs = package(NUDGEN, world.documents, train, world.validation)
    assert np.isnan(package(NUDGEN, world.documents, train, world.validation, gamma=0.3)).any()
    np.testing.assert_allclose(theirs, world.documents, atol=1e-6)
    ours = nudge(world.documents, train, world.validation, metric="accuracy@1")
    assert ours.adopted
    assert ours.rows.tolist() == list(range(150))


def test_a_validation_question_without_answers():
    world = World()
    validation = add(world.validation, world.documents[:1], [np.empty(0, dtype=np.int64)])
    np.testing.assert_allclose(package(NUDGEN, world.documents, world.train, validation), world.documents, atol=1e-6)
    ours = nudge(world.documents, world.train, validation, metric="accuracy@1")
    assert ours.adopted
    assert len(ours.choice.before) == len(world.validation.positives)


def test_a_document_that_is_not_a_number():
    world = World()
    documents = world.documents.copy()
    documents[7, 3] = np.nan
    theirs = package(NUDGEN, documents, world.train, world.validation)
    np.testing.assert_allclose(theirs[8:], world.documents[8:], atol=1e-6)
    with pytest.raises(InputError, match="document 7 has the value nan"):
        nudge(documents, world.train, world.validation)


def test_half_precision_and_mixed_types():
    world = World()
    half = world.documents.astype(np.float16)
    narrow = [QuestionSet(s.vectors.astype(np.float16), s.positives) for s in (world.train, world.validation)]
    assert np.isnan(package(NUDGEM, half, *narrow)).any()
    wide = [QuestionSet(s.vectors.astype(np.float64), s.positives) for s in (world.train, world.validation)]
    with pytest.raises(RuntimeError, match="dtype"):
        package(NUDGEN, world.documents, *wide)
    for variant in "NM":
        ours = nudge(world.documents, world.train, world.validation, variant=variant)
        for documents, sets in [(half, narrow), (world.documents, wide)]:
            other = moved_by(documents, sets[0], ours.theta, variant=variant)
            np.testing.assert_allclose(other.vectors, ours.vectors, atol=3e-3)


def test_a_negative_index():
    world = World()
    train = add(world.train, world.sides[:1], [np.array([-1])])
    theirs = package(NUDGEN, world.documents, train, world.validation, gamma=0.3)
    assert np.abs(theirs[-1] - world.documents[-1]).max() > 0.01, "the last document moves"
    with pytest.raises(InputError, match="training question 450 names document -1"):
        nudge(world.documents, train, world.validation)


def test_questions_of_any_length_weigh_the_same():
    world = World()
    scale = world.rng.uniform(0.1, 20, size=(len(world.train.vectors), 1)).astype(np.float32)
    long = QuestionSet(world.train.vectors * scale, world.train.positives)
    theirs = [package(NUDGEN, world.documents, s, world.validation, gamma=0.3) for s in (world.train, long)]
    assert np.abs(theirs[0] - theirs[1]).max() > 0.05
    ours = [moved_by(world.documents, s, 0.5).vectors for s in (world.train, long)]
    np.testing.assert_allclose(*ours, atol=1e-6)


def test_repeated_calls_do_not_drift():
    world = World()
    once = package(NUDGEN, world.documents, world.train, world.validation, gamma=0.1)
    twice = package(NUDGEN, once, world.train, world.validation, gamma=0.1)
    assert np.abs(twice - once).max() > 0.01, "the package moves rows again that it has moved"
    ours = [nudge(world.documents, world.train, world.validation) for _ in range(2)]
    assert ours[0].theta == ours[1].theta
    np.testing.assert_array_equal(ours[0].vectors, ours[1].vectors)


def test_rows_that_face_away_from_their_questions():
    world = World()
    train = add(world.train, -world.documents[200:201] + 0.5 * world.sides[200:201], [np.array([200])])
    theirs = package(NUDGEN, world.documents, train, world.validation, gamma=0.3)
    np.testing.assert_allclose(theirs[200], world.documents[200], atol=1e-6)
    assert 200 in moved_by(world.documents, train, 0.5).rows


def test_gain_is_that_of_the_package():
    world = World()
    theirs = package(NUDGEN, world.documents, world.train, world.validation)
    ours = nudge(world.documents, world.train, world.validation, metric="accuracy@1")
    after, before = gains(world, theirs)
    assert ours.choice.before.mean() == pytest.approx(before, abs=1e-9)
    assert ours.choice.after.mean() >= after - 1e-9
