import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.training.negatives import plan_negatives


def slow_bands(question, documents, positive, right, document_ids, near, max_ratio):
    """Near and far bands of one question, by a full sort; ``right`` holds the documents that answer it."""
    scores = [float(question @ row / np.linalg.norm(question) / np.linalg.norm(row)) for row in documents]
    limit = scores[positive] - abs(scores[positive]) * (1 - max_ratio)
    candidates = [row for row in range(len(documents)) if document_ids[row] not in right and scores[row] <= limit]
    ranked = sorted(candidates, key=lambda row: -scores[row])
    r = len(ranked)
    end = max(near, min(math.ceil(0.05 * r), 100))
    start = max(math.ceil(0.2 * r), end if near else 0)
    return set(ranked[:end]), set(ranked[start : math.ceil(0.6 * r)])


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 150),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 8),
)
def test_against_brute_force(seed, n, m, near, far, block):
    rng = np.random.default_rng(seed)
    questions, documents = rng.normal(size=(n, 4)), rng.normal(size=(m, 4))
    positives, ids = rng.integers(-1, m, n), rng.integers(0, m, m)
    asked = rng.integers(0, n, n)
    plan = plan_negatives(
        questions.astype(np.float32), documents.astype(np.float32), positives, document_ids=ids,
        question_ids=asked, near=near, far=far, seed=seed, block_values=block * m,
    )  # fmt: skip
    assert plan.shape == (n, near + far)
    assert plan.dtype == np.int64
    for row in range(n):
        if positives[row] < 0:
            assert (plan[row] == -1).all()
            continue
        right = {
            int(ids[positives[other]]) for other in range(n) if asked[other] == asked[row] and positives[other] >= 0
        }
        bands = slow_bands(questions[row], documents, int(positives[row]), right, ids, near, 0.95)
        for drawn, band, wanted in ((plan[row, :near], bands[0], near), (plan[row, near:], bands[1], far)):
            real = drawn[drawn >= 0].tolist()
            assert set(real) <= band
            assert len(set(real)) == len(real) == min(wanted, len(band))
            assert (drawn[len(real) :] == -1).all()
        assert not set(plan[row, :near]) & set(plan[row, near:]) - {-1}


def test_a_planted_false_negative_is_left_out_also_below_zero():
    # Cosines to the question (1, 0): positive p, a near copy of it, a clear miss.
    for p, copy, miss in ((0.8, 0.79, 0.5), (-0.5, -0.51, -0.9)):
        documents = np.array([[s, math.sqrt(1 - s * s)] for s in (p, copy, miss)], dtype=np.float32)
        plan = plan_negatives(
            np.array([[1, 0]], dtype=np.float32), documents, np.array([0]), document_ids=np.arange(3),
            question_ids=np.array([7]), near=2, far=0, seed=0,
        )  # fmt: skip
        assert plan.tolist() == [[2, -1]]


def test_draw_depends_on_seed_and_not_on_block_and_length():
    rng = np.random.default_rng(0)
    questions, documents = rng.normal(size=(20, 8)), rng.normal(size=(900, 8))

    def plan(seed: int, block: int, scale: float = 1.0):
        return plan_negatives(
            (questions * scale).astype(np.float32), documents.astype(np.float32), np.arange(20),
            document_ids=np.arange(900), question_ids=np.arange(20), near=2, far=2, seed=seed, block_values=900 * block,
        )  # fmt: skip

    np.testing.assert_array_equal(plan(1, 512), plan(1, 3))
    np.testing.assert_array_equal(plan(1, 512), plan(1, 512, 4.0))
    assert (plan(1, 512) != plan(2, 512)).mean() > 0.5


def test_a_question_whose_text_is_gone_gets_none():
    vectors = np.eye(4, dtype=np.float32)
    plan = plan_negatives(
        vectors[:2], vectors, np.array([-1, 1]), document_ids=np.arange(4),
        question_ids=np.arange(2), near=1, far=0, seed=0,
    )  # fmt: skip
    assert plan[0].tolist() == [-1]
    assert plan[1, 0] in {0, 2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": np.array([9, 0])}, "positives reach from 0 to 9; there are 3 texts"),
        ({"positives": np.array([0])}, r"expected \(2,\), \(2,\) and \(3,\) for 2 questions and 3 texts"),
        ({"question_ids": np.arange(3)}, r"shapes \[\(2,\), \(3,\), \(3,\)\]"),
    ],
)
def test_refuses(change, message):
    arguments = {
        "question_vectors": np.ones((2, 2), dtype=np.float32),
        "document_vectors": np.ones((3, 2), dtype=np.float32),
        "positives": np.array([0, 1]),
        "document_ids": np.arange(3),
        "question_ids": np.arange(2),
        "near": 1,
        "far": 1,
        "seed": 0,
    }
    with pytest.raises(InputError, match=message):
        plan_negatives(**{**arguments, **change})
