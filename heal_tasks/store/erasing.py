"""Removing chunks from everywhere at once: text, questions, replies, and the vectors of every generation.

One advisory lock orders this against whoever writes vectors: erasing takes it alone, writers share it. So
a row that is erased while a generation is being loaded is either not loaded or erased from it, too.
"""

from collections.abc import Sequence

from psycopg import sql

from heal_tasks.store.db import Connection

_LOCK = "heal.corpus"


def lock_exclusive(conn: Connection) -> None:
    """Wait until nobody writes vectors, and keep it so until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (_LOCK,))


def lock_shared(conn: Connection) -> None:
    """Wait until nobody erases chunks, and keep it so until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext(%s))", (_LOCK,))


def delete_chunks_everywhere(conn: Connection, chunk_ids: Sequence[int]) -> None:
    """Delete chunks with their questions, the model's replies about them, and all their vectors.

    Args:
        conn: a connection; everything happens in one transaction.
        chunk_ids: chunks to remove.
    """
    ids = list(chunk_ids)
    if not ids:
        return
    with conn.transaction():
        lock_exclusive(conn)
        questions = [
            row[0] for row in conn.execute("SELECT question_id FROM heal.question WHERE chunk_id = ANY(%s)", (ids,))
        ]
        for table, key in _vector_tables(conn):
            conn.execute(
                sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(table, sql.Identifier(key)),
                (questions if key == "question_id" else ids,),
            )
        conn.execute("UPDATE heal.llm_call SET raw_reply = NULL WHERE chunk_id = ANY(%s)", (ids,))
        conn.execute("DELETE FROM heal.chunk WHERE chunk_id = ANY(%s)", (ids,))


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
        delete_chunks_everywhere(conn, ids)
    return len(ids)


def _vector_tables(conn: Connection) -> list[tuple[sql.Identifier, str]]:
    """Existing tables of all generations, each with its key column."""
    rows = conn.execute(
        "SELECT heal.vector_table(g.generation_id, p.prefix), p.key FROM heal.generation g, "
        "(VALUES ('base', 'chunk_id'), ('vec', 'chunk_id'), ('question', 'question_id')) AS p (prefix, key) "
        "WHERE to_regclass('heal.' || heal.vector_table(g.generation_id, p.prefix)) IS NOT NULL"
    ).fetchall()
    return [(sql.Identifier("heal", name), key) for name, key in rows]
