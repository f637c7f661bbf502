"""Nodes of a growing tree, and their topic ids and leaf numbers once it is complete."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from heal_tasks.topics.nmfk import KRecord
from heal_tasks.topics.projection import NodeFactors, TopicNode


@dataclass(eq=False)
class Node:
    """A node of a growing tree."""

    rows: NDArray[np.intp]  # intp, shape (documents of the node,)
    position: tuple[int, ...]  # child indices on the way from the root; names the node's random draws
    terms: tuple[str, ...] = ()  # strongest words by the parent's factors; for the root, by its TF-IDF
    stop_reason: str = ""  # why it has no more children
    records: tuple[KRecord, ...] = ()  # measurements of each k, where a split was looked for
    factors: NodeFactors | None = None  # of the root and of every other split node
    children: "list[Node]" = field(default_factory=list)  # the larger first


class Numbering:
    """Topic ids and leaf numbers in tree order: parents before children, larger children first.

    Args:
        root: of the grown tree.
    """

    def __init__(self, root: Node) -> None:
        self.nodes: list[TopicNode] = []
        self.factors: dict[int, NodeFactors] = {}
        self.selection: dict[int, tuple[KRecord, ...]] = {}
        self._leaves = 0
        self._add(root, -1)

    def _add(self, node: Node, parent: int) -> None:
        topic_id = len(self.nodes)
        k = max(1, len(node.children))
        chosen = next((record for record in node.records if record.k == k), None)
        self.nodes.append(
            TopicNode(
                topic_id=topic_id,
                parent=parent,
                level=len(node.position),
                first_leaf=self._leaves,
                last_leaf=self._leaves,
                terms=node.terms,
                k=k,
                silhouette=chosen.silhouette if chosen and node.children else None,
                error=chosen.relative_error if chosen else None,
                size=node.rows.size,
                stop_reason=node.stop_reason,
            )
        )
        if node.factors is not None:
            self.factors[topic_id] = node.factors
        if node.records:
            self.selection[topic_id] = node.records
        for child in node.children:
            self._add(child, topic_id)
        if not node.children:
            self._leaves += 1
        self.nodes[topic_id] = replace(self.nodes[topic_id], last_leaf=self._leaves - 1)
