"""Topic trees, and the topics of documents in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Repository, find, insert, scalar, select


@dataclass(frozen=True, slots=True)
class TopicRun:
    """One topic tree, as in ``heal.topic_run``."""

    topic_run_id: int
    fingerprint: str
    uri: str
    documents: int
    topics: int
    leaves: int
    depth: int
    churn: float | None  # share of documents whose topic has no match in the previous tree; None for the first tree
    mean_residual: float
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TopicRow:
    """One topic; its subtree is the leaves ``first_leaf`` to ``last_leaf``."""

    topic_id: int
    parent_id: int | None
    level: int
    first_leaf: int
    last_leaf: int
    terms: list[str]
    k: int
    silhouette: float | None
    size: int
    stop_reason: str = ""


@dataclass(frozen=True)
class Labels:
    """Topics of documents."""

    document_ids: NDArray[np.int64]  # (n,)
    leaves: NDArray[np.int32]  # (n,); number of the leaf, in tree order
    paths: Sequence[Sequence[int]]  # topic ids from level 1 down, one list per document
    memberships: NDArray[np.float32]  # (n,); weight of the chosen topic
    residuals: NDArray[np.float32]  # (n,); relative error of the document's fit


_ADD_LABEL = """
INSERT INTO heal.document_topic (topic_run_id, projected, document_id, leaf, path, membership, residual)
SELECT %s, %s, document_id, %s, %s::bigint[], %s, %s FROM heal.document WHERE document_id = %s AND deleted_at IS NULL
ON CONFLICT (topic_run_id, document_id) DO UPDATE SET leaf = EXCLUDED.leaf, path = EXCLUDED.path,
    membership = EXCLUDED.membership, residual = EXCLUDED.residual, projected = EXCLUDED.projected
"""


class TopicRepository(Repository):
    """Topic trees by id, and labels of documents."""

    def insert_run(
        self,
        *,
        fingerprint: str,
        uri: str,
        churn: float | None,
        mean_residual: float,
        topics: Sequence[TopicRow],
        labels: Labels,
    ) -> int:
        """Store a topic tree with the labels of its documents, in one transaction, and return its id.

        ``fingerprint`` is of the tree's inputs: if a tree with the same one is stored, nothing is stored again.
        """
        parents = {topic.parent_id for topic in topics}
        leaves = sum(topic.topic_id not in parents for topic in topics)
        depth = max((topic.level for topic in topics), default=0)
        with self._conn.transaction():
            run = scalar(
                self._conn,
                "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, churn, mean_residual) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (fingerprint) DO NOTHING RETURNING topic_run_id",
                (fingerprint, uri, len(labels.document_ids), len(topics), leaves, depth, churn, mean_residual),
            )
            if run is None:
                query = "SELECT topic_run_id FROM heal.topic_run WHERE fingerprint = %s"
                return int(scalar(self._conn, query, (fingerprint,)))
            with self._conn.cursor() as cursor:
                insert(cursor, "topic", topics, topic_run_id=run)
            self.add_labels(run, labels, projected=False)
        return int(run)

    def add_labels(self, topic_run_id: int, labels: Labels, projected: bool = True) -> int:
        """Label documents that still exist, replacing earlier labels of the same tree, and return their number."""
        paths = ([int(topic) for topic in path] for path in labels.paths)
        numbers = (labels.memberships.tolist(), labels.residuals.tolist(), labels.document_ids.tolist())
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(
                _ADD_LABEL,
                [(topic_run_id, projected, *row) for row in zip(labels.leaves.tolist(), paths, *numbers, strict=True)],
            )
            return max(cursor.rowcount, 0)

    def latest(self) -> TopicRun | None:
        """The newest tree, or None."""
        return find(self._conn, TopicRun, "FROM heal.topic_run ORDER BY topic_run_id DESC LIMIT 1")

    def get(self, topic_run_id: int) -> TopicRun:
        """One tree; StoreError if there is none with that id."""
        run = find(self._conn, TopicRun, "FROM heal.topic_run WHERE topic_run_id = %s", (topic_run_id,))
        if run is None:
            raise StoreError(f"there is no topic run {topic_run_id}; SELECT * FROM heal.topic_run lists them")
        return run

    def known_residual(self, topic_run_id: int, share: float, *, public: bool = False) -> float:
        """The residual below which this share of the documents is that were there when the tree was built.

        With ``public`` only documents count that everybody may read.
        """
        query = """
            SELECT coalesce(percentile_cont(%s) WITHIN GROUP (ORDER BY t.residual), 1)
            FROM heal.document_topic t JOIN heal.topic_run r USING (topic_run_id)
                JOIN heal.document d USING (document_id)
            WHERE t.topic_run_id = %s AND d.changed_at <= r.created_at AND (NOT %s OR d.acl IS NULL)"""
        return float(scalar(self._conn, query, (share, topic_run_id, public)))

    def topics(self, topic_run_id: int) -> list[TopicRow]:
        """All nodes of a tree, in tree order."""
        rest = "FROM heal.topic WHERE topic_run_id = %s ORDER BY first_leaf, level, topic_id"
        return select(self._conn, TopicRow, rest, (topic_run_id,))

    def max_topic_id(self) -> int:
        """The largest topic id of any tree, 0 before the first: larger ids have never been used."""
        return int(scalar(self._conn, "SELECT coalesce(max(topic_id), 0) FROM heal.topic"))
