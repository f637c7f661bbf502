"""Read a topic tree back: its rows from the database, the selection of its root's k from its files."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.topics import TopicRepository, TopicRow, TopicRun

if TYPE_CHECKING:
    from heal_tasks.topics.nmfk import KRecord


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
    """Read the measurements at the root of a tree, by ascending k; empty where no split was looked for.

    Raises:
        HealError: the tree's files are gone, or another version wrote them.
    """
    # Imported here because it loads torch, which most reports do not need.
    from heal_tasks.topics.tree import TopicTree

    return TopicTree.load(artifacts.local(tree.run.uri)).selection.get(tree.root.topic_id, ())
