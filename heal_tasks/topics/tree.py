"""The topic tree: what HNMFk found, kept on disk without pickle, and new documents projected onto it.

Nodes stand in tree order (parents before children, larger children first), and leaves are numbered in
that order, so the subtree of a topic is the interval ``first_leaf .. last_leaf``. A split node keeps
its own words, IDF and term factors; row j of the factors belongs to its j-th child.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmf import project, residuals
from heal_tasks.topics.nmfk import KRecord
from heal_tasks.topics.operand import one_thread
from heal_tasks.topics.tfidf import count_known_terms, weigh

Floats = NDArray[np.float32]

FORMAT = 1
ROOT = 0


@dataclass(frozen=True)
class TopicNode:
    """One topic.

    Args:
        topic_id: unique in the tree; the root has 0.
        parent: topic id of the parent; -1 for the root.
        level: 0 for the root.
        first_leaf: number of the first leaf below, or its own number.
        last_leaf: number of the last leaf below, inclusive.
        terms: its strongest words, strongest first.
        k: number of children, or 1 for a leaf.
        silhouette: smallest silhouette of the split; None for a leaf.
        error: relative error of the factorisation; None where none was made.
        size: documents it was built from.
        stop_reason: why it has no more children than it has.
    """

    topic_id: int
    parent: int
    level: int
    first_leaf: int
    last_leaf: int
    terms: tuple[str, ...]
    k: int
    silhouette: float | None
    error: float | None
    size: int
    stop_reason: str


@dataclass(frozen=True, eq=False)
class NodeFactors:
    """How a split node tells its children apart.

    Args:
        columns: int32, shape (v,), its words as indices into the tree's vocabulary, ascending.
        idf: float32, shape (v,).
        term_factors: float32, shape (k, v), rows of unit Euclidean length, one per child in tree order.
    """

    columns: NDArray[np.int32]
    idf: Floats
    term_factors: Floats

    def assign(self, counts: csr_array) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Tell which child each document belongs to.

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
    """Where documents stand in a tree.

    Args:
        paths: int64, shape (n, depth), topic ids from level 1 down, -1 where a path has ended.
        leaves: int32, shape (n,), leaf numbers.
        membership: float32, shape (n,), product over the levels of the chosen child's share, in [0, 1]; 0 for
            a document that was placed by default because it holds none of a node's words.
        residual: float32, shape (n,), ||x - wH|| / ||x|| at the deepest split node of the path.
        shares: the soft memberships. By topic id of every split node, float32, shape (documents in the node, k):
            how much of each of its documents, in the order of the input, its children explain; rows sum to 1, or to 0
            for a document that holds none of the node's words.
    """

    paths: NDArray[np.int64]
    leaves: NDArray[np.int32]
    membership: Floats
    residual: Floats
    shares: Mapping[int, Floats]


@dataclass(frozen=True, eq=False)
class TopicTree:
    """A topic hierarchy and where the documents it was built from stand in it.

    Args:
        nodes: in tree order, the root first.
        paths: int64, shape (n, depth), as in ``Projection``.
        leaves: int32, shape (n,).
        membership: float32, shape (n,).
        residual: float32, shape (n,).
        shares: as in ``Projection``.
        vocabulary: the words that the nodes' columns index.
        factors: by topic id, of the root (unless there were no words) and of every other split node.
        selection: by topic id, what was measured for each k where a split was looked for.
    """

    nodes: tuple[TopicNode, ...]
    paths: NDArray[np.int64]
    leaves: NDArray[np.int32]
    membership: Floats
    residual: Floats
    shares: Mapping[int, Floats]
    vocabulary: tuple[str, ...]
    factors: Mapping[int, NodeFactors]
    selection: Mapping[int, tuple[KRecord, ...]]

    @property
    def depth(self) -> int:
        """Level of the deepest topic; 0 where nothing was split."""
        return max(node.level for node in self.nodes)

    @property
    def leaf_count(self) -> int:
        """Number of leaves."""
        return self.nodes[0].last_leaf + 1

    def project(self, texts: Sequence[str]) -> Projection:
        """Place new documents in the tree.

        Args:
            texts: the documents.

        Returns:
            Their paths, leaves, memberships and residuals.
        """
        with one_thread():
            return descend(count_known_terms(texts, self.vocabulary), self.nodes, self.factors)

    def relabel(self, mapping: Mapping[int, int]) -> "TopicTree":
        """The same tree with other topic ids.

        Args:
            mapping: new id by current id, for every topic.

        Returns:
            A new tree; factors are shared with this one.

        Raises:
            InputError: a topic has no new id, or two would share one, or a new id is negative.
        """
        ids = [node.topic_id for node in self.nodes]
        if missing := [topic_id for topic_id in ids if topic_id not in mapping]:
            raise InputError(f"no new id for topics {missing[:5]}; map every topic of the tree")
        fresh = [mapping[topic_id] for topic_id in ids]
        if len(set(fresh)) < len(fresh) or min(fresh) < 0:
            raise InputError(f"new topic ids {sorted(fresh)[:5]} repeat or are negative; use each id once, from 0 up")
        lookup = {-1: -1, **mapping}
        return replace(
            self,
            nodes=tuple(
                replace(node, topic_id=lookup[node.topic_id], parent=lookup[node.parent]) for node in self.nodes
            ),
            paths=np.array([lookup[topic_id] for topic_id in self.paths.ravel().tolist()], np.int64).reshape(
                self.paths.shape
            ),
            shares={lookup[topic_id]: shares for topic_id, shares in self.shares.items()},
            factors={lookup[topic_id]: factors for topic_id, factors in self.factors.items()},
            selection={lookup[topic_id]: records for topic_id, records in self.selection.items()},
        )

    def save(self, folder: Path) -> None:
        """Write the tree as ``tree.json`` and ``arrays.npz``.

        Args:
            folder: made if it does not exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name) for name in _DOCUMENT_ARRAYS}
        for topic_id, factors in self.factors.items():
            arrays |= {f"{name}_{topic_id}": getattr(factors, name) for name in _FACTOR_ARRAYS}
        arrays |= {f"shares_{topic_id}": shares for topic_id, shares in self.shares.items()}
        np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
        content = {
            "format": FORMAT,
            "nodes": [asdict(node) for node in self.nodes],
            "factors": list(self.factors),
            "selection": {
                topic_id: [asdict(record) for record in records] for topic_id, records in self.selection.items()
            },
            "vocabulary": self.vocabulary,
        }
        (folder / "tree.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TopicTree":
        """Read a tree that ``save`` wrote.

        Args:
            folder: where it was saved.

        Returns:
            The tree, its arrays equal bit for bit.

        Raises:
            InputError: there is no tree there, or it has another format.
        """
        try:
            content = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
            with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
                arrays = dict(stored)
        except FileNotFoundError as error:
            raise InputError(f"no topic tree: {error.filename} is missing; build the topics again") from None
        if content.get("format") != FORMAT:
            raise InputError(
                f"topic tree in {folder} has format {content.get('format')}, this version reads {FORMAT}; "
                "build the topics again"
            )
        return cls(
            nodes=tuple(TopicNode(**{**node, "terms": tuple(node["terms"])}) for node in content["nodes"]),
            **{name: arrays[name] for name in _DOCUMENT_ARRAYS},
            vocabulary=tuple(content["vocabulary"]),
            factors={
                topic_id: NodeFactors(*(arrays[f"{name}_{topic_id}"] for name in _FACTOR_ARRAYS))
                for topic_id in content["factors"]
            },
            shares={int(name[7:]): array for name, array in arrays.items() if name.startswith("shares_")},
            selection={
                int(topic_id): tuple(KRecord(**record) for record in records)
                for topic_id, records in content.get("selection", {}).items()
            },
        )


_DOCUMENT_ARRAYS = ("paths", "leaves", "membership", "residual")
_FACTOR_ARRAYS = ("columns", "idf", "term_factors")


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
        Where each document ends.
    """
    n, depth, children = counts.shape[0], max(node.level for node in nodes), children_of(nodes)
    paths = np.full((n, max(1, depth)), -1, np.int64)
    leaves = np.zeros(n, np.int32)
    membership = np.full(n, float(nodes[0].topic_id in factors), np.float32)
    residual = np.ones(n, np.float32)
    shares: dict[int, Floats] = {}

    def visit(node: TopicNode, rows: NDArray[np.intp]) -> Iterator[tuple[TopicNode, NDArray[np.intp]]]:
        if node.level:
            paths[rows, node.level - 1] = node.topic_id
        leaves[rows] = node.first_leaf
        if node.topic_id in factors and rows.size:
            chosen, by_child, misfit = factors[node.topic_id].assign(csr_array(counts[rows]))
            if children[node.topic_id]:
                shares[node.topic_id] = by_child
            membership[rows] *= by_child.max(axis=1)
            residual[rows] = misfit
            for position, child in enumerate(children[node.topic_id]):
                yield child, rows[chosen == position]

    waiting = [(nodes[0], np.arange(n))]
    while waiting:
        waiting.extend(visit(*waiting.pop()))
    return Projection(paths, leaves, membership, residual, shares)
