"""The number of topics: planted truth found, homogeneous documents left alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import silhouette_samples

from heal_tasks.core.errors import InputError
from heal_tasks.topics.config import NMFkConfig
from heal_tasks.topics.nmfk import choose_k
from heal_tasks.topics.seeds import derive_seed
from heal_tasks.topics.stability import align, silhouettes, unit_rows
from tests.topics.conftest import tfidf


def random_rows(seed: int, *shape: int) -> NDArray[np.float32]:
    return unit_rows(np.random.default_rng(seed).random(shape, np.float32))


def test_silhouettes_equal_scikit_learn_on_the_angle() -> None:
    runs = random_rows(0, 5, 3, 20)
    flat, labels = runs.reshape(15, 20), np.tile(np.arange(3), 5)
    angles = np.arccos(np.clip(flat @ flat.T, -1, 1))
    np.fill_diagonal(angles, 0)
    samples = silhouette_samples(angles, labels, metric="precomputed")
    assert_allclose(silhouettes(runs), [samples[labels == topic].mean() for topic in range(3)], atol=1e-5)


def test_silhouettes_of_identical_runs_are_one_and_of_swapped_topics_are_not() -> None:
    run = random_rows(1, 4, 30)
    assert_allclose(silhouettes(np.stack([run] * 4)), 1, atol=1e-2)
    assert silhouettes(np.stack([run, run[::-1], run, run[::-1]])).max() < 0
    assert_array_equal(silhouettes(run[:, None]), [1.0])


def test_a_super_topic_splits_in_two_and_a_homogeneous_one_does_not(planted: Any) -> None:
    of_super = [text for text, (s, _) in zip(planted.texts, planted.labels, strict=True) if s == 0]
    result = choose_k(tfidf(of_super), range(2, 6), seed=3)
    assert result.k == 2
    assert [record.k for record in result.records] == [1, 2, 3]
    assert result.records[1].silhouette > 0.95
    assert result.records[2].drop_ratio < 0.15
    assert result.records[2].null_ratio < 1.1
    assert result.stop_reason.startswith("k=3: error drop")

    of_fine = [text for text, label in zip(planted.texts, planted.fine, strict=True) if label == 3]
    assert choose_k(tfidf(of_fine), range(2, 6), seed=3).k == 1


@pytest.mark.parametrize("rules", [{"drop_ratio": 0.0}, {"null_ratio": 0.0}])
def test_either_rule_alone_keeps_homogeneous_topics_whole(planted: Any, rules: dict[str, float]) -> None:
    for label in (0, 4):
        texts = [text for text, fine in zip(planted.texts, planted.fine, strict=True) if fine == label]
        assert choose_k(tfidf(texts), range(2, 4), NMFkConfig(silhouette=-1, **rules)).k == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_short_documents_of_one_distribution_are_held_by_the_null_tfidf(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distribution = rng.gamma(0.3, 1, 800)
    texts = [
        " ".join(f"w{word}x" for word in rng.choice(800, 25, p=distribution / distribution.sum())) for _ in range(150)
    ]
    X = tfidf(texts)
    free = choose_k(X, [2], NMFkConfig(silhouette=-1, null_ratio=0.0))
    assert free.records[1].drop_ratio > 0.15
    assert choose_k(X, [2], NMFkConfig(silhouette=-1)).k == 1


def test_a_small_topic_refuses_the_split(planted: Any) -> None:
    groups = [[t for t, fine in zip(planted.texts, planted.fine, strict=True) if fine == label] for label in (0, 5)]
    X = tfidf(groups[0] + groups[1][:12])
    assert choose_k(X, [2], NMFkConfig(min_topic_documents=5)).k == 2
    refused = choose_k(X, [2], NMFkConfig(min_topic_documents=20))
    assert refused.k == 1
    assert refused.stop_reason == "k=2: smallest topic has 12 documents"


def test_a_higher_threshold_is_kept_and_stops_the_split(planted: Any) -> None:
    refused = choose_k(tfidf(planted.texts[:200]), [2], NMFkConfig(silhouette=1.0))
    assert refused.k == 1
    assert refused.stop_reason.startswith("k=2: silhouette ")


def test_measurements_of_a_k_do_not_depend_on_the_other_candidates(planted: Any) -> None:
    X = tfidf(planted.texts[:200])
    alone, among = choose_k(X, [3], seed=7), choose_k(X, [2, 3], seed=7)
    assert alone.k == among.k == 3
    assert alone.records[1].term_silhouette == among.records[2].term_silhouette
    assert alone.records[1].relative_error == among.records[2].relative_error
    other = choose_k(X, [3], seed=8)
    assert other.records[1].term_silhouette != alone.records[1].term_silhouette


@pytest.mark.parametrize("seed", range(4))
def test_only_the_chosen_k_is_measured_for_stability(plant_corpus: Any, seed: int) -> None:
    result = choose_k(tfidf(plant_corpus(seed, documents=500).texts), range(2, 9), seed=seed)
    assert result.k == 6
    assert [record.k for record in result.records] == list(range(1, 8))
    assert [record.k for record in result.records if record.term_silhouette is not None] == [1, 6]
    assert [record.k for record in result.records if record.accepted] == [1, 6]


def test_consensus_rows_have_unit_length_and_progress_is_reported(planted: Any) -> None:
    calls: list[tuple[Any, ...]] = []
    result = choose_k(tfidf(planted.texts[:200]), [2, 3], progress=lambda *call: calls.append(call))
    assert_allclose(np.linalg.norm(result.term_factors, axis=1), 1, rtol=1e-5)
    assert calls[:2] == [(0, 2, "error of k=2"), (1, 2, "error of k=3")]
    assert calls[2] == (0, 2, "stability of k=3")
    assert calls[-1] == (2, 2)


@given(seed=st.integers(0, 2**16), k=st.integers(2, 6), runs=st.integers(2, 5))
def test_alignment_undoes_any_permutation(seed: int, k: int, runs: int) -> None:
    rng = np.random.default_rng(seed)
    topics = np.eye(k, 12, dtype=np.float32) + 0.05 * rng.random((runs, k, 12), np.float32)
    orders = np.stack([rng.permutation(k) for _ in range(runs)])
    shuffled = unit_rows(np.take_along_axis(topics, orders[:, :, None], axis=1))
    centroids, found = align(shuffled, 0)
    aligned = np.take_along_axis(orders, found, axis=1)
    assert_array_equal(aligned, np.broadcast_to(aligned[0], aligned.shape))
    assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_a_negative_or_infinite_entry_is_named(bad: float) -> None:
    X = csr_array(np.eye(8, dtype=np.float32))
    X.data[5] = bad
    with pytest.raises(InputError, match=rf"entry {bad} in row 5, column 5 \(1 such entries\)"):
        choose_k(X, [2])


@pytest.mark.parametrize(
    "X", [np.zeros((30, 9)), np.ones((30, 9)), np.tile(np.eye(1, 9), (30, 1))], ids=["zero", "identical", "one word"]
)
def test_matrices_without_topics_are_one_topic(X: NDArray[np.float64]) -> None:
    result = choose_k(csr_array(X.astype(np.float32)), range(2, 6), NMFkConfig(min_topic_documents=1))
    assert result.k == 1
    assert result.document_factors.shape == (30, 1)
    assert result.stop_reason


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
