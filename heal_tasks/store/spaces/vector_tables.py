"""Tables of vectors keyed by a chunk or a question: creation, checks, rows in and out by binary COPY.

In goes through psycopg's own COPY: 129,000 rows of 384 numbers per second and core, against 104,000 by a writer of our
own; text COPY is thirty times slower. Out has a reader of its own: all rows of (integers.., vector(d)) have the same
length on the wire, so a NumPy structured array reads them without a Python object per row, 17 times faster.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.arrays import Float32Array, Int64Array
from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.documents.chunks import lock_shared

Entity = Literal["chunk", "question"]
"""The rows of a table of vectors are about chunks (key ``chunk_id``) or about questions (key ``question_id``)."""

DROP_WAIT_MS = 2000
"""Wait for the locks of a table to drop. Then it is left for the next time: new readers queue behind the drop."""

_HEADER_BYTES = 19
_TRAILER = b"\xff\xff"
_WRITE_ROWS = 4096
_READ_BYTES = 16 << 20


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
    conn: Connection,
    table: sql.Identifier,
    entity: Entity,
    dims: int,
    among: Int64Array | None = None,
    condition: LiteralString = "true",
) -> tuple[Int64Array, Float32Array]:
    """Vectors of a table made by ``create_keyed``: ids, int64, shape (n,), ascending, and float32, shape (n, d)."""
    query = sql.SQL("SELECT {}, embedding FROM {} WHERE {} AND {} ORDER BY 1").format(
        sql.Identifier(f"{entity}_id"), table, among_ids(f"{entity}_id", among), sql.SQL(condition)
    )
    (ids,), vectors = copy_vectors_out(conn, query, dims)
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


def drop_soon(conn: Connection, tables: Sequence[sql.Composable]) -> bool:
    """Drop tables, if they exist, and return True; False if another session keeps one locked: a backup, a reader."""
    try:
        with conn.transaction():
            conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{DROP_WAIT_MS}ms",))
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(tables)))
            conn.execute("SET LOCAL lock_timeout TO DEFAULT")
    except psycopg.errors.LockNotAvailable:
        return False
    return True


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


def copy_rows(
    conn: Connection, table: sql.Composable, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]
) -> None:
    """Append rows to a table with columns of these names and Postgres types; vectors are float32 arrays, shape (d,)."""
    names = sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table, names)
    with conn.transaction(), conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([kind for _, kind in columns])
        for row in rows:
            copy.write_row(row)


def copy_vectors(
    conn: Connection, table: sql.Composable, integers: Mapping[str, NDArray[Any]], vectors: Float32Array
) -> None:
    """Append rows of integer columns and one vector column, ``embedding``, to a table.

    The columns are int64 (``bigint``) or int32 (``integer``) arrays of shape (n,), the vectors float32, shape (n, d).
    """
    if any(values.shape != (len(vectors),) for values in integers.values()) or vectors.ndim != 2:
        shapes = {name: values.shape for name, values in integers.items()}
        raise StoreError(f"cannot copy {shapes} beside vectors of shape {vectors.shape}: pass one id per vector")
    columns = [(name, "int4" if values.dtype == np.int32 else "int8") for name, values in integers.items()]

    def rows() -> Iterator[Sequence[Any]]:
        for start in range(0, len(vectors), _WRITE_ROWS):
            block = slice(start, start + _WRITE_ROWS)
            yield from zip(*(values[block].tolist() for values in integers.values()), vectors[block], strict=True)

    copy_rows(conn, table, [*columns, ("embedding", "vector")], rows())


def copy_vectors_out(
    conn: Connection, query: sql.Composable, dims: int, sizes: Sequence[int] = (8,)
) -> tuple[list[NDArray[Any]], Float32Array]:
    """Read a query's integer columns, int64 or int32, shape (n,) each, and its vectors, float32, shape (n, d).

    The query selects non-null integers of ``sizes`` bytes each (8 for ``bigint``, 4 for ``integer``), then a vector.
    """
    # One row on the wire: field count, then length and value of each field; all big-endian.
    fields: list[Any] = [("fields", ">i2")]
    for number, size in enumerate(sizes):
        fields += [(f"length_{number}", ">i4"), (f"value_{number}", f">i{size}")]
    fields += [("vector_length", ">i4"), ("dims", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dims,))]
    layout = np.dtype(fields)
    damaged = StoreError(f"a vector read back has another dimension than {dims}; the table is damaged")
    columns: list[NDArray[Any]] = [*(np.empty(0, dtype=f"i{size}") for size in sizes), np.empty((0, dims), np.float32)]
    names = [*(f"value_{number}" for number in range(len(sizes))), "vector"]
    pending, header = bytearray(), _HEADER_BYTES
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
    with conn.transaction(), conn.cursor() as cursor, cursor.copy(statement) as copy:
        for block in chain(copy, [b""]):
            pending += block
            if len(pending) < _READ_BYTES and block:
                continue
            del pending[:header]
            header, start = 0, len(columns[0])
            whole = len(pending) // layout.itemsize * layout.itemsize
            rows = np.frombuffer(bytes(pending[:whole]), dtype=layout)
            del pending[:whole]
            if not ((rows["dims"] == dims) & (rows["vector_length"] == 4 + 4 * dims)).all():
                raise damaged
            for name, column in zip(names, columns, strict=True):
                # Grows in place, so that the vectors are in memory once and not twice.
                column.resize((start + len(rows), *column.shape[1:]), refcheck=False)
                column[start:] = rows[name]
    if pending != _TRAILER:
        raise damaged
    *integers, vectors = columns
    return integers, vectors
