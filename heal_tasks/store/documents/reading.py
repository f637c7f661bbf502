"""Reads documents and chunks as ingest, embedding and question writing need them."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from psycopg import sql

from heal_tasks.store.db import Connection

PAGE = 2000

IN_PART = sql.SQL("(hashtext(c.content_hash) & 2147483647) %% %s = %s")
"""Condition on ``c``, given the number of parts and which: equal texts are in one, or two tasks would pay for both."""


class LiveChunk(NamedTuple):
    """A chunk that has or will have a vector, with its document's title."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    content_hash: str


class DocumentReader:
    """Reads documents, source files and chunks.

    Args:
        conn: an open connection.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def known_files(self, source: str) -> dict[str, tuple[str, bool]]:
        """Each file as last read: by path its fingerprint, and whether every record of it was good."""
        rows = self._conn.execute(
            "SELECT path, fingerprint, clean FROM heal.source_file WHERE source = %s", (source,)
        ).fetchall()
        return {path: (fingerprint, clean) for path, fingerprint, clean in rows}

    def documents_of_paths(self, source: str, paths: Collection[str]) -> dict[int, str]:
        """Path of each live document that came from these files, by document id."""
        rows = self._conn.execute(
            "SELECT document_id, path FROM heal.document WHERE source = %s AND path = ANY(%s) AND deleted_at IS NULL",
            (source, list(paths)),
        ).fetchall()
        return dict(rows)

    def live_count(self, source: str | None = None) -> int:
        """How many documents are not deleted, in one source or in all."""
        row = self._conn.execute(
            "SELECT count(*) FROM heal.document WHERE deleted_at IS NULL AND (%(s)s::text IS NULL OR source = %(s)s)",
            {"s": source},
        ).fetchone()
        return int(row[0]) if row else 0

    def live_chunks(self, shard: int = 0, shards: int = 1) -> Iterator[LiveChunk]:
        """Chunks of live documents that are not superseded, ordered by chunk id.

        Read in pages of their own, so the caller may write through the same connection meanwhile.

        Args:
            shard: which part, from 0.
            shards: how many parts; a chunk belongs to part ``chunk_id % shards``.

        Returns:
            An iterator over chunks with their document's title.
        """
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
    conn: Connection, condition: sql.Composable, values: Sequence[object], shard: int, shards: int
) -> Iterator[LiveChunk]:
    """Live chunks (``c``) that meet a condition, by id, read in pages of their own.

    Args:
        conn: an open connection.
        condition: on ``c``, with placeholders.
        values: for the placeholders.
        shard: which part, from 0.
        shards: how many parts.

    Yields:
        Chunks with their document's title.
    """
    query = sql.SQL(
        "SELECT c.chunk_id, c.document_id, d.title, c.text, c.content_hash "
        "FROM heal.chunk c JOIN heal.document d USING (document_id) "
        "WHERE c.chunk_id > %s AND c.chunk_id %% %s = %s AND c.superseded_at IS NULL AND {} "
        "ORDER BY c.chunk_id LIMIT %s"
    ).format(condition)
    last = -1
    while True:
        page = conn.execute(query, (last, shards, shard, *values, PAGE)).fetchall()
        yield from map(LiveChunk._make, page)
        if len(page) < PAGE:
            return
        last = page[-1][0]
