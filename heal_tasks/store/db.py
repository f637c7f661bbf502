"""Connections with pgvector's type registered; dataclasses and named tuples as rows.

Only psycopg is loaded, and pgvector where its type is registered: clients import this module without numpy.
"""

import math
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import Cursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row
from psycopg.types import TypeInfo
from psycopg.types.json import JsonbDumper

from heal_tasks.core.errors import RetryableError, SettingsError, StoreError
from heal_tasks.core.text import storable

Connection = psycopg.Connection[tuple[Any, ...]]
Record = TypeVar("Record")
Values = Sequence[object] | Mapping[str, object]

MIN_SERVER, NEWEST_TRIED = 15, 18
MIN_PGVECTOR = (0, 8, 5)
CONNECT_TIMEOUT_S = 15
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
"""First statement of a transaction whose reads all see the same moment."""
_STREAMED_ROWS = 2000

_MALFORMED = (
    "the database URL is malformed (it is not shown, because it may have a password): write HEAL_DATABASE_URL as "
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the password as %40 for @, %3A for :, "
    "%2F for /, %23 for #, %25 for %"
)
_HOST = r"([\w.-]+|\[[0-9a-fA-F:.]+\]|(?:[\w.-]|%[0-9a-fA-F]{2})*)(:\d{1,5})?"
_URL = re.compile(rf"postgres(ql)?://([^@/\s]*@)?{_HOST}(,{_HOST})*(/[^@/?#\s]*)?(\?[^@#\s]*)?")


class Repository:
    """Reads and writes over an autocommit connection, or over one whose transaction the caller ends."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn


def connect(url: str, *, autocommit: bool = False, vectors: bool = True) -> Connection:
    """Open a connection to a ``postgresql://`` URL; use it as a context manager to commit and close.

    Dictionaries are written as ``jsonb``. With ``vectors`` pgvector's type is registered if the extension exists, so
    call ``register`` after creating the extension. A server that cannot be reached is a RetryableError, a malformed URL
    a SettingsError.
    """
    password_of(url)  # refuses what libpq would quote
    try:
        conn = psycopg.connect(url, autocommit=autocommit, connect_timeout=CONNECT_TIMEOUT_S, application_name="heal")
    except psycopg.OperationalError as error:
        raise _unusable(error) from error
    except (psycopg.Error, UnicodeError):
        raise SettingsError(_MALFORMED) from None
    conn.adapters.register_dumper(dict, JsonbDumper)
    if vectors:
        register(conn)
    return conn


def password_of(url: str) -> str | None:
    """The password in a database URL; SettingsError for a malformed URL, of which libpq would quote a part."""
    try:
        if "://" not in url or _URL.fullmatch(url):
            return conninfo_to_dict(url).get("password")  # type: ignore[return-value]
    except psycopg.Error:
        pass
    raise SettingsError(_MALFORMED)


def beside(conn: Connection) -> Connection:
    """Open another connection to the database of one, as its user, in autocommit mode; errors as of ``connect``."""
    try:
        return psycopg.connect(
            conn.info.dsn, password=conn.info.password or None, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
        )
    except psycopg.OperationalError as error:
        raise _unusable(error) from error


def _unusable(error: psycopg.OperationalError) -> RetryableError:
    """The error of a server that takes no connection."""
    detail = str(error).strip() or type(error).__name__
    cure = "check HEAL_DATABASE_URL, or start the embedded server (make up)"
    if "too many c" in detail or "connection slots" in detail:  # libpq gives no code of an error at the beginning
        cure = "raise max_connections or the role's CONNECTION LIMIT, or run fewer tasks at a time"
    return RetryableError(f"Postgres cannot be used right now: {detail}; {cure}")


def database_identity(conn: Connection) -> tuple[int, int]:
    """The server and the database of a connection as numbers, however its URL is spelled."""
    query = "SELECT system_identifier, oid FROM pg_control_system(), pg_database WHERE datname = current_database()"
    ((server, database),) = conn.execute(query).fetchall()
    return server, database


def register(conn: Connection) -> None:
    """Register pgvector's type, if the database has the extension, before a cursor uses it."""
    from pgvector.psycopg import register_vector

    if TypeInfo.fetch(conn, "vector") is not None:
        register_vector(conn)


