"""Deletion of superseded chunks, and the lock that orders deletions and writers of vectors.

``heal.delete_chunks`` (api_manage.sql) deletes a chunk everywhere at once and takes the lock alone; writers share it.
So a chunk that is deleted while vectors are being written is either not written, or deleted from there, too.
"""

from psycopg import sql

from heal_tasks.store.db import Connection
from heal_tasks.store.rows import scalar


def lock_exclusive(conn: Connection) -> None:
    """Wait until nobody writes vectors, and keep others from doing so until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('heal.corpus'))")


def lock_shared(conn: Connection) -> None:
    """Wait until nobody deletes chunks, and keep others from doing so until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext('heal.corpus'))")


def purge_superseded(conn: Connection) -> int:
    """Delete superseded chunks whose document is served without them, in one transaction, and return their number.

    While a generation is active, the superseded chunks of a document stay until all its live chunks (of a duplicate:
    those of its canonical document) have served vectors, so that no document is missing from the search because its
    new text is not embedded yet.
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
