"""Nodes of a topic tree, and the placement of documents: at every split to the child that explains most of them.

Nodes are kept in tree order (parents before children, larger children first), and leaves are numbered in that order, so
the subtree of a topic is the interval ``first_leaf .. last_leaf``. A split node keeps its own words, IDF and term
factors; row j of the factors belongs to its j-th child.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.topics.nmf import project, residuals
from heal_tasks.topics.operand import Floats
from heal_tasks.topics.tfidf import weigh


@dataclass(frozen=True)
class TopicNode:
    """One topic."""

    topic_id: int  # unique in the tree; the root has 0
    parent: int  # topic id of the parent; -1 for the root
    level: int  # 0 for the root
    first_leaf: int  # number of the first leaf of its subtree
    last_leaf: int  # number of the last leaf of its subtree, inclusive
    terms: tuple[str, ...]  # its strongest words, strongest first
    k: int  # number of children, or 1 for a leaf
    silhouette: float | None  # smallest silhouette of the split; None for a leaf
    error: float | None  # relative error of the factorisation; None where none was made
    size: int  # documents it was built from
    stop_reason: str  # why it has no more children


@dataclass(frozen=True, eq=False)
class NodeFactors:
    """The vocabulary and the term factors by which a split node assigns documents to its children."""

    columns: NDArray[np.int32]  # int32, shape (v,), its words as indices into the tree's vocabulary, ascending
    idf: Floats  # float32, shape (v,)
    term_factors: Floats  # float32, shape (k, v), rows of unit Euclidean length, one per child in tree order

    def assign(self, counts: csr_array) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Assign each document to a child.

        Args:
            counts: float32 csr, shape (n, size of the tree's vocabulary).

        Returns:
            Child index, shape (n,); every child's share of the document's weights, float32, shape (n, k), rows
            summing to 1; and the relative residual, float32, shape (n,). A document without any of the words
            goes to the first (largest) child with shares 0 and residual 1.
        """
        X = weigh(csr_array(counts[:, self.columns]), self.idf)
        W = project(X, self.term_factors)
        total = W.sum(axis=1, keepdims=True)
        shares = np.divide(W, total, out=np.zeros_like(W), where=total > 0)
        return W.argmax(axis=1), shares, residuals(X, W, self.term_factors)


@dataclass(frozen=True, eq=False)
class Projection:
    """The places of documents in a tree.

    Args:
        paths: int64, shape (n, depth), topic ids from level 1 down, -1 where a path has ended.
        leaves: int32, shape (n,), leaf numbers.
        membership: float32, shape (n,), product over the levels of the chosen child's share, in [0, 1]; 0 for
            a document that holds none of a node's words and was placed by default.
        residual: float32, shape (n,), ||x - wH|| / ||x|| at the deepest split node of the path.
        shares: soft memberships by topic id of every split node, float32, shape (documents in the node, k): how much
            of each of its documents, in the order of the input, its children explain; rows sum to 1, or to 0 for a
            document that holds none of the node's words.
    """

    paths: NDArray[np.int64]
    leaves: NDArray[np.int32]
    membership: Floats
    residual: Floats
    shares: Mapping[int, Floats]

    def path_lists(self) -> list[list[int]]:
        """The topic ids of each document's path, without the -1 after its end."""
        return [[topic for topic in path if topic >= 0] for path in self.paths.tolist()]


def children_of(nodes: Sequence[TopicNode]) -> dict[int, list[TopicNode]]:
    """Children by parent's topic id, in tree order."""
    children: dict[int, list[TopicNode]] = {node.topic_id: [] for node in nodes}
    for node in nodes[1:]:
        children[node.parent].append(node)
    return children


def descend(counts: csr_array, nodes: Sequence[TopicNode], factors: Mapping[int, NodeFactors]) -> Projection:
    """Send documents down the tree, at every split to the child that explains most of them.

    Args:
        counts: float32 csr, shape (n, size of the tree's vocabulary).
        nodes: in tree order, the root first.
        factors: by topic id.

    Returns:
        The place of each document.
    """
    n, depth, children = counts.shape[0], max(node.level for node in nodes), children_of(nodes)
    paths = np.full((n, max(1, depth)), -1, np.int64)
    leaves = np.zeros(n, np.int32)
    membership = np.full(n, float(nodes[0].topic_id in factors), np.float32)
    residual = np.ones(n, np.float32)
    shares: dict[int, Floats] = {}
    waiting = [(nodes[0], np.arange(n))]
    while waiting:
        node, rows = waiting.pop()
        if node.level:
            paths[rows, node.level - 1] = node.topic_id
        leaves[rows] = node.first_leaf
        if node.topic_id in factors and rows.size:
            chosen, by_child, misfit = factors[node.topic_id].assign(csr_array(counts[rows]))
            if children[node.topic_id]:
                shares[node.topic_id] = by_child
            membership[rows] *= by_child.max(axis=1)
            residual[rows] = misfit
            waiting += [(child, rows[chosen == place]) for place, child in enumerate(children[node.topic_id])]
    return Projection(paths, leaves, membership, residual, shares)
