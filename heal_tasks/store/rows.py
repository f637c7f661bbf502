"""Results of queries as dataclasses, arrays and single values."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, LiteralString, TypeVar

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import class_row

from heal_tasks.store.db import Connection

Record = TypeVar("Record")
Values = Sequence[object] | Mapping[str, object]


def columns(record: type) -> sql.Composed:
    """The fields of a dataclass as a list of columns."""
    return sql.SQL(", ").join(sql.Identifier(item.name) for item in fields(record))


def select(
    conn: Connection, record: type[Record], rest: LiteralString | sql.Composable, values: Values = ()
) -> list[Record]:
    """Rows of ``SELECT``, the fields of a dataclass, and ``rest``, as instances of the dataclass."""
    rest = rest if isinstance(rest, sql.Composable) else sql.SQL(rest)
    query = sql.SQL("SELECT {} {}").format(columns(record), rest)
    return conn.cursor(row_factory=class_row(record)).execute(query, values).fetchall()


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
