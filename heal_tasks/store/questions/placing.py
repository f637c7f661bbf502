"""Judgments with the chunks of their document that answer."""

from psycopg import sql

from heal_tasks.store.arrays import Int64Array
from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.documents.chunks import lock_shared
from heal_tasks.store.questions.questions import HUMAN
from heal_tasks.store.spaces.spaces import Space

NEAR = 0.03
"""Cosine distance beyond the nearest chunk up to which a question moves other chunks of its document as well. nDCG@10
of people's dev queries with NUDGE and lexicon by 0, .03, .06 and .1: NFCorpus .428, .436, .436, .439, SciFact .867,
.868, .865, .861, ATT&CK .828, .828, .829, .829 (bench/RESULTS.md)."""


def place_judgments(conn: Connection, space: Space, touched: Int64Array | None = None) -> int:
    """Assign judgments to the chunk of their document that is nearest to the question, and to those nearly as near.

    A person names a document, but training and NUDGE need the chunk that answers. The first chunk is the nearest
    for 47 % of SciFact's claims and 8 % of NFCorpus's queries. The chunks within ``NEAR`` of the nearest are moved
    by the question as well (``heal.near_chunk``). A question without a vector stays where it is.

    Args:
        conn: the store.
        space: the space whose vectors say what is near.
        touched: chunk ids, int64, shape (t,); only judgments about documents with any of them are looked at. None: all.

    Returns:
        The number of judgments that went over to another chunk.
    """
    query = sql.SQL(
        """WITH judgment AS MATERIALIZED (
            SELECT q.question_id, q.split, c.document_id, a.embedding
            FROM heal.question q JOIN heal.chunk c USING (chunk_id) JOIN {asked} a USING (question_id)
            WHERE q.writer = {human} AND ({touched}::bigint[] IS NULL OR c.document_id IN (
                SELECT t.document_id FROM heal.chunk t WHERE t.chunk_id = ANY ({touched}::bigint[])))
            FOR KEY SHARE OF q  -- one that is removed meanwhile is left out
        ), placed AS MATERIALIZED (
            SELECT *, min(distance) OVER one AS least, row_number() OVER one AS number FROM (
                SELECT j.question_id, j.split, o.chunk_id, b.embedding <=> j.embedding AS distance
                FROM judgment j JOIN heal.chunk o ON o.document_id = j.document_id AND o.superseded_at IS NULL
                    JOIN {base} b ON b.chunk_id = o.chunk_id) d
            WINDOW one AS (PARTITION BY question_id ORDER BY distance, chunk_id)
        ), near AS MATERIALIZED (
            SELECT question_id, chunk_id FROM placed
            WHERE number > 1 AND distance <= least + {near} AND heal.moves_rows(split)
        ), far AS (
            DELETE FROM heal.near_chunk n USING judgment j WHERE n.question_id = j.question_id
                AND NOT EXISTS (SELECT FROM near WHERE (near.question_id, near.chunk_id) = (n.question_id, n.chunk_id))
        ), added AS (
            INSERT INTO heal.near_chunk SELECT question_id, chunk_id FROM near ON CONFLICT DO NOTHING
        ), moved AS (
            UPDATE heal.question q SET chunk_id = p.chunk_id FROM placed p
            WHERE p.number = 1 AND q.question_id = p.question_id AND q.chunk_id <> p.chunk_id RETURNING 1
        )
        SELECT count(*) FROM moved"""
    ).format(
        asked=space.table("question"), base=space.table("base"), human=sql.Literal(HUMAN), near=sql.Literal(NEAR),
        touched=sql.Literal(None if touched is None else touched.tolist()),
    )  # fmt: skip
    with conn.transaction():
        lock_shared(conn)  # the chunks stay
        return int(scalar(conn, query))
