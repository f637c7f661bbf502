"""Input: wrong vectors and indices are named; any width and length will do; questions without answers are dropped."""

import numpy as np
import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.questions import QuestionSet
from tests.nudge.helpers import D, World, moved_by, none


def test_questions_equal_to_their_documents_do_not_stop_the_others():
    # Defect 1: 20 such pairs among 1,520 switched the package's NUDGE-N off.
    world = World()
    train, validation = world.ask(np.repeat(np.arange(100, 200), 3)), world.ask(np.arange(300))
    equal = QuestionSet(
        np.vstack([train.vectors, world.documents[:20]]), [*train.positives, *(np.array([row]) for row in range(20))]
    )
    plain = nudge(world.documents, train, validation)
    result = nudge(world.documents, equal, validation)
    assert result.adopted
    assert result.rows.tolist() == plain.rows.tolist() == list(range(100, 200))
    assert np.isfinite(result.vectors).all()


def test_questions_without_answers_are_dropped():
    # Defect 2: one such validation question made the package choose zero.
    world = World()
    train, validation = world.ask(np.repeat(np.arange(200), 2)), world.ask(np.arange(200))
    empty = np.empty(0, dtype=np.int64)
    holes = [
        QuestionSet(np.vstack([s.vectors, s.vectors[:2]]), [*s.positives, empty, empty]) for s in (train, validation)
    ]
    plain, result = nudge(world.documents, train, validation), nudge(world.documents, *holes)
    assert len(result.choice.before) == len(plain.choice.before) == 200
    assert result.adopted
    assert result.theta == plain.theta
    np.testing.assert_array_equal(result.vectors, plain.vectors)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("variant", ["N", "M"])
def test_any_float_width_and_any_length(dtype, variant):
    # Defects 4 and 8: half precision gave NaN, mixed widths an error, and long questions dominated.
    world = World()
    train, validation = world.ask(np.repeat(np.arange(200), 2)), world.ask(np.arange(200))
    plain = nudge(world.documents, train, validation, variant=variant)
    scale = world.rng.uniform(0.5, 20, size=(400, 1))
    long = QuestionSet((train.vectors * scale).astype(dtype), train.positives)
    wide = QuestionSet(validation.vectors.astype(np.float64), validation.positives)
    result = nudge((world.documents * 3).astype(dtype), long, wide, variant=variant)
    assert result.vectors.dtype == np.float32
    assert result.adopted
    again = moved_by(world.documents, train, result.theta, variant=variant)
    np.testing.assert_allclose(result.vectors, again.vectors, atol=4e-3 if dtype == np.float16 else 1e-5)
    assert result.choice.after.mean() == pytest.approx(plain.choice.after.mean(), abs=0.02)


def bad_base(value, row=7):
    base = World().documents.copy()
    base[row] = value
    return base


def one(positives, vector=None):
    return QuestionSet(np.ones((1, D)) if vector is None else vector, [np.asarray(positives)])


@pytest.mark.parametrize(
    ("base", "train", "message"),
    [
        (bad_base(np.nan), one([1]), "document 7 has the value nan in its vector; encode it again"),
        (bad_base(-np.inf), one([1]), "document 7 has the value -inf"),
        (bad_base(0.0), one([1]), "document 7 has a zero vector"),
        (bad_base(1.0).astype(int), one([1]), r"document vectors must be a matrix of floats, got int64"),
        (bad_base(1.0)[0], one([1]), r"document vectors must be a matrix of floats, got float32 of shape \(32,\)"),
        (bad_base(1.0), one([-1]), "training question 0 names document -1, but rows are 0 to 299"),
        (bad_base(1.0), one([2, 300]), "training question 0 names document 300, but rows are 0 to 299"),
        (bad_base(1.0), one([0.0]), "training question 0 has positives of type float64"),
        (bad_base(1.0), one([1], np.full((1, D), np.nan)), "training question 0 has the value nan"),
        (bad_base(1.0), one([1], np.zeros((1, D))), "training question 0 has a zero vector"),
        (bad_base(1.0), one([1], np.ones((1, D + 1))), r"shape \(1, 33\) do not fit documents of 32 dimensions"),
        (bad_base(1.0), QuestionSet(np.ones((2, D)), [np.array([1])]), "2 vectors but 1 lists of positives"),
    ],
)
def test_wrong_input_is_named(base, train, message):
    # Defects 3 and 7: the package went on silently, or moved the last document for -1.
    with pytest.raises(InputError, match=message):
        nudge(base, train, none())


def test_wrong_validation_and_options_are_named():
    world = World()
    with pytest.raises(InputError, match="validation question 0 names document 300"):
        nudge(world.documents, none(), one([300]))
    with pytest.raises(InputError, match="there are no plans to choose among"):
        nudge(world.documents, none(), none(), plans=())
    with pytest.raises(InputError, match="unknown NUDGE variant 'IP'"):
        nudge(world.documents, none(), none(), variant="IP")
    with pytest.raises(InputError, match="unknown metric 'mrr@10'"):
        nudge(world.documents, none(), none(), metric="mrr@10")
    with pytest.raises(InputError, match=r"max_unasked_loss is -0\.1; the tolerated loss must be >= 0"):
        nudge(world.documents, none(), none(), max_unasked_loss=-0.1)
