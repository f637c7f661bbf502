"""Vectors under the key of a chunk or a question, and what all tables of vectors share: checks, staging, owners."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.erasing import lock_shared
from heal_tasks.store.generations.generation import Generation, Prefix
from heal_tasks.store.spaces.copying import Float32Array, Int64Array, copy_vectors

ENTITIES: dict[Prefix, str] = {"base": "chunk", "vec": "chunk", "push": "chunk", "question": "question"}
"""What the rows of a generation's tables are about."""


def create_keyed(conn: Connection, generation: Generation, prefix: Prefix, more: str = "") -> None:
    """Make a table of vectors under the key of what they are about, with ``more`` columns."""
    table = generation.table(prefix)
    conn.execute(
        sql.SQL("CREATE TABLE {} ({} bigint PRIMARY KEY, embedding vector({}) NOT NULL{})").format(
            table, sql.Identifier(f"{ENTITIES[prefix]}_id"), sql.Literal(generation.dims), sql.SQL(more)
        )
    )
    give_table(conn, table)


def write_keyed(
    conn: Connection, generation: Generation, prefix: Prefix, ids: NDArray[Any], vectors: Float32Array
) -> int:
    """Add vectors; what has one, or was deleted meanwhile, is passed over.

    Args:
        conn: an autocommit connection.
        generation: whose table.
        prefix: which one; it has a primary key.
        ids: int64, shape (n,): of chunks or questions.
        vectors: float32, shape (n, d).

    Returns:
        How many rows were new.

    Raises:
        StoreError: a vector has another dimension, is zero or is not finite.
    """
    check_vectors(generation, vectors, unit=False)
    entity = ENTITIES[prefix]
    key = sql.Identifier(f"{entity}_id")
    with conn.transaction():
        lock_shared(conn)
        staging = stage(conn, {f"{entity}_id": ids}, vectors)
        count = conn.execute(
            sql.SQL(
                "INSERT INTO {} SELECT s.* FROM {} s WHERE EXISTS (SELECT FROM {} e WHERE e.{key} = s.{key}) "
                "ON CONFLICT DO NOTHING"
            ).format(generation.table(prefix), staging, sql.Identifier("heal", entity), key=key)
        ).rowcount
        conn.execute(sql.SQL("DROP TABLE {}").format(staging))
    return count


def stage(conn: Connection, integers: dict[str, NDArray[Any]], vectors: Float32Array) -> sql.Identifier:
    """A temporary table with the rows, in the order of the columns."""
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL("int" if name == "leaf" else "bigint"))
        for name in integers
    ]
    conn.execute(
        sql.SQL("CREATE TEMP TABLE staging ({}, embedding vector) ON COMMIT DROP").format(sql.SQL(", ").join(columns))
    )
    staging = sql.Identifier("pg_temp", "staging")
    copy_vectors(conn, staging, integers, vectors)
    # Unknown, it passes for 25 times as many rows, and to join 1,000 of them the planner reads all chunks.
    conn.execute(sql.SQL("ANALYZE {}").format(staging))
    return staging


def give_table(conn: Connection, table: sql.Identifier) -> None:
    """Let the pipeline's role, if there is one, own a table: every member of it, and the view's owner, may use it."""
    if conn.execute("SELECT FROM pg_roles WHERE rolname = 'heal_pipeline' AND pg_has_role(oid, 'MEMBER')").rowcount:
        conn.execute(sql.SQL("ALTER TABLE {} OWNER TO heal_pipeline").format(table))


def check_vectors(generation: Generation, vectors: Float32Array, *, unit: bool) -> None:
    """Keep out what pgvector would refuse half-way, or store and then never find."""
    if vectors.ndim != 2 or vectors.shape[1] != generation.dims:
        raise StoreError(
            f"vectors of shape {vectors.shape} do not fit generation {generation.generation_id}, which has "
            f"{generation.dims} dimensions; encode with {generation.model_uri}"
        )
    norms = np.linalg.norm(vectors, axis=1)
    if bad := int((~np.isfinite(norms) | (norms == 0)).sum()):
        raise StoreError(f"{bad} of {len(vectors)} vectors are zero or not finite; an index would never find them")
    if unit and generation.metric == "cosine" and (off := int((np.abs(norms - 1) > 1e-3).sum())):
        raise StoreError(
            f"{off} of {len(vectors)} vectors are not of unit length; normalise them, or set the generation's metric "
            "to inner_product (NUDGE-M)"
        )


def among_chunks(chunk_ids: Int64Array | None) -> sql.Composable:
    """Condition that limits a query to some chunks; None for all."""
    if chunk_ids is None:
        return sql.SQL("true")
    return sql.SQL("chunk_id = ANY({}::bigint[])").format(sql.Literal(chunk_ids.tolist()))
