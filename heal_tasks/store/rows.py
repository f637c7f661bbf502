"""Dataclasses and named tuples as rows, to select and to insert; results of queries as arrays and single values."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from typing import Any, LiteralString, TypeVar

import numpy as np
from numpy.typing import NDArray
from psycopg import Cursor, sql
from psycopg.rows import class_row

from heal_tasks.core.text import storable
from heal_tasks.store.db import Connection

Record = TypeVar("Record")
Values = Sequence[object] | Mapping[str, object]


def select(conn: Connection, record: type[Record], rest: LiteralString, values: Values = ()) -> list[Record]:
    """Rows of ``SELECT``, the fields of a dataclass or named tuple, and ``rest``, as instances of it."""
    query = sql.SQL("SELECT {} {}").format(sql.SQL(", ").join(_columns(record)), sql.SQL(rest))
    return conn.cursor(row_factory=class_row(record)).execute(query, values).fetchall()


def find(conn: Connection, record: type[Record], rest: LiteralString, values: Values = ()) -> Record | None:
    """The first row as ``select`` gives it, or None."""
    return next(iter(select(conn, record, rest, values)), None)


def insert(cursor: Cursor, table: str, records: Sequence[Any], conflict: LiteralString = "", **before: object) -> int:
    """Insert dataclasses, their texts made storable, beside columns ``before``; return the number of new rows."""
    if not records:
        return 0
    names = [*map(sql.Identifier, before), *_columns(records[0])]
    statement = sql.SQL("INSERT INTO heal.{} ({}) VALUES ({}) {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(names),
        sql.SQL(", ").join(sql.Placeholder() * len(names)),
        sql.SQL(conflict),
    )
    texts_and_numbers = (astuple(record) for record in records)
    rows = [[storable(value) if isinstance(value, str) else value for value in row] for row in texts_and_numbers]
    cursor.executemany(statement, [(*before.values(), *row) for row in rows])
    return cursor.rowcount


def arrays(rows: Sequence[tuple[Any, ...]], *types: Any) -> list[NDArray[Any]]:
    """The columns of rows as arrays of these types, each of shape (n,)."""
    found = zip(*rows, strict=True) if rows else [()] * len(types)
    return [np.array(column, dtype=kind) for column, kind in zip(found, types, strict=True)]


def rows_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of each wanted id in ``ids``, int64, shape (n,), ascending; -1 where it is absent."""
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[found] == wanted, found, -1)


def scalar(conn: Connection, query: LiteralString | sql.SQL | sql.Composed, values: Values = ()) -> Any:
    """The first column of the first row, or None without a row."""
    row = conn.execute(query, values).fetchone()
    return row[0] if row else None


def _columns(record: Any) -> list[sql.Identifier]:
    names = [item.name for item in fields(record)] if is_dataclass(record) else record._fields
    return [sql.Identifier(name) for name in names]
