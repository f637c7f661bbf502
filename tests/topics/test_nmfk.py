"""The number of topics: planted truth found, homogeneous documents left alone."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.metrics import silhouette_samples

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmfk import choose_k, derive_seed, silhouettes
from heal_tasks.topics.tfidf import fit_tfidf


def matrix(texts: list[str]) -> csr_array:
    return fit_tfidf(texts, min_df=3, max_df=0.5, max_terms=20_000)[0]


def unit_rows(seed: int, *shape: int) -> Any:
    rows = np.random.default_rng(seed).random(shape, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_silhouettes_equal_scikit_learn_on_the_angle() -> None:
    runs = unit_rows(0, 5, 3, 20)
    flat, labels = runs.reshape(15, 20), np.tile(np.arange(3), 5)
    angles = np.arccos(np.clip(flat @ flat.T, -1, 1))
    np.fill_diagonal(angles, 0)
    samples = silhouette_samples(angles, labels, metric="precomputed")
    assert_allclose(silhouettes(runs), [samples[labels == topic].mean() for topic in range(3)], atol=1e-5)


def test_silhouettes_of_identical_runs_are_one_and_of_swapped_topics_are_not() -> None:
    run = unit_rows(1, 4, 30)
    assert_allclose(silhouettes(np.stack([run] * 4)), 1, atol=1e-2)
    assert silhouettes(np.stack([run, run[::-1], run, run[::-1]])).max() < 0
    assert_array_equal(silhouettes(run[:, None]), [1.0])


def test_a_super_topic_splits_in_two_and_a_homogeneous_one_does_not(planted: Any) -> None:
    of_super = [text for text, (s, _) in zip(planted.texts, planted.labels, strict=True) if s == 0]
    result = choose_k(matrix(of_super), range(2, 6), seed=3)
    assert result.k == 2
    assert [record.k for record in result.records] == [1, 2, 3]
    assert result.chosen.silhouette > 0.95
    assert result.records[2].drop_ratio < 0.15
    assert result.records[2].null_ratio < 1.1
    assert result.stop_reason.startswith("k=3: error drop")

    of_fine = [text for text, label in zip(planted.texts, planted.fine, strict=True) if label == 3]
    assert choose_k(matrix(of_fine), range(2, 6), seed=3).k == 1


@pytest.mark.parametrize("rules", [{"drop_ratio": 0.0}, {"null_ratio": 0.0}])
def test_either_rule_alone_keeps_homogeneous_topics_whole(planted: Any, rules: dict[str, float]) -> None:
    for label in (0, 4):
        texts = [text for text, fine in zip(planted.texts, planted.fine, strict=True) if fine == label]
        assert choose_k(matrix(texts), range(2, 4), silhouette_threshold=-1, **rules).k == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_short_documents_of_one_distribution_are_held_by_the_null_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distribution = rng.gamma(0.3, 1, 800)
    texts = [
        " ".join(f"w{word}x" for word in rng.choice(800, 25, p=distribution / distribution.sum())) for _ in range(150)
    ]
    X = matrix(texts)
    free = choose_k(X, [2], silhouette_threshold=-1, null_ratio=0.0)
    assert free.records[1].drop_ratio > 0.15
    assert choose_k(X, [2], silhouette_threshold=-1).k == 1


def test_a_small_topic_refuses_the_split(planted: Any) -> None:
    groups = [[t for t, fine in zip(planted.texts, planted.fine, strict=True) if fine == label] for label in (0, 5)]
    X = matrix(groups[0] + groups[1][:12])
    assert choose_k(X, [2], min_topic_documents=5).k == 2
    refused = choose_k(X, [2], min_topic_documents=20)
    assert refused.k == 1
    assert refused.stop_reason == "k=2: smallest topic has 12 documents"


def test_a_higher_threshold_is_kept_and_stops_the_split(planted: Any) -> None:
    refused = choose_k(matrix(planted.texts[:200]), [2], silhouette_threshold=1.0)
    assert refused.k == 1
    assert refused.stop_reason.startswith("k=2: silhouette 0.")


def test_a_k_is_judged_the_same_whichever_others_are_tried(planted: Any) -> None:
    X = matrix(planted.texts[:200])
    alone, among = choose_k(X, [3], seed=7), choose_k(X, [2, 3], seed=7)
    assert alone.records[1].term_silhouette == among.records[2].term_silhouette
    assert alone.records[1].relative_error == among.records[2].relative_error
    other = choose_k(X, [3], seed=8)
    assert other.records[1].term_silhouette != alone.records[1].term_silhouette


def test_consensus_rows_have_unit_length_and_progress_is_reported(planted: Any) -> None:
    calls: list[tuple[Any, ...]] = []
    result = choose_k(
        matrix(planted.texts[:200]),
        [2, 3],
        progress=lambda *call: calls.append(call),
    )
    assert_allclose(np.linalg.norm(result.factorisation.term_factors, axis=1), 1, rtol=1e-5)
    assert calls == [(0, 2, "k=2"), (1, 2, "k=3"), (2, 2)]


def test_derived_seeds_differ_by_place_and_nest() -> None:
    states = {
        tuple(derive_seed(*seed).generate_state(2).tolist()) for seed in ((1,), (1, 0), (1, 1), (1, 0, 0), (2, 0))
    }
    assert len(states) == 5
    nested = derive_seed(derive_seed(1, 2), 3).generate_state(2)
    assert_array_equal(nested, derive_seed(1, 2, 3).generate_state(2))


@pytest.mark.parametrize("ks", [[1], [3, 2], [2, 2], [9]])
def test_candidates_out_of_range_or_order(ks: list[int]) -> None:
    X = csr_array(np.eye(8, dtype=np.float32))
    with pytest.raises(InputError, match=r"for a matrix of shape \(8, 8\); use ascending values from 2 to 8"):
        choose_k(X, ks)


def test_one_perturbation_is_refused() -> None:
    with pytest.raises(InputError, match="perturbations=1: stability needs at least 2"):
        choose_k(csr_array(np.eye(8, dtype=np.float32)), [2], perturbations=1)
