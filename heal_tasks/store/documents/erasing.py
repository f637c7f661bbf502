"""Removing chunks that are no longer wanted, and the lock that orders this against whoever writes vectors.

``heal.delete_chunks`` (api_manage.sql) removes a chunk from everywhere at once and takes the lock alone; writers
share it. So a row that is erased while a generation is being loaded is either not loaded or erased from it, too.
"""

from psycopg import sql

from heal_tasks.store.db import Connection

_LOCK = "heal.corpus"


def lock_exclusive(conn: Connection) -> None:
    """Wait until nobody writes vectors, and keep it so until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (_LOCK,))


def lock_shared(conn: Connection) -> None:
    """Wait until nobody erases chunks, and keep it so until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext(%s))", (_LOCK,))


def purge_superseded(conn: Connection) -> int:
    """Delete superseded chunks whose document is served without them.

    Where a generation is active, a document's superseded chunks stay until all its live chunks (those of the
    document that stands for it, if it is a duplicate) have served vectors: no document drops out of the search
    because its new text is not embedded yet.

    Args:
        conn: a connection; everything happens in one transaction.

    Returns:
        How many chunks were deleted.
    """
    with conn.transaction():
        lock_exclusive(conn)
        active = conn.execute("SELECT heal.vector_table(generation_id) FROM heal.generation WHERE state = 'active'")
        row = active.fetchone()
        condition: sql.Composable = sql.SQL("true")
        if row is not None:
            condition = sql.SQL(
                "NOT EXISTS (SELECT FROM heal.chunk l WHERE l.document_id = coalesce(d.duplicate_of, d.document_id) "
                "AND l.superseded_at IS NULL AND NOT EXISTS (SELECT FROM {} v WHERE v.chunk_id = l.chunk_id))"
            ).format(sql.Identifier("heal", row[0]))
        ids = [
            found[0]
            for found in conn.execute(
                sql.SQL(
                    "SELECT c.chunk_id FROM heal.chunk c JOIN heal.document d USING (document_id) "
                    "WHERE c.superseded_at IS NOT NULL AND {}"
                ).format(condition),
            )
        ]
        conn.execute("CALL heal.delete_chunks(%s::bigint[])", (ids,))
    return len(ids)
