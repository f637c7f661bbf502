"""Chunks: made from documents, read, and deleted where they are superseded.

``heal.delete_chunks`` (api_manage.sql) deletes a chunk everywhere at once and takes a lock alone; writers of vectors
share it. So a chunk that is deleted while vectors are being written is either not written, or deleted from there, too.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from psycopg import sql

from heal_tasks.core.ids import chunk_id, sha256_hex
from heal_tasks.core.text import storable, title_line
from heal_tasks.store.db import Connection, scalar

Chunker = Callable[[str, str], Sequence[tuple[str, str]]]
"""Splits (title, body) into parts that get one vector each: the headings that it is under, and the text."""

_ALL = sql.SQL("true")
IN_PART = sql.SQL("(hashtext(c.content_hash) & 2147483647) %% %s = %s")
"""Condition on ``c``, given the number of parts and the part: equal texts are in one part, so that one task pays."""


class LiveChunk(NamedTuple):
    """A chunk that has or will have a vector, with its title line: its document's title and its headings."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    content_hash: str


class _Existing(NamedTuple):
    chunk_id: int
    document_id: int
    ordinal: int
    content_hash: str
    superseded: bool


def live_chunks(
    conn: Connection, condition: sql.Composable = _ALL, values: Sequence[object] = (), page: int = 2000
) -> Iterator[LiveChunk]:
    """Live chunks that meet a condition on ``c``, by id, in pages of their own: the caller may use the connection."""
    query = sql.SQL(
        "SELECT c.chunk_id, c.document_id, heal.title_line(d.title, c.heading), c.text, c.content_hash "
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


def replace_chunks(conn: Connection, document_ids: Collection[int], chunker: Chunker) -> tuple[int, int]:
    """Chunk documents again: add new texts, keep equal ones, mark chunks whose text is gone as superseded.

    A chunk's hash covers the title line, too: it is embedded with the text, so another one means another vector.
    A text that only moved keeps its chunk, so an inserted paragraph costs one vector and not all that follow it.
    To be called inside a transaction, for live documents; duplicates lose their chunks. Returned are the numbers of
    chunks that need a vector now, and of newly superseded ones.
    """
    ids = list(document_ids)
    existing: dict[int, list[_Existing]] = {key: [] for key in ids}
    for row in conn.execute(
        "SELECT chunk_id, document_id, ordinal, content_hash, superseded_at IS NOT NULL FROM heal.chunk "
        "WHERE document_id = ANY(%s) ORDER BY superseded_at NULLS FIRST, ordinal, chunk_id",
        (ids,),
    ):
        existing[row[1]].append(_Existing._make(row))
    rows = conn.execute(
        "SELECT document_id, title, body, duplicate_of FROM heal.document WHERE document_id = ANY(%s)", (ids,)
    )
    added, kept, superseded, revived = list[tuple[object, ...]](), list[tuple[int, int]](), list[int](), 0
    for document, title, body, duplicate_of in rows:
        parts = chunker(title, body) if duplicate_of is None else []
        parts = [(storable(heading), storable(text)) for heading, text in parts]
        hashes = [sha256_hex(title_line(title, heading), text) for heading, text in parts]
        wanted = [chunk_id(document, *place) for place in enumerate(hashes)]
        found = _assign(wanted, hashes, existing[document])
        for ordinal, item in enumerate(found):
            if item is None:
                added.append((wanted[ordinal], document, ordinal, *parts[ordinal], hashes[ordinal]))
            elif item.superseded or item.ordinal != ordinal:
                kept.append((ordinal, item.chunk_id))
                revived += item.superseded
        used = {item.chunk_id for item in found if item}
        superseded += [old.chunk_id for old in existing[document] if not old.superseded and old.chunk_id not in used]
    with conn.cursor() as cursor:
        cursor.executemany("UPDATE heal.chunk SET ordinal = %s, superseded_at = NULL WHERE chunk_id = %s", kept)
        # No COPY, which a table with row-level security does not take. The trigger that makes the stems costs far more.
        cursor.executemany(
            "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, heading, text, content_hash) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            added,
        )
    conn.execute("UPDATE heal.chunk SET superseded_at = now() WHERE chunk_id = ANY(%s)", (superseded,))
    return len(added) + revived, len(superseded)


def _assign(ids: list[int], hashes: list[str], existing: list[_Existing]) -> list[_Existing | None]:
    """The existing chunk of each text, if any: equal places first, then moved texts, so that ids stay unique."""
    unused = {item.chunk_id: item for item in existing}
    found = [unused.pop(key, None) for key in ids]
    moved: dict[str, list[_Existing]] = defaultdict(list)
    for item in unused.values():
        moved[item.content_hash].append(item)
    return [
        item or (moved[content_hash].pop(0) if moved[content_hash] else None)
        for item, content_hash in zip(found, hashes, strict=True)
    ]


def lock_exclusive(conn: Connection) -> None:
    """Wait until nobody writes vectors, and keep others from doing so until the transaction ends."""
    conn.execute("LOCK TABLE heal.lock_corpus IN EXCLUSIVE MODE")


def lock_shared(conn: Connection) -> None:
    """Wait until nobody deletes chunks, and keep others from doing so until the transaction ends."""
    conn.execute("LOCK TABLE heal.lock_corpus IN SHARE MODE")


def purge_superseded(conn: Connection) -> int:
    """Delete superseded chunks whose document is served without them, in one transaction, and return their number.

    While a generation is active, they stay until all live chunks of the document (of a duplicate: of its canonical
    document) have served vectors: no document is missing from a search because its new text is not embedded yet.
    """
    with conn.transaction():
        lock_exclusive(conn)
        table = scalar(conn, "SELECT heal.vector_table(generation_id) FROM heal.generation WHERE state = 'active'")
        query = sql.Composed([sql.SQL("SELECT chunk_id FROM heal.chunk c WHERE superseded_at IS NOT NULL")])
        if table is not None:
            query += sql.SQL(
                " AND NOT EXISTS (SELECT FROM heal.document d JOIN heal.chunk l "
                "ON l.document_id = coalesce(d.duplicate_of, d.document_id) WHERE d.document_id = c.document_id "
                "AND l.superseded_at IS NULL AND NOT EXISTS (SELECT FROM {} v WHERE v.chunk_id = l.chunk_id))"
            ).format(sql.Identifier("heal", table))
        rows = conn.execute(query).fetchall()
        conn.execute("CALL heal.delete_chunks(%s::bigint[])", ([key for (key,) in rows],))
    return len(rows)


def purge_reopened(conn: Connection) -> int:
    """Delete superseded chunks of documents whose readers this transaction has changed, and return their number.

    The old text was written for other readers. So it is not served until the new one has vectors, as it would be else.
    """
    rows = conn.execute(
        "SELECT c.chunk_id FROM heal.chunk c JOIN heal.document d USING (document_id) "
        "WHERE c.superseded_at IS NOT NULL AND d.acl_changed_at = now()"
    ).fetchall()
    conn.execute("CALL heal.delete_chunks(%s::bigint[])", ([key for (key,) in rows],))
    return len(rows)
