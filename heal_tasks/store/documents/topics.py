"""Topic trees, and the topics of documents in them."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection
from heal_tasks.store.rows import find, scalar, select
from heal_tasks.store.spaces.copying import copy_rows


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
    churn: float | None
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
    """Topics of documents.

    Args:
        document_ids: int64, shape (n,).
        leaves: int32, shape (n,); number of the leaf, in tree order.
        paths: topic ids from level 1 down, one list per document.
        memberships: float32, shape (n,); weight of the chosen topic.
        residuals: float32, shape (n,); relative error of the document's fit.
    """

    document_ids: NDArray[np.int64]
    leaves: NDArray[np.int32]
    paths: Sequence[Sequence[int]]
    memberships: NDArray[np.float32]
    residuals: NDArray[np.float32]


_TOPIC_TYPES = ["int8", "int8", "int8", "int4", "int4", "int4", "text[]", "int4", "float8", "int4", "text"]
_TOPIC_COLUMNS = list(zip(["topic_run_id", *(item.name for item in fields(TopicRow))], _TOPIC_TYPES, strict=True))
_LABEL_TYPES = {"document_id": "int8", "leaf": "int4", "path": "int8[]", "membership": "float4", "residual": "float4"}


class TopicRepository:
    """Topic runs, over an autocommit connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

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

        Args:
            fingerprint: of the tree's inputs; if a tree with the same one is stored, nothing is stored again.
            uri: location of the factors.
            churn: share of documents whose topic has no match in the previous run; None for the first.
            mean_residual: mean relative error of the factorised documents.
            topics: all nodes.
            labels: of the factorised documents.
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
            rows = ((run, *astuple(topic)) for topic in topics)
            copy_rows(self._conn, sql.Identifier("heal", "topic"), _TOPIC_COLUMNS, rows)
            self.add_labels(run, labels, projected=False)
        return int(run)

    def add_labels(self, topic_run_id: int, labels: Labels, projected: bool = True) -> int:
        """Label documents, replacing earlier labels of the same tree, and return their number.

        Args:
            topic_run_id: the tree.
            labels: documents deleted meanwhile are skipped.
            projected: True if the documents were projected on the tree, False if they were factorised.
        """
        paths = ([int(topic) for topic in path] for path in labels.paths)
        rows = zip(
            labels.document_ids.tolist(), labels.leaves.tolist(), paths, labels.memberships.tolist(),
            labels.residuals.tolist(), strict=True,
        )  # fmt: skip
        with self._conn.transaction():
            self._conn.execute(
                "CREATE TEMP TABLE label_staging (document_id bigint, leaf int, path bigint[], membership real, "
                "residual real) ON COMMIT DROP"
            )
            copy_rows(self._conn, sql.Identifier("pg_temp", "label_staging"), [*_LABEL_TYPES.items()], rows)
            count = self._conn.execute(
                "INSERT INTO heal.document_topic "
                "(topic_run_id, document_id, leaf, path, membership, residual, projected) "
                "SELECT %s, s.*, %s FROM label_staging s JOIN heal.document d USING (document_id) "
                "WHERE d.deleted_at IS NULL "
                "ON CONFLICT (topic_run_id, document_id) DO UPDATE SET leaf = EXCLUDED.leaf, path = EXCLUDED.path, "
                "membership = EXCLUDED.membership, residual = EXCLUDED.residual, projected = EXCLUDED.projected",
                (topic_run_id, projected),
            ).rowcount
            self._conn.execute("DROP TABLE label_staging")
        return count

    def latest(self) -> TopicRun | None:
        """The newest tree, or None."""
        return find(self._conn, TopicRun, "FROM heal.topic_run ORDER BY topic_run_id DESC LIMIT 1")

    def get(self, topic_run_id: int) -> TopicRun:
        """One tree.

        Raises:
            StoreError: there is none with that id.
        """
        run = find(self._conn, TopicRun, "FROM heal.topic_run WHERE topic_run_id = %s", (topic_run_id,))
        if run is None:
            raise StoreError(f"there is no topic run {topic_run_id}; SELECT * FROM heal.topic_run lists them")
        return run

    def topics(self, topic_run_id: int) -> list[TopicRow]:
        """All nodes of a tree, in tree order."""
        rest = "FROM heal.topic WHERE topic_run_id = %s ORDER BY first_leaf, level, topic_id"
        return select(self._conn, TopicRow, rest, (topic_run_id,))

    def max_topic_id(self) -> int:
        """The largest topic id of any tree, 0 before the first: larger ids have never been used."""
        return int(scalar(self._conn, "SELECT coalesce(max(topic_id), 0) FROM heal.topic"))
