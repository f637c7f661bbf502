"""Topic trees of each run, and which topic every document belongs to in it."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from typing import LiteralString

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import class_row

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection
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
_LABEL_COLUMNS = [("document_id", "int8"), ("leaf", "int4"), ("path", "int8[]"), ("membership", "float4")]
_LABEL_COLUMNS += [("residual", "float4")]
_RUN_COLUMNS = sql.SQL(", ").join(sql.Identifier(item.name) for item in fields(TopicRun))


class TopicRepository:
    """Topic runs.

    Args:
        conn: an autocommit connection.
    """

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
        """Store a topic tree with the documents it was made of, in one transaction.

        Args:
            fingerprint: of the tree's inputs; a second call with the same one stores nothing.
            uri: where the factors are.
            churn: share of documents whose topic has no match in the previous run; None for the first.
            mean_residual: mean relative error of the factorised documents.
            topics: all nodes.
            labels: of the factorised documents.

        Returns:
            The topic run's id, also where it was stored before.
        """
        parents = {topic.parent_id for topic in topics}
        leaves = sum(topic.topic_id not in parents for topic in topics)
        depth = max((topic.level for topic in topics), default=0)
        with self._conn.transaction():
            row = self._conn.execute(
                "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, churn, mean_residual) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (fingerprint) DO NOTHING RETURNING topic_run_id",
                (fingerprint, uri, len(labels.document_ids), len(topics), leaves, depth, churn, mean_residual),
            ).fetchone()
            if row is None:
                return self._find("fingerprint = %s", fingerprint).topic_run_id
            copy_rows(
                self._conn,
                sql.Identifier("heal", "topic"),
                _TOPIC_COLUMNS,
                ((row[0], *astuple(topic)) for topic in topics),
            )
            self.add_labels(row[0], labels, projected=False)
        return int(row[0])

    def add_labels(self, topic_run_id: int, labels: Labels, projected: bool = True) -> int:
        """Label documents, or label them anew.

        Args:
            topic_run_id: the tree.
            labels: documents deleted meanwhile are passed over.
            projected: whether the documents took no part in the factorisation.

        Returns:
            How many documents were labelled.
        """
        rows = zip(
            labels.document_ids.tolist(),
            labels.leaves.tolist(),
            ([int(topic) for topic in path] for path in labels.paths),
            labels.memberships.tolist(),
            labels.residuals.tolist(),
            strict=True,
        )
        with self._conn.transaction():
            self._conn.execute(
                "CREATE TEMP TABLE label_staging (document_id bigint, leaf int, path bigint[], membership real, "
                "residual real) ON COMMIT DROP"
            )
            copy_rows(self._conn, sql.Identifier("pg_temp", "label_staging"), _LABEL_COLUMNS, rows)
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
        query = sql.SQL("SELECT {} FROM heal.topic_run ORDER BY topic_run_id DESC LIMIT 1").format(_RUN_COLUMNS)
        return self._conn.cursor(row_factory=class_row(TopicRun)).execute(query).fetchone()

    def get(self, topic_run_id: int) -> TopicRun:
        """One tree.

        Raises:
            StoreError: there is none with that id.
        """
        return self._find("topic_run_id = %s", topic_run_id)

    def topics(self, topic_run_id: int) -> list[TopicRow]:
        """All nodes of a tree, in tree order."""
        columns = sql.SQL(", ").join(sql.Identifier(item.name) for item in fields(TopicRow))
        query = sql.SQL("SELECT {} FROM heal.topic WHERE topic_run_id = %s ORDER BY first_leaf, level, topic_id")
        cursor = self._conn.cursor(row_factory=class_row(TopicRow))
        return cursor.execute(query.format(columns), (topic_run_id,)).fetchall()

    def labels(self, topic_run_id: int) -> Labels:
        """All labels of a tree, by document id."""
        rows = self._conn.execute(
            "SELECT document_id, leaf, path, membership, residual FROM heal.document_topic "
            "WHERE topic_run_id = %s ORDER BY document_id",
            (topic_run_id,),
        ).fetchall()
        ids, leaves, paths, memberships, residuals = zip(*rows, strict=True) if rows else ((),) * 5
        return Labels(
            np.array(ids, dtype=np.int64),
            np.array(leaves, dtype=np.int32),
            list(paths),
            np.array(memberships, dtype=np.float32),
            np.array(residuals, dtype=np.float32),
        )

    def max_topic_id(self) -> int:
        """Largest topic id of any tree, 0 before the first: ids above it have never been used."""
        row = self._conn.execute("SELECT coalesce(max(topic_id), 0) FROM heal.topic").fetchone()
        return int(row[0]) if row else 0

    def residuals(self, topic_run_id: int) -> tuple[float | None, float | None]:
        """Mean relative error of the documents a tree was made of, and of those projected on it since."""
        row = self._conn.execute(
            "SELECT avg(residual) FILTER (WHERE NOT projected), avg(residual) FILTER (WHERE projected) "
            "FROM heal.document_topic WHERE topic_run_id = %s",
            (topic_run_id,),
        ).fetchone()
        return (row[0], row[1]) if row else (None, None)

    def _find(self, condition: LiteralString, value: object) -> TopicRun:
        query = sql.SQL("SELECT {} FROM heal.topic_run WHERE " + condition).format(_RUN_COLUMNS)
        found = self._conn.cursor(row_factory=class_row(TopicRun)).execute(query, (value,)).fetchone()
        if found is None:
            raise StoreError(f"there is no topic run {value!r}; SELECT * FROM heal.topic_run lists them")
        return found
