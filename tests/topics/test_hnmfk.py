"""The hierarchy: planted topics, tiny and empty inputs, the same tree twice."""

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from heal_tasks.core.errors import InputError
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import THREADS_FROM, build_tree, grow_tree
from heal_tasks.topics.tfidf import count_corpus
from heal_tasks.topics.tree import TopicTree

QUICK = HNMFkConfig(max_k=3, perturbations=3)


def digest(tree: TopicTree) -> str:
    parts = [repr(tree.nodes), *(array.tobytes().hex() for array in (tree.paths, tree.membership, tree.residual))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def check_structure(tree: TopicTree) -> None:
    ids = [node.topic_id for node in tree.nodes]
    assert len(set(ids)) == len(ids)
    by_id = dict(zip(ids, tree.nodes, strict=True))
    for node in tree.nodes:
        children = [child for child in tree.nodes if child.parent == node.topic_id]
        assert node.size == np.isin(tree.leaves, range(node.first_leaf, node.last_leaf + 1)).sum()
        if node.level:
            assert node.level == by_id[node.parent].level + 1
            assert_array_equal(
                tree.paths[:, node.level - 1] == node.topic_id,
                np.isin(tree.leaves, range(node.first_leaf, node.last_leaf + 1)),
            )
        if children:
            assert len(children) == node.k
            assert sum(child.size for child in children) == node.size
            edges = [(child.first_leaf, child.last_leaf) for child in children]
            assert (edges[0][0], edges[-1][1]) == (node.first_leaf, node.last_leaf)
            assert all(left[1] + 1 == right[0] for left, right in itertools.pairwise(edges))
        else:
            assert node.first_leaf == node.last_leaf
            assert node.k == 1
            assert node.silhouette is None
            assert node.stop_reason


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_topics_are_found_and_stay_leaves(plant_corpus: Any, seed: int) -> None:
    corpus = plant_corpus(seed)
    tree = build_tree(corpus.texts, HNMFkConfig(perturbations=6 if seed == 0 else 3))
    assert tree.nodes[0].k == 6
    assert tree.leaf_count == 6
    assert tree.depth == 1
    assert normalized_mutual_info_score(corpus.fine, tree.leaves) >= 0.95
    check_structure(tree)


def test_super_topics_come_first_when_a_node_may_only_split_in_three(planted: Any) -> None:
    tree = build_tree(planted.texts, QUICK)
    check_structure(tree)
    assert [node.k for node in tree.nodes] == [3, 2, 1, 1, 2, 1, 1, 2, 1, 1]
    assert normalized_mutual_info_score(planted.labels[:, 0], tree.paths[:, 0]) >= 0.95
    assert normalized_mutual_info_score(planted.fine, tree.leaves) >= 0.95
    assert all(node.silhouette is None or node.silhouette >= 0.8 for node in tree.nodes)


def test_top_words_are_the_planted_words(planted: Any) -> None:
    tree = build_tree(planted.texts, replace(QUICK, max_depth=1))
    for leaf, node in enumerate(tree.nodes[1:]):
        inside = [text.split() for text, where in zip(planted.texts, tree.leaves, strict=True) if where == leaf]
        outside = [text.split() for text, where in zip(planted.texts, tree.leaves, strict=True) if where != leaf]
        assert len(node.terms) == 10
        for term in node.terms[:5]:
            assert np.mean([term in words for words in inside]) > 2 * np.mean([term in words for words in outside])
        assert node.stop_reason == "depth limit"


def test_same_seed_same_tree_whatever_the_blas_threads(planted: Any) -> None:
    texts = planted.texts[:120]
    with threadpool_limits(limits=2):
        first = digest(build_tree(texts, QUICK))
    assert first == digest(build_tree(texts, QUICK))
    assert first != digest(build_tree(texts, replace(QUICK, seed=14)))


def test_threads_give_the_same_tree(plant_corpus: Any) -> None:
    config = replace(QUICK, max_depth=2)
    counts, vocabulary = count_corpus(plant_corpus(1, documents=2_100).texts, config)
    assert counts.nnz >= THREADS_FROM
    alone, threaded = (grow_tree(counts, vocabulary, config, workers=workers) for workers in (1, 3))
    assert digest(threaded) == digest(alone)
    assert threaded.selection == alone.selection


@pytest.mark.parametrize(
    "texts", [[], ["one document about nothing else"], ["", "", ""], ["apples pears plums"] * 5, ["the"] * 60]
)
def test_tiny_inputs_are_one_leaf(texts: list[str]) -> None:
    tree = build_tree(texts)
    check_structure(tree)
    assert len(tree.nodes) == 1
    assert tree.depth == 0
    assert_array_equal(tree.paths, np.full((len(texts), 1), -1))
    assert_array_equal(tree.leaves, np.zeros(len(texts)))
    assert len(tree.project(["apples", ""]).leaves) == 2


def test_a_tree_of_one_leaf_still_measures_residuals(planted: Any) -> None:
    texts = [text for text, fine in zip(planted.texts, planted.fine, strict=True) if fine == 0]
    tree = build_tree(texts)
    assert len(tree.nodes) == 1
    assert len(tree.nodes[0].terms) == 10
    projection = tree.project([texts[0], "", "unheard of words"])
    assert_array_equal(projection.membership, [1, 0, 0])
    assert projection.residual[0] < 1
    assert_array_equal(projection.residual[1:], [1, 1])


def test_documents_without_words_go_to_the_largest_child(planted: Any) -> None:
    tree = build_tree(["", *planted.texts, "1 2 3"], replace(QUICK, max_depth=1))
    check_structure(tree)
    assert_array_equal(tree.leaves[[0, -1]], [0, 0])
    assert_array_equal(tree.membership[[0, -1]], [0, 0])
    assert_array_equal(tree.residual[[0, -1]], [1, 1])
    assert (tree.membership[1:-1] > 0).all()
    sizes = [node.size for node in tree.nodes[1:]]
    assert sizes[0] == max(sizes)


def test_small_nodes_stay_leaves_and_progress_ends_complete(planted: Any) -> None:
    calls: list[tuple[int, int]] = []
    config = HNMFkConfig(min_documents=481)
    tree = build_tree(planted.texts, config, lambda done, total, message="": calls.append((done, total)))
    assert tree.nodes[0].stop_reason == "fewer than 481 documents"
    assert calls == [(0, 480), (480, 480)]


def test_a_node_of_many_documents_and_two_words_has_too_few_words() -> None:
    tree = build_tree(["alpha"] * 25 + ["beta"] * 25)
    assert tree.nodes[0].stop_reason == "fewer than 3 words"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_depth": 0}, "max_depth=0, max_k=8, min_documents=40, min_topic_documents=8: use at least 1, 2, 2 and 1"),
        ({"min_df": 0}, "term limits min_df=0, max_df=0.5, max_terms=20000 are out of range; use min_df >= 1"),
        ({"max_df": 0.0}, "max_df=0.0, max_terms=20000 are out of range"),
        ({"max_df": 1.5}, "max_df=1.5, max_terms=20000 are out of range"),
        ({"max_terms": 0}, "max_terms=0 are out of range"),
        ({"perturbations": 1}, "perturbations=1: stability needs at least 2"),
        ({"noise": 1.0}, "noise=1.0: use a noise between 0 and 1"),
    ],
)
def test_a_configuration_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HNMFkConfig(**wrong)
