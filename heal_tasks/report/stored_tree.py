"""A stored topic tree, and the table of the choice of its root's number of topics, for page and terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.topics import TopicRepository, TopicRow, TopicRun

if TYPE_CHECKING:
    from heal_tasks.topics.nmfk import KRecord

COLUMNS = (
    "k", "relative error", "drop ratio", "null ratio", "silhouette of terms", "silhouette of documents",
    "smallest topic", "result",
)  # fmt: skip


@dataclass(frozen=True)
class StoredTree:
    """A topic tree: its topic run, and all nodes in tree order, the root first."""

    run: TopicRun
    rows: list[TopicRow]

    @property
    def root(self) -> TopicRow:
        """The topic of all documents."""
        return self.rows[0]

    @cached_property
    def children(self) -> dict[int, list[TopicRow]]:
        """Children by their parent's topic id, in tree order; leaves have an empty list."""
        children: dict[int, list[TopicRow]] = {row.topic_id: [] for row in self.rows}
        for row in self.rows:
            if row.parent_id is not None:
                children[row.parent_id].append(row)
        return children

    def below(self, row: TopicRow) -> int:
        """Number of topics in the subtree of a topic, itself not counted."""
        return sum(
            other.level > row.level and row.first_leaf <= other.first_leaf <= row.last_leaf for other in self.rows
        )

    def share(self, row: TopicRow) -> float:
        """Part of the tree's documents that a topic has, in [0, 1]."""
        return row.size / max(self.root.size, 1)


def read_tree(conn: Connection, topic_run_id: int) -> StoredTree:
    """Read the rows of a tree; StoreError if there is no such topic run."""
    topics = TopicRepository(conn)
    return StoredTree(topics.get(topic_run_id), topics.topics(topic_run_id))


def read_root_records(artifacts: ArtifactStore, tree: StoredTree) -> "tuple[KRecord, ...]":
    """Read the measurements at a tree's root, by ascending k, empty without any; HealError if its files are gone."""
    # Imported here because it loads torch, which most reports do not need.
    from heal_tasks.topics.tree import TopicTree

    return TopicTree.load(artifacts.local(tree.run.uri)).selection.get(tree.root.topic_id, ())


def selection_rows(records: "Sequence[KRecord]", chosen: int, threshold: float) -> list[tuple[str, ...]]:
    """List for every k of a node the cells of ``COLUMNS``: its measurements, and why it was chosen or not.

    ``chosen`` is the number of topics that it was split into, ``threshold`` the smallest silhouette of a stable k.
    """
    rows = []
    for record in records:
        values = (record.drop_ratio, record.null_ratio, record.term_silhouette, record.document_silhouette)
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        cells.append("" if record.smallest_topic is None else str(record.smallest_topic))
        if record.k == 1:
            cells = [""] * len(cells)  # they hold by definition and would only look like measurements
        rows.append((str(record.k), f"{record.relative_error:.4f}", *cells, _result(record, chosen, threshold)))
    return rows


def _result(record: "KRecord", chosen: int, threshold: float) -> str:
    if record.k == chosen:
        return "chosen"
    if record.k == 1:
        return "no split"
    if not record.stands_out:
        return "error drop too small"
    if record.silhouette is None:
        return "not needed: a larger k passed"
    if record.accepted:
        return "passed, and so did a larger k"
    if record.silhouette < threshold:
        return f"unstable: silhouette below {threshold:.2f}"
    return "smallest topic too small"
