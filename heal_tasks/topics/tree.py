"""The topic tree: what HNMFk found, kept on disk without pickle, and new documents projected onto it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmfk import KRecord
from heal_tasks.topics.operand import Floats, one_thread
from heal_tasks.topics.projection import NodeFactors, Projection, TopicNode, descend
from heal_tasks.topics.tfidf import count_known_terms

FORMAT = 1


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
