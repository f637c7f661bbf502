"""Topic ids that stay stable from run to run."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from heal_tasks.core.errors import InputError
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import build_tree
from heal_tasks.topics.matching import match_topics
from heal_tasks.topics.tree import TopicTree

CONFIG = HNMFkConfig(max_k=3, perturbations=3)


@pytest.fixture(scope="module")
def previous(planted: Any) -> TopicTree:
    tree = build_tree(planted.texts, CONFIG)
    return tree.relabel({node.topic_id: node.topic_id * 10 for node in tree.nodes})


def topic_of(tree: TopicTree, truth: Any, level: int) -> dict[int, int]:
    """The planted label that most documents of each topic of a level carry."""
    column = tree.paths[:, level - 1]
    return {int(topic): int(np.bincount(truth[column == topic]).argmax()) for topic in np.unique(column)}


def test_a_tree_matches_itself(previous: TopicTree) -> None:
    matching = match_topics(previous, previous, next_id=1000)
    assert matching.mapping == {node.topic_id: node.topic_id for node in previous.nodes}
    assert matching.churn == 0


def test_a_copy_built_from_permuted_documents_gets_the_old_ids(previous: TopicTree, planted: Any) -> None:
    order = np.random.default_rng(0).permutation(len(planted.texts))
    current = build_tree([planted.texts[i] for i in order], HNMFkConfig(max_k=3, perturbations=3, seed=99))
    matching = match_topics(previous, current, next_id=1000)
    assert matching.churn == 0
    renamed = current.relabel(matching.mapping)
    assert {node.topic_id for node in renamed.nodes} == {node.topic_id for node in previous.nodes}
    assert np.mean(renamed.paths == previous.paths[order]) > 0.98
    for level, truth in ((1, planted.labels[:, 0]), (2, planted.fine)):
        assert topic_of(renamed, truth[order], level) == topic_of(previous, truth, level)


def test_new_topics_get_new_ids_and_count_as_churn(plant_corpus: Any, planted: Any, previous: TopicTree) -> None:
    known = planted.labels[:, 0] != 2
    strange = plant_corpus(77, documents=300)
    texts = [text for text, keep in zip(planted.texts, known, strict=True) if keep]
    texts += [text for text, label in zip(strange.texts, strange.fine, strict=True) if label == 0]
    current = build_tree(texts, CONFIG)
    matching = match_topics(previous, current, next_id=1000)
    fresh = sorted(stable for stable in matching.mapping.values() if stable >= 1000)
    assert fresh == list(range(1000, 1000 + len(fresh)))
    assert fresh
    share_of_strangers = 1 - known.sum() / len(texts)
    assert matching.churn == pytest.approx(share_of_strangers, abs=0.03)


def test_unrelated_trees_share_only_the_root_id(plant_corpus: Any, previous: TopicTree) -> None:
    current = build_tree(plant_corpus(5, documents=300).texts, CONFIG)
    matching = match_topics(previous, current, next_id=500)
    assert matching.mapping.pop(0) == 0
    assert set(matching.mapping.values()) == set(range(500, 500 + len(matching.mapping)))
    assert matching.churn == 1


def test_most_topics_that_moved_to_another_level_are_still_found(previous: TopicTree, planted: Any) -> None:
    flat = build_tree(planted.texts, HNMFkConfig(max_depth=1))
    assert flat.leaf_count == previous.leaf_count == 6
    moved = match_topics(flat, previous, next_id=1000)
    renamed = previous.relabel(moved.mapping)
    found = renamed.paths[:, 1] < 1000
    assert moved.churn == pytest.approx(1 - found.mean())
    assert moved.churn < 0.25
    assert_array_equal(renamed.paths[found, 1], flat.paths[found, 0])


@pytest.mark.parametrize("texts", [[], ["a lonely document"]])
def test_trees_of_one_node(texts: list[str], previous: TopicTree) -> None:
    single = build_tree(texts)
    assert match_topics(previous, single, next_id=1000).mapping == {0: 0}
    assert match_topics(single, single, next_id=1).churn == 0
    back = match_topics(single, previous, next_id=1000)
    assert back.churn == 1
    assert_array_equal(sorted(back.mapping.values()), [0, *range(1000, 999 + len(previous.nodes))])


def test_an_id_in_use_is_refused(previous: TopicTree) -> None:
    with pytest.raises(InputError, match="next_id=3, but topic 90 exists"):
        match_topics(previous, previous, next_id=3)
