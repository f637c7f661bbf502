"""Reads of documents and chunks for ingest, embedding and question writing."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from psycopg import sql

from heal_tasks.store.db import Connection
from heal_tasks.store.rows import scalar

IN_PART = sql.SQL("(hashtext(c.content_hash) & 2147483647) %% %s = %s")
"""Condition on ``c``, given the number of parts and the part: equal texts are in one part, so that one task pays."""


class LiveChunk(NamedTuple):
    """A chunk that has or will have a vector, with its document's title."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    content_hash: str


class DocumentReader:
    """Reads of documents, source files and chunks."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def known_files(self, source: str) -> dict[str, tuple[str, bool]]:
        """Fingerprint of each file as last read, and True if every record of it was good, by path."""
        rows = self._conn.execute("SELECT path, fingerprint, clean FROM heal.source_file WHERE source = %s", (source,))
        return {path: (fingerprint, clean) for path, fingerprint, clean in rows}

    def documents_of_paths(self, source: str, paths: Collection[str]) -> dict[int, str]:
        """Path of each live document that came from these files, by document id."""
        rows = self._conn.execute(
            "SELECT document_id, path FROM heal.document WHERE source = %s AND path = ANY(%s) AND deleted_at IS NULL",
            (source, list(paths)),
        )
        return dict(rows.fetchall())

    def live_count(self, source: str | None = None) -> int:
        """The number of documents that are not deleted, in one source or in all."""
        query = (
            "SELECT count(*) FROM heal.document WHERE deleted_at IS NULL AND (%(s)s::text IS NULL OR source = %(s)s)"
        )
        return int(scalar(self._conn, query, {"s": source}))

    def live_chunks(self, shard: int = 0, shards: int = 1) -> Iterator[LiveChunk]:
        """Live chunks in one of ``shards`` parts, by id; see the function ``live_chunks``."""
        return live_chunks(self._conn, sql.SQL("true"), (), shard, shards)

    def counts(self) -> dict[str, int]:
        """Documents (live), duplicates, deleted; chunks (to be served), superseded."""
        row = self._conn.execute(
            "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FILTER (WHERE duplicate_of IS NOT NULL), "
            "count(*) FILTER (WHERE deleted_at IS NOT NULL), "
            "(SELECT count(*) FROM heal.chunk WHERE superseded_at IS NULL), "
            "(SELECT count(*) FROM heal.chunk WHERE superseded_at IS NOT NULL) FROM heal.document"
        ).fetchone()
        names = ("documents", "duplicates", "deleted", "chunks", "superseded")
        return dict(zip(names, row or (), strict=True))


def live_chunks(
    conn: Connection, condition: sql.Composable, values: Sequence[object], shard: int, shards: int, page: int = 2000
) -> Iterator[LiveChunk]:
    """Live chunks that meet a condition, by id, in pages of their own: the caller may write through the connection.

    Args:
        conn: an open connection.
        condition: on ``c``, with placeholders.
        values: for the placeholders.
        shard: the part, from 0.
        shards: number of parts; a chunk belongs to part ``chunk_id % shards``.
        page: chunks per statement.
    """
    query = sql.SQL(
        "SELECT c.chunk_id, c.document_id, d.title, c.text, c.content_hash "
        "FROM heal.chunk c JOIN heal.document d USING (document_id) "
        "WHERE c.chunk_id > %s AND c.chunk_id %% %s = %s AND c.superseded_at IS NULL AND {} "
        "ORDER BY c.chunk_id LIMIT %s"
    ).format(condition)
    last = -1
    while True:
        rows = conn.execute(query, (last, shards, shard, *values, page)).fetchall()
        yield from map(LiveChunk._make, rows)
        if len(rows) < page:
            return
        last = rows[-1][0]
