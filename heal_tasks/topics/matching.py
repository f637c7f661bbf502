"""Stable topic ids: match the topics of a new tree to those of the previous one.

Without this a nightly relabelling would rename every topic, and stored label paths, reports and SQL that name a topic
would silently change their meaning.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.tree import TopicNode, TopicTree, children_of

# Pairs of topics with a smaller cosine are not matched.
MIN_SIMILARITY = 0.5
SAME_LEVEL = 0.05


@dataclass(frozen=True)
class Matching:
    """Stable ids for a tree, and how much of it is new."""

    mapping: dict[int, int]  # stable id by current topic id, for every topic; ready for TopicTree.relabel
    churn: float  # share of the current tree's documents whose leaf has no counterpart in the previous tree


def match_topics(previous: TopicTree, current: TopicTree, *, next_id: int) -> Matching:
    """Match the topics of all levels by their term factors in one optimal assignment, the roots to each other.

    A pair scores its cosine similarity over the joint vocabulary, plus a small bonus on the same level. Levels may
    differ: a root that is split into 4 instead of 7 moves topics down a level without changing them.

    Args:
        previous: the tree whose ids are stable.
        current: the new tree.
        next_id: first id for topics without a counterpart; larger than any id ever used.

    Raises:
        InputError: ``next_id`` is in use in the previous tree.
    """
    if next_id <= (largest := max(node.topic_id for node in previous.nodes)):
        raise InputError(f"next_id={next_id}, but topic {largest} exists; use an id above any ever used")
    words = {term: index for index, term in enumerate(dict.fromkeys((*previous.vocabulary, *current.vocabulary)))}
    old, old_terms = _term_vectors(previous, words)
    new, new_terms = _term_vectors(current, words)
    similarity = (new_terms @ old_terms.T).toarray()
    same_level = np.equal.outer([node.level for node in new], [node.level for node in old])
    score = np.where(similarity < MIN_SIMILARITY, 0, similarity + SAME_LEVEL * same_level)
    matched = {current.nodes[0].topic_id: previous.nodes[0].topic_id}
    for row, column in zip(*linear_sum_assignment(score, maximize=True), strict=True):
        if score[row, column] > 0:
            matched[new[row].topic_id] = old[column].topic_id

    unmatched = [node.topic_id for node in current.nodes if node.topic_id not in matched]
    mapping = matched | {topic_id: next_id + offset for offset, topic_id in enumerate(unmatched)}
    leaf_is_new = np.array([node.topic_id not in matched for node in current.nodes if node.k == 1])
    churn = float(leaf_is_new[current.leaves].mean()) if current.leaves.size else 0.0
    return Matching(mapping, churn)


def _term_vectors(tree: TopicTree, words: dict[str, int]) -> tuple[list[TopicNode], csr_array]:
    """Every topic but the root, and its term factors over the joint vocabulary, rows of unit length."""
    at = np.array([words[term] for term in tree.vocabulary], np.int64)
    topics: list[TopicNode] = []
    indices: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    values: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    for parent, children in children_of(tree.nodes).items():
        for position, child in enumerate(children):
            topics.append(child)
            indices.append(at[tree.factors[parent].columns])
            values.append(tree.factors[parent].term_factors[position])
    starts = np.cumsum([len(part) for part in values])
    matrix = csr_array((np.concatenate(values), np.concatenate(indices), starts), shape=(len(topics), len(words)))
    return topics, matrix
