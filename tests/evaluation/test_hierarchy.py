"""Hierarchical precision, recall and F1 against sets of ancestors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.hierarchy import hierarchical_scores


def test_known_case():
    query = np.array([[1, 11, 111]])
    retrieved = np.array([[[1, 11, 111], [1, 11, -1], [1, 12, 121], [-1, -1, -1]]])
    scores = hierarchical_scores(retrieved, query)
    assert scores["precision@level1"] == 1.0
    assert scores["recall@level1"] == 0.75
    assert scores["precision@level2"] == pytest.approx(2 / 3)
    assert scores["precision@level3"] == 0.5
    assert scores["recall@level3"] == 0.25
    assert scores["precision"] == pytest.approx(6 / 8)
    assert scores["recall"] == pytest.approx(6 / 12)
    assert scores["f1"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_equals_ancestor_sets(seed):
    rng = np.random.default_rng(seed)
    m, k, levels = 3, 4, 3
    choices = rng.integers(0, 2, size=(m, k + 1, levels))
    # Ids of a binary tree: unique in the whole tree, as topic ids are.
    paths = np.cumsum(choices * 2 ** np.arange(levels), axis=2) + 10 ** np.arange(1, levels + 1)
    depth = rng.integers(0, levels + 1, size=(m, k + 1, 1))
    paths = np.where(np.arange(levels) < depth, paths, -1)
    shared = predicted = wanted = 0
    for question in range(m):
        truth = {label for label in paths[question, k] if label >= 0}
        for place in range(k):
            labels = {label for label in paths[question, place] if label >= 0}
            shared, predicted, wanted = shared + len(labels & truth), predicted + len(labels), wanted + len(truth)
    scores = hierarchical_scores(paths[:, :k], paths[:, k])
    assert scores["precision"] == pytest.approx(shared / predicted if predicted else 0.0)
    assert scores["recall"] == pytest.approx(shared / wanted if wanted else 0.0)
    assert scores["f1"] == pytest.approx(2 * shared / (predicted + wanted) if predicted + wanted else 0.0)


def test_levels_that_no_path_reaches_are_omitted():
    scores = hierarchical_scores(np.full((1, 2, 2), [5, -1]), np.array([[5, -1]]))
    assert "f1@level1" in scores
    assert "f1@level2" not in scores


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"shape \(1, 2, 3\) do not fit question paths of shape \(1, 2\)"):
        hierarchical_scores(np.zeros((1, 2, 3), dtype=np.int64), np.zeros((1, 2), dtype=np.int64))
