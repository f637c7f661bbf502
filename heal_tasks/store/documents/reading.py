"""Live chunks that meet a condition, for embedding and question writing."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from psycopg import sql

from heal_tasks.store.db import Connection

IN_PART = sql.SQL("(hashtext(c.content_hash) & 2147483647) %% %s = %s")
"""Condition on ``c``, given the number of parts and the part: equal texts are in one part, so that one task pays."""


class LiveChunk(NamedTuple):
    """A chunk that has or will have a vector, with its document's title."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    content_hash: str


def live_chunks(
    conn: Connection, condition: sql.Composable, values: Sequence[object], page: int = 2000
) -> Iterator[LiveChunk]:
    """Live chunks that meet a condition on ``c``, by id, in pages of their own: the caller may use the connection."""
    query = sql.SQL(
        "SELECT c.chunk_id, c.document_id, d.title, c.text, c.content_hash "
        "FROM heal.chunk c JOIN heal.document d USING (document_id) "
        "WHERE c.chunk_id > %s AND c.superseded_at IS NULL AND {} ORDER BY c.chunk_id LIMIT %s"
    ).format(condition)
    last = -1
    while True:
        rows = conn.execute(query, (last, *values, page)).fetchall()
        yield from map(LiveChunk._make, rows)
        if len(rows) < page:
            return
        last = rows[-1][0]
