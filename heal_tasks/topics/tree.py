"""The topic tree: stored on disk without pickle, renumbered, and extended to new documents by projection."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmfk import KRecord
from heal_tasks.topics.operand import one_thread
from heal_tasks.topics.projection import NodeFactors, Projection, TopicNode, descend
from heal_tasks.topics.tfidf import count_known_terms

FORMAT = 1
_DOCUMENT_ARRAYS = ("paths", "leaves", "membership", "residual")
_FACTOR_ARRAYS = ("columns", "idf", "term_factors")


@dataclass(frozen=True, eq=False)
class TopicTree(Projection):
    """A topic hierarchy, with the places of the documents it was built from.

    Args:
        nodes: in tree order, the root first.
        vocabulary: the words that the nodes' columns index.
        factors: by topic id, of the root (unless there were no words) and of every other split node.
        selection: by topic id, the measurements of each k where a split was looked for.
    """

    nodes: tuple[TopicNode, ...]
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
        """Place new documents in the tree."""
        with one_thread():
            return descend(count_known_terms(texts, self.vocabulary), self.nodes, self.factors)

    def relabel(self, mapping: Mapping[int, int]) -> "TopicTree":
        """Replace the topic ids.

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
