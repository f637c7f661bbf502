"""Results of queries as dataclasses and single values."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, LiteralString, TypeVar

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


def scalar(conn: Connection, query: LiteralString | sql.SQL | sql.Composed, values: Values = ()) -> Any:
    """The first column of the first row, or None without a row."""
    row = conn.execute(query, values).fetchone()
    return row[0] if row else None
