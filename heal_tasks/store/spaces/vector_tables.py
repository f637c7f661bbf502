"""Tables of vectors keyed by a chunk or a question: creation, writing, checks."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import lock_shared
from heal_tasks.store.rows import scalar
from heal_tasks.store.spaces.copying import Float32Array, Int64Array, copy_vectors, copy_vectors_out

Entity = Literal["chunk", "question"]
"""The rows of a table of vectors are about chunks (key ``chunk_id``) or about questions (key ``question_id``)."""


def create_keyed(conn: Connection, table: sql.Identifier, entity: Entity, dims: int) -> None:
    """Create a table of one vector per chunk or question; keyed from the start, because parallel shards fill it."""
    conn.execute(
        sql.SQL("CREATE TABLE {} ({} bigint PRIMARY KEY, embedding vector({}) NOT NULL)").format(
            table, sql.Identifier(f"{entity}_id"), sql.Literal(dims)
        )
    )
    give_table(conn, table)


def write_keyed(
    conn: Connection, table: sql.Identifier, entity: Entity, dims: int, ids: NDArray[Any], vectors: Float32Array
) -> int:
    """Add vectors, float32, shape (n, d), by id to a table made by ``create_keyed``, and return the number of new rows.

    Rows that exist, or whose chunk or question was deleted, are skipped; ``check_vectors`` refuses faulty vectors.
    """
    check_vectors(vectors, dims)
    key = sql.Identifier(f"{entity}_id")
    with conn.transaction():
        lock_shared(conn)
        staging = stage(conn, {f"{entity}_id": ids}, vectors)
        count = conn.execute(
            sql.SQL(
                "INSERT INTO {} SELECT s.* FROM {} s WHERE EXISTS (SELECT FROM {} e WHERE e.{key} = s.{key}) "
                "ON CONFLICT DO NOTHING"
            ).format(table, staging, sql.Identifier("heal", entity), key=key)
        ).rowcount
        conn.execute(sql.SQL("DROP TABLE {}").format(staging))
    return count


def read_keyed(
    conn: Connection, table: sql.Identifier, entity: Entity, dims: int, condition: sql.Composable
) -> tuple[Int64Array, Float32Array]:
    """Vectors of a table made by ``create_keyed``: ids, int64, shape (n,), ascending, and float32, shape (n, d)."""
    query = sql.SQL("SELECT {}, embedding FROM {} WHERE {} ORDER BY 1")
    key = sql.Identifier(f"{entity}_id")
    (ids,), vectors = copy_vectors_out(conn, query.format(key, table, condition), dims)
    return ids, vectors


def stage(conn: Connection, integers: dict[str, NDArray[Any]], vectors: Float32Array) -> sql.Identifier:
    """Load rows into a temporary table whose columns are in the order given; inside a transaction."""
    columns = [sql.SQL("{} int" if name == "leaf" else "{} bigint").format(sql.Identifier(name)) for name in integers]
    statement = sql.SQL("CREATE TEMP TABLE staging ({}, embedding vector) ON COMMIT DROP")
    conn.execute(statement.format(sql.SQL(", ").join(columns)))
    staging = sql.Identifier("pg_temp", "staging")
    copy_vectors(conn, staging, integers, vectors)
    # Without statistics the planner expects 25 times as many rows, and reads all chunks to join 1,000 of them.
    conn.execute(sql.SQL("ANALYZE {}").format(staging))
    return staging


def give_table(conn: Connection, table: sql.Identifier) -> None:
    """Make the pipeline's role, if there is one, the owner of a table, so that all its members may use the table."""
    if conn.execute("SELECT FROM pg_roles WHERE rolname = 'heal_pipeline' AND pg_has_role(oid, 'MEMBER')").rowcount:
        conn.execute(sql.SQL("ALTER TABLE {} OWNER TO heal_pipeline").format(table))


def table_exists(conn: Connection, table: sql.Identifier) -> bool:
    """True if there is a table of that name."""
    return scalar(conn, "SELECT to_regclass(%s) IS NOT NULL", (table.as_string(conn),)) is True


def check_vectors(vectors: Float32Array, dims: int, *, unit: bool = False) -> None:
    """Refuse vectors that pgvector would reject half-way, or that an index would never find: StoreError."""
    if vectors.ndim != 2 or vectors.shape[1] != dims:
        raise StoreError(
            f"vectors of shape {vectors.shape} do not fit a space of {dims} dimensions; encode with the space's model"
        )
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))  # np.linalg.norm makes a second array of that size
    if bad := int((~np.isfinite(norms) | (norms == 0)).sum()):
        raise StoreError(f"{bad} of {len(vectors)} vectors are zero or not finite; an index would never find them")
    if unit and (off := int((np.abs(norms - 1) > 1e-3).sum())):
        raise StoreError(
            f"{off} of {len(vectors)} vectors are not of unit length; normalise them, or set the generation's metric "
            "to inner_product (NUDGE-M)"
        )


def among_ids(key: str, ids: Int64Array | None) -> sql.Composable:
    """Condition that limits a query to some ids; None for all."""
    if ids is None:
        return sql.SQL("true")
    return sql.SQL("{} = ANY({}::bigint[])").format(sql.Identifier(key), sql.Literal(ids.tolist()))
