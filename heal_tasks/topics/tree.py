"""The topic tree: documents are placed in it by projection, its topics renumbered, and its files hold no pickle.

Nodes are kept in tree order (parents before children, larger children first), and leaves are numbered in that order, so
the subtree of a topic is the interval ``first_leaf .. last_leaf``. A split node keeps its own words, IDF and term
factors; row j of the factors belongs to its j-th child.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.core.files import DAMAGED
from heal_tasks.topics.nmf import project, residuals
from heal_tasks.topics.nmfk import KRecord
from heal_tasks.topics.operand import Floats, one_thread
from heal_tasks.topics.tfidf import count_known_terms, weigh

FORMAT = 1
_DOCUMENT_ARRAYS = ("paths", "leaves", "membership", "residual")
_FACTOR_ARRAYS = ("columns", "idf", "term_factors")


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

    columns: NDArray[np.int32]  # (v,): its words as indices into the tree's vocabulary, ascending
    idf: Floats  # (v,)
    term_factors: Floats  # (k, v), rows of unit Euclidean length, one per child in tree order

    def assign(self, counts: csr_array) -> tuple[NDArray[np.intp], Floats, Floats]:
        """Assign each document to a child.

        Args:
            counts: float32 csr, shape (n, size of the tree's vocabulary).

        Returns:
            Child index, shape (n,); every child's share of the document's weights, shape (n, k), rows summing to 1; and
            the relative residual, shape (n,). A document without any of the words goes to the first (largest) child
            with shares 0 and residual 1.
        """
        X = weigh(csr_array(counts[:, self.columns]), self.idf)
        W = project(X, self.term_factors)
        total = W.sum(axis=1, keepdims=True)
        shares = np.divide(W, total, out=np.zeros_like(W), where=total > 0)
        return W.argmax(axis=1), shares, residuals(X, W, self.term_factors)


@dataclass(frozen=True, eq=False)
class Projection:
    """The places of documents in a tree.

    ``shares`` holds, by topic id of every split node, how much of each of its documents, in the order of the input, its
    children explain: shape (documents in the node, k), rows summing to 1. ``membership`` is the product over the levels
    of the chosen child's share. Both are 0 for a document that holds none of a node's words and was placed by default.
    """

    paths: NDArray[np.int64]  # (n, depth): topic ids from level 1 down, -1 where a path has ended
    leaves: NDArray[np.int32]  # (n,): leaf numbers
    membership: Floats  # (n,), in [0, 1]
    residual: Floats  # (n,): ||x - wH|| / ||x|| at the deepest split node of the path
    shares: Mapping[int, Floats]

    def path_lists(self) -> list[list[int]]:
        """The topic ids of each document's path, without the -1 after its end."""
        return [[topic for topic in path if topic >= 0] for path in self.paths.tolist()]


@dataclass(frozen=True, eq=False)
class TopicTree(Projection):
    """A topic hierarchy, with the places of the documents it was built from."""

    nodes: tuple[TopicNode, ...]  # in tree order, the root first
    vocabulary: tuple[str, ...]  # the words that the nodes' columns index
    factors: Mapping[int, NodeFactors]  # by topic id, of the root (unless without words) and every other split node
    selection: Mapping[int, tuple[KRecord, ...]]  # by topic id: each k where a split was looked for

    @property
    def depth(self) -> int:
        """Level of the deepest topic; 0 where nothing was split."""
        return max(node.level for node in self.nodes)

    @property
    def leaf_count(self) -> int:
        """Number of leaves."""
        return self.nodes[0].last_leaf + 1

    def project(self, texts: Sequence[str]) -> Projection:
        """Place new documents in the tree."""
        with one_thread():
            return descend(count_known_terms(texts, self.vocabulary), self.nodes, self.factors)

    def relabel(self, mapping: Mapping[int, int]) -> "TopicTree":
        """Replace the topic ids in a copy, which shares its factors with this tree.

        Args:
            mapping: new id by current id, for every topic.

        Raises:
            InputError: a topic has no new id, or two would share one, or a new id is negative.
        """
        ids = [node.topic_id for node in self.nodes]
        if missing := [topic_id for topic_id in ids if topic_id not in mapping]:
            raise InputError(f"no new id for topics {missing[:5]}; map every topic of the tree")
        fresh = [mapping[topic_id] for topic_id in ids]
        if len(set(fresh)) < len(fresh) or min(fresh) < 0:
            raise InputError(f"new topic ids {sorted(fresh)[:5]} repeat or are negative; use each id once, from 0 up")
        new = {-1: -1, **mapping}
        paths = [new[topic_id] for topic_id in self.paths.ravel().tolist()]
        return replace(
            self,
            nodes=tuple(replace(node, topic_id=new[node.topic_id], parent=new[node.parent]) for node in self.nodes),
            paths=np.array(paths, np.int64).reshape(self.paths.shape),
            shares={new[topic_id]: shares for topic_id, shares in self.shares.items()},
            factors={new[topic_id]: factors for topic_id, factors in self.factors.items()},
            selection={new[topic_id]: records for topic_id, records in self.selection.items()},
        )

    def save(self, folder: Path) -> None:
        """Write the tree as ``tree.json`` and ``arrays.npz``; the folder is made if it does not exist."""
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
        """Read a tree that ``save`` wrote, its arrays equal bit for bit.

        Raises:
            InputError: there is no tree there, it is damaged, or it has another format.
        """
        try:
            return cls._read(folder)
        except FileNotFoundError as error:
            raise InputError(f"no topic tree: {error.filename} is missing; build the topics again") from None
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(
                f"topic tree in {folder} is damaged ({type(error).__name__}: {error}); delete that folder: the next "
                "realignment builds the topics anew, and HEAL_FORCE_ROUTE=realign makes the next run one"
            ) from error

    @classmethod
    def _read(cls, folder: Path) -> "TopicTree":
        content = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise InputError(
                f"topic tree in {folder} has format {content.get('format')}, this version reads {FORMAT}; "
                "build the topics again"
            )
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            arrays = dict(stored)
        return cls(
            **{name: arrays[name] for name in _DOCUMENT_ARRAYS},
            shares={int(name[7:]): array for name, array in arrays.items() if name.startswith("shares_")},
            nodes=tuple(TopicNode(**{**node, "terms": tuple(node["terms"])}) for node in content["nodes"]),
            vocabulary=tuple(content["vocabulary"]),
            factors={
                topic_id: NodeFactors(*(arrays[f"{name}_{topic_id}"] for name in _FACTOR_ARRAYS))
                for topic_id in content["factors"]
            },
            selection={
                int(topic_id): tuple(KRecord(**record) for record in records)
                for topic_id, records in content["selection"].items()
            },
        )


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