def check_versions(conn: Connection) -> None:
    """Raise StoreError for an encoding without all scripts, and for versions that corrupt indexes or lack features."""
    if (server := conn.info.server_version // 10000) < MIN_SERVER:
        raise StoreError(f"Postgres {server} is too old: {MIN_SERVER} or newer is needed")
    ((encoding,),) = conn.execute("SHOW server_encoding").fetchall()
    if encoding != "UTF8":
        raise StoreError(
            f"the database's encoding is {encoding}, which cannot hold all texts; make one with CREATE DATABASE name "
            "ENCODING 'UTF8' TEMPLATE template0, and set HEAL_DATABASE_URL to it"
        )
    ((found,),) = conn.execute(
        "SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
        "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector'))"
    ).fetchall()
    wanted = ".".join(map(str, MIN_PGVECTOR))
    if found is None:
        raise StoreError(f"pgvector is not installed on this server; install version {wanted} or newer")
    if tuple(map(int, found.split("."))) < MIN_PGVECTOR:
        raise StoreError(
            f"pgvector {found} corrupts HNSW indexes on vacuum; install {wanted} or newer, "
            "then ALTER EXTENSION vector UPDATE"
        )


def is_lost(error: psycopg.Error) -> bool:
    """True if the connection is gone: the network, or a server that stops; a new one can then do the same."""
    state = error.sqlstate
    # libpq itself reports no state.
    return state.startswith(("08", "57P0")) if state else isinstance(error, psycopg.OperationalError)


def is_fault_of_values(error: psycopg.Error) -> bool:
    """True if the server refused a statement for its values: malformed, in conflict, or beyond a limit of Postgres."""
    return (error.sqlstate or "").startswith(("22", "23", "54"))


def storable_json(value: object) -> object:
    """A JSON value that a ``jsonb`` column takes: as ``storable`` for every text, NaN and infinity as null."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {storable(str(key)): storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(item) for item in value]
    return value


def select(conn: Connection, record: type[Record], rest: LiteralString, values: Values = ()) -> list[Record]:
    """Rows of ``SELECT``, the fields of a dataclass or named tuple, and ``rest``, as instances of it."""
    query = sql.SQL("SELECT {} {}").format(sql.SQL(", ").join(_columns(record)), sql.SQL(rest))
    return conn.cursor(row_factory=class_row(record)).execute(query, values).fetchall()


def stream(
    conn: Connection, query: LiteralString | sql.SQL | sql.Composed, values: Values = ()
) -> Generator[tuple[Any, ...]]:
    """Rows of a query, of which this process holds a few thousand at a time; for results as large as the corpus."""
    with conn.transaction(), conn.cursor("stream") as cursor:
        conn.execute("SET LOCAL cursor_tuple_fraction = 1")  # all rows are read, so the plan is for all
        cursor.itersize = _STREAMED_ROWS
        yield from cursor.execute(query, values)


def find(conn: Connection, record: type[Record], rest: LiteralString, values: Values = ()) -> Record | None:
    """The first row as ``select`` gives it, or None."""
    return next(iter(select(conn, record, rest, values)), None)


def insert(cursor: Cursor, table: str, records: Sequence[Any], conflict: LiteralString = "", **before: object) -> int:
    """Insert dataclasses, their texts made storable, beside columns ``before``; return the number of new rows."""
    if not records:
        return 0
    names = [*map(sql.Identifier, before), *_columns(records[0])]
    comma = sql.SQL(", ")
    statement = sql.SQL("INSERT INTO heal.{} ({}) VALUES ({}) {}").format(
        sql.Identifier(table), comma.join(names), comma.join(sql.Placeholder() * len(names)), sql.SQL(conflict)
    )
    rows = [(*before.values(), *astuple(record)) for record in records]
    cursor.executemany(statement, [[storable(item) if isinstance(item, str) else item for item in row] for row in rows])
    return cursor.rowcount


def scalar(conn: Connection, query: LiteralString | sql.SQL | sql.Composed, values: Values = ()) -> Any:
    """The first column of the first row, or None without a row."""
    row = conn.execute(query, values).fetchone()
    return row[0] if row else None


def _columns(record: Any) -> list[sql.Identifier]:
    names = [item.name for item in fields(record)] if is_dataclass(record) else record._fields
    return [sql.Identifier(name) for name in names]
