"""The tree on disk, new ids, and new documents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from heal_tasks.core.errors import InputError
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import build_tree
from heal_tasks.topics.tree import TopicTree


@pytest.fixture(scope="module")
def tree(planted: Any) -> TopicTree:
    return build_tree(planted.texts[:360], HNMFkConfig(max_k=3, perturbations=3))


def test_saved_and_loaded_bit_for_bit(tree: TopicTree, planted: Any, tmp_path: Path) -> None:
    tree.save(tmp_path / "tree")
    loaded = TopicTree.load(tmp_path / "tree")
    assert loaded.nodes == tree.nodes
    assert loaded.vocabulary == tree.vocabulary
    for name in ("paths", "leaves", "membership", "residual"):
        ours, theirs = getattr(tree, name), getattr(loaded, name)
        assert ours.dtype == theirs.dtype
        assert_array_equal(ours, theirs)
    assert list(loaded.factors) == list(tree.factors)
    for topic_id, factors in tree.factors.items():
        for name in ("columns", "idf", "term_factors"):
            ours, theirs = getattr(factors, name), getattr(loaded.factors[topic_id], name)
            assert ours.dtype == theirs.dtype
            assert_array_equal(ours, theirs)
    texts = planted.texts[360:]
    assert_array_equal(loaded.project(texts).membership, tree.project(texts).membership)


def test_two_saves_of_one_tree_are_the_same_bytes(tree: TopicTree, tmp_path: Path) -> None:
    tree.save(tmp_path / "a")
    tree.save(tmp_path / "b")
    for name in ("tree.json", "arrays.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_there_or_another_format(tree: TopicTree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tree\.json is missing; build the topics again"):
        TopicTree.load(tmp_path)
    tree.save(tmp_path)
    content = json.loads((tmp_path / "tree.json").read_text())
    (tmp_path / "tree.json").write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(InputError, match="has format 99, this version reads 1"):
        TopicTree.load(tmp_path)


def test_an_array_file_with_pickled_objects_is_refused(tree: TopicTree, tmp_path: Path) -> None:
    tree.save(tmp_path)
    np.savez(tmp_path / "arrays.npz", paths=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        TopicTree.load(tmp_path)


def test_training_documents_project_to_their_own_labels(tree: TopicTree, planted: Any) -> None:
    projection = tree.project(planted.texts[:360])
    assert np.mean(projection.leaves == tree.leaves) >= 0.95
    assert_array_equal(projection.paths[:, -1] == -1, tree.paths[:, -1] == -1)


def test_unseen_documents_join_their_planted_topic(tree: TopicTree, planted: Any) -> None:
    topic_of_leaf = [np.bincount(planted.fine[:360][tree.leaves == leaf]).argmax() for leaf in range(tree.leaf_count)]
    projection = tree.project(planted.texts[360:])
    assert np.mean(np.array(topic_of_leaf)[projection.leaves] == planted.fine[360:]) >= 0.95
    assert ((projection.membership > 0) & (projection.membership <= 1)).all()


def test_a_document_has_the_same_place_alone_and_among_others(tree: TopicTree, planted: Any) -> None:
    together = tree.project(planted.texts[360:390])
    for index in range(0, 30, 7):
        alone = tree.project([planted.texts[360 + index]])
        assert alone.leaves[0] == together.leaves[index]
        assert alone.membership[0] == pytest.approx(together.membership[index], abs=1e-3)


def test_random_texts_have_a_larger_residual(tree: TopicTree, planted: Any) -> None:
    rng = np.random.default_rng(0)
    noise = [" ".join(rng.choice(tree.vocabulary, 100)) for _ in range(20)]
    assert tree.project(noise).residual.mean() > tree.project(planted.texts[360:]).residual.mean() + 0.05


def test_no_new_documents(tree: TopicTree) -> None:
    projection = tree.project([])
    assert projection.paths.shape == (0, tree.depth)
    assert projection.leaves.shape == (0,)


def test_relabelled_tree_projects_to_the_new_ids(tree: TopicTree, planted: Any) -> None:
    mapping = {node.topic_id: 0 if node.topic_id == 0 else 1000 - node.topic_id for node in tree.nodes}
    renamed = tree.relabel(mapping)
    expected = np.where(tree.paths == -1, -1, 1000 - tree.paths)
    assert_array_equal(renamed.paths, expected)
    assert [node.parent for node in renamed.nodes] == [mapping.get(node.parent, -1) for node in tree.nodes]
    assert_array_equal(renamed.project(planted.texts[:100]).paths, tree.relabel(mapping).paths[:100])
    assert_array_equal(renamed.leaves, tree.leaves)


def test_incomplete_or_repeated_ids_are_refused(tree: TopicTree) -> None:
    with pytest.raises(InputError, match=r"no new id for topics \[1, 2"):
        tree.relabel({0: 0})
    with pytest.raises(InputError, match="repeat or are negative"):
        tree.relabel({node.topic_id: 5 for node in tree.nodes})
