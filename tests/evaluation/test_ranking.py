"""Exact search and ranking metrics against slow, obvious references."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.ranking import evaluate, first_of_each, ranking_metrics, top_k


def slow_top_k(queries, documents, k):
    rows = []
    for query in queries:
        scored = sorted((-float(query @ document), index) for index, document in enumerate(documents))
        rows.append([index for _, index in scored][:k])
    return rows


def slow_metrics(ranking, relevant, k):
    """One question, straight from the definitions."""
    relevant = set(relevant)
    gains = [1.0 if document in relevant else 0.0 for document in ranking[:k]]
    ideal = [1.0] * min(len(relevant), k)
    dcg, best = (sum(gain / math.log2(place + 2) for place, gain in enumerate(row)) for row in (gains, ideal))
    return {
        f"ndcg@{k}": dcg / best,
        f"recall@{k}": sum(gains) / min(len(relevant), k),
        f"mrr@{k}": next((1 / (place + 1) for place, gain in enumerate(gains) if gain), 0.0),
        "accuracy@1": gains[0],
    }


@settings(max_examples=60)
@given(st.data())
def test_top_k_equals_full_sort_with_ties_by_lower_index(data):
    d = data.draw(st.integers(1, 3))
    # Few distinct integer coordinates: many exact ties, and float32 products without rounding.
    vector = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
    queries = np.array(data.draw(st.lists(vector, min_size=1, max_size=6)), dtype=np.float32)
    documents = np.array(data.draw(st.lists(vector, min_size=1, max_size=40)), dtype=np.float32)
    k = data.draw(st.integers(1, len(documents)))
    block, query_block = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 7))
    indices, scores = top_k(queries, documents, k, block=block, query_block=query_block)
    assert indices.dtype == np.int64
    assert scores.dtype == np.float32
    assert indices.tolist() == slow_top_k(queries, documents, k)
    np.testing.assert_array_equal(scores, np.take_along_axis(queries @ documents.T, indices, axis=1))


def test_blocks_do_not_change_the_result():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((70, 16)), rng.standard_normal((1000, 16))
    whole, _ = top_k(queries, documents, 10, block=5000)
    parts, _ = top_k(queries, documents, 10, block=37, query_block=9)
    np.testing.assert_array_equal(whole, parts)
    assert whole.tolist() == slow_top_k(queries.astype(np.float32), documents.astype(np.float32), 10)


def test_fewer_documents_than_places_are_padded():
    indices, scores = top_k(np.ones((2, 1)), np.array([[1.0], [2.0]]), 4)
    assert indices.tolist() == [[1, 0, -1, -1]] * 2
    assert scores.tolist() == [[2.0, 1.0, -np.inf, -np.inf]] * 2
    empty, _ = top_k(np.ones((1, 3)), np.empty((0, 3)), 2)
    assert empty.tolist() == [[-1, -1]]
    assert ranking_metrics(indices, [np.array([0]), np.array([5])], 4)["recall@4"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("queries", "documents", "k", "message"),
    [
        (np.ones((1, 2)), np.ones((3, 2)), 0, "k=0 documents"),
        (np.ones((1, 2)), np.ones((3, 4)), 1, r"shape \(1, 2\) cannot be compared with documents of shape \(3, 4\)"),
        (np.ones(2), np.ones((3, 2)), 1, r"queries of shape \(2,\)"),
        (np.array([[1.0, np.nan]]), np.ones((3, 2)), 1, "query 0 has a value that is not finite"),
        (np.ones((1, 2)), np.array([[1, 1], [1, 1], [np.inf, 1]]), 1, "document 2 has a value that is not finite"),
    ],
)
def test_top_k_refuses(queries, documents, k, message):
    with pytest.raises(InputError, match=message):
        top_k(queries, documents, k, block=2)


@settings(max_examples=80)
@given(
    k=st.integers(1, 12),
    questions=st.lists(
        st.tuples(st.permutations(range(15)), st.lists(st.integers(0, 30), min_size=1, max_size=14)),
        min_size=1, max_size=5,
    ),
)  # fmt: skip
def test_metrics_equal_definitions(k, questions):
    rankings = np.array([ranking for ranking, _ in questions], dtype=np.int64)
    found = ranking_metrics(rankings, [np.array(relevant) for _, relevant in questions], k)
    for row, (ranking, relevant) in enumerate(questions):
        for name, value in slow_metrics(ranking, relevant, k).items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name


def test_metrics_of_a_known_ranking():
    found = ranking_metrics(np.array([[7, 3, 9, 4]]), [np.array([3, 4, 8])], k=4)
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert found["ndcg@4"][0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found["recall@4"].tolist() == [pytest.approx(2 / 3)]
    assert found["mrr@4"].tolist() == [0.5]
    assert found["accuracy@1"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("indices", "positives", "k", "message"),
    [
        ([[0, 1], [1, 0]], [[0], []], 2, "question 1 has no relevant document"),
        ([[0, 1]], [[-1]], 2, "question 0 names document -1"),
        ([[0, 1]], [[0], [1]], 2, r"shape \(1, 2\) do not fit 2 questions"),
        ([[0, 1]], [[0]], 3, "2 places cannot be scored at k=3"),
        ([[0, 1], [4, 4]], [[0], [4]], 2, "ranking of question 1 names a document twice"),
    ],
)
def test_metrics_refuse(indices, positives, k, message):
    with pytest.raises(InputError, match=message):
        ranking_metrics(np.array(indices), [np.array(row, dtype=np.int64) for row in positives], k)


def test_evaluate_ranks_and_scores():
    documents = np.eye(12, dtype=np.float32)
    queries = documents[[3, 5]] + 0.1 * documents[[4, 6]]
    found = evaluate(queries, documents, [np.array([3]), np.array([6])])
    assert sorted(found) == ["accuracy@1", "mrr@10", "ndcg@10", "recall@10"]
    assert found["accuracy@1"].tolist() == [1.0, 0.0]
    assert found["ndcg@10"].tolist() == [1.0, pytest.approx(1 / math.log2(3))]
    with pytest.raises(InputError, match="question 1 names document 12, but there are 12"):
        evaluate(queries, documents, [np.array([3]), np.array([12])])
    assert evaluate(np.empty((0, 12)), documents, [])["ndcg@10"].shape == (0,)


@settings(max_examples=60)
@given(st.data())
def test_the_best_chunk_of_every_document_is_kept(data):
    owners = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12)))
    k = data.draw(st.integers(1, 6))
    ranked = [data.draw(st.permutations(range(len(owners)))) for _ in range(data.draw(st.integers(0, 3)))]
    kept = data.draw(st.integers(0, len(owners)))
    indices = np.array([list(row)[:kept] + [-1] * (len(owners) - kept) for row in ranked], dtype=np.int64)
    left = first_of_each(indices.reshape(-1, len(owners)), owners, k)
    for row, found in zip(ranked, left, strict=True):
        seen, best = set(), []
        for chunk in list(row)[:kept]:
            if owners[chunk] not in seen:
                seen.add(owners[chunk])
                best.append(chunk)
        assert found.tolist() == (best + [-1] * k)[:k]
