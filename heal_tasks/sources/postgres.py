"""Rows of a table, view or query of another Postgres as documents.

Rows are listed in blocks of about 16 by their key, as JSON Lines files whose version is a hash of keys and times of
change. So a listing sends keys and times only, a run reads the blocks with a change, and a row that is gone is missing
from its block. Blocks begin at keys with a certain hash, so that a new row changes no other block than its own.

Everything is read in short read-only transactions with server-side cursors.
"""

import hashlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from heal_tasks.core.acl import ACL_FIELD
from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.ids import natural_key, sha256_hex
from heal_tasks.core.redaction import remember_url
from heal_tasks.core.source_tables import SourceTable
from heal_tasks.core.types import SourceFile

BLOCK_ROWS, MOST_ROWS = 16, 32
"""Mean and largest size of a block: 32 rows of 2 MB, the longest document, are as large as a file may be by default."""
STATEMENT_TIMEOUT_S = 300
LOCK_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 15
_FETCHED = 1000
"""Rows of a listing that are in memory at a time."""
_FETCHED_WHOLE = 20

_NO_METADATA = ["bytea", "tsvector", "vector", "halfvec", "sparsevec"]
"""Types of columns that are taken only if they are named."""
_RETRYABLE = ("08", "40", "53", "55P03", "57P0")
"""Lost connections, conflicts, too many connections or no memory, lock timeouts, a server that stops."""


class _Block(NamedTuple):
    first: Any  # keys, as the database gives them
    last: Any
    rows: int
    digest: str


class _Columns(NamedTuple):
    key: str
    wanted: Sequence[str]  # of the documents; the key is one of them
    updated_at: str | None
    deleted: str | None


class PostgresSource:
    """The rows of ``location`` (SCHEMA.TABLE) or ``query`` at the database of ``url_env``."""

    def __init__(self, table: SourceTable) -> None:
        self._table = table
        url = table.text("url")
        if not url:
            raise table.wrong("url_env", "is missing; name the variable that has postgresql://USER:PASSWORD@HOST/DB")
        remember_url(url)
        self._url = url
        self._conn: psycopg.Connection[tuple[Any, ...]] | None = None
        self._columns: _Columns | None = None
        self._blocks: dict[str, _Block] = {}
        query = table.text("query").strip().rstrip(";")
        if query:
            text: LiteralString = query.replace("%", "%%")
            self._rows: sql.Composable = sql.SQL("(\n{}\n)").format(sql.SQL(text))
        else:
            self._rows = _name(*table.location.split("."))

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; rows without a key are left out as one file."""
        with self._explained(), self._transaction() as conn:
            columns = self._known_columns(conn)
            with conn.cursor(name="heal_list") as cursor:
                cursor.itersize = _FETCHED
                cursor.execute(self._listing(columns), ())
                for block in _blocks(cursor):
                    if block.first is None:
                        reason = f"rows without {columns.key}"
                        yield SourceFile(f"{reason}.jsonl", "", 0, left_out=reason)
                        continue
                    key = str(block.first)
                    path = f"rows from {key if natural_key(key) == key else sha256_hex(key)[:32]}.jsonl"
                    self._blocks[path] = block
                    yield SourceFile(path, f"{block.rows}-{block.digest}", 0)

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``; a line has the columns of a row."""
        block = self._blocks.get(file.path)
        if block is None:
            raise SourceError(f"{file.path} is not listed any more; list the source again")
        parts, size = list[bytes](), 0
        with self._explained(), self._transaction() as conn:
            columns = self._known_columns(conn)
            query = sql.SQL(
                "SELECT to_jsonb(item)::text FROM ({}) item WHERE item.{key} BETWEEN %s AND %s ORDER BY item.{key}"
            )
            with conn.cursor(name="heal_read") as cursor:
                cursor.itersize = _FETCHED_WHOLE
                key = _name(columns.key)
                cursor.execute(query.format(self._wanted(columns), key=key), (block.first, block.last))
                for (text,) in cursor:
                    parts.append(f"{text}\n".encode())
                    size += len(parts[-1])
                    if size > limit:
                        break
        return b"".join(parts)[: limit + 1]

    def _listing(self, columns: _Columns) -> sql.Composed:
        """Keys in order, each with the time of its row's change, or a hash of the row where there is none."""
        version: sql.Composable = sql.SQL("md5(to_jsonb(item)::text)")
        if columns.updated_at:
            version = sql.SQL("coalesce(item.{}::text, {})").format(_name(columns.updated_at), version)
        query = sql.SQL("SELECT item.{key}, {} FROM ({}) item ORDER BY item.{key}")
        return query.format(version, self._wanted(columns), key=_name(columns.key))

    def _wanted(self, columns: _Columns) -> sql.Composed:
        """The rows that are not deleted, with the columns of the documents."""
        names = sql.SQL(", ").join(map(_name, columns.wanted))
        query = sql.SQL("SELECT {} FROM {} all_rows").format(names, self._rows)
        if columns.deleted:
            condition = sql.SQL(" WHERE {0} IS NULL OR {0}::text IN ('false', '0')")
            query += condition.format(_name(columns.deleted))
        return query

    def _known_columns(self, conn: psycopg.Connection[Any]) -> _Columns:
        if self._columns is None:
            shown = conn.execute(sql.SQL("SELECT * FROM {} all_rows LIMIT 0").format(self._rows), ()).description or []
            types = conn.execute("SELECT oid FROM pg_type WHERE typname = ANY(%s)", (_NO_METADATA,)).fetchall()
            left_out = {item.name for item in shown if (item.type_code,) in types}
            self._columns = self._choose([item.name for item in shown], left_out)
        return self._columns

    def _choose(self, names: Sequence[str], left_out: Collection[str]) -> _Columns:
        """Find the columns that the table's fields name, in any case."""
        fields, lower = self._table.rule.fields, {name.lower(): name for name in reversed(names)}

        def column(key: str, name: str) -> str:
            found = name if name in names else lower.get(name.lower())
            if found is None:
                raise self._table.wrong(key, f"is {name!r}, and there is no such column; there are {', '.join(names)}")
            return found

        key = column("fields.key", fields.key)
        texts = [column("fields.text", name) for name in fields.text]
        if not texts and not (texts := [lower[name] for name in ("text", "body") if name in lower]):
            raise self._table.wrong("fields.text", f"is missing; choose columns of {', '.join(names)}")
        updated_at = column("fields.updated_at", fields.updated_at) if fields.updated_at else None
        deleted = column("deleted", self._table.text("deleted")) if self._table.text("deleted") else None
        if fields.metadata is None:
            others = [name for name in names if name not in left_out and name != deleted]
        else:
            others = [column("fields.metadata", name) for name in fields.metadata]
            others += [lower[ACL_FIELD]] if ACL_FIELD in lower else []
        if (title := lower.get(fields.title.lower())) is not None:
            others.append(title)
        elif fields.title != "title":
            column("fields.title", fields.title)
        wanted = dict.fromkeys((key, *texts, *others, *filter(None, (updated_at,))))
        return _Columns(key, list(wanted), updated_at, deleted)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        if self._conn is None or self._conn.closed:
            try:
                self._conn = psycopg.connect(
                    self._url, connect_timeout=CONNECT_TIMEOUT_S, application_name="heal", client_encoding="utf8"
                )
            except (psycopg.ProgrammingError, UnicodeError):  # libpq quotes a part of what it cannot parse
                shape = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %40 for @, %2F for /"
                raise self._table.wrong("url_env", f"its variable has a malformed URL; write {shape}") from None
            self._conn.read_only = True
        with self._conn.transaction():
            self._conn.execute(
                f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'; "
                f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'"
            )
            yield self._conn

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn psycopg's errors into retryable and other errors that say what to do."""
        name = self._table.name
        try:
            yield
        except psycopg.Error as error:
            detail = str(error).strip().partition("\n")[0] or type(error).__name__
            state = error.sqlstate
            lost = isinstance(error, psycopg.OperationalError) if state is None else state.startswith(_RETRYABLE)
            if lost:  # libpq itself reports no state
                raise RetryableError(f"source {name!r}: Postgres cannot be used right now: {detail}") from error
            cure = {
                "57014": f"it took more than {STATEMENT_TIMEOUT_S} s; make an index on the key, or narrow the query",
                "42501": "grant SELECT to this user",
                "42P01": "correct location or query, or the database in the URL",
            }.get(state or "", "correct location or query")
            raise SourceError(f"source {name!r}: Postgres refused ({detail}); {cure}") from error


def _name(*parts: str) -> sql.Identifier:
    """A name in a statement with parameters, in which a percent sign is written twice."""
    return sql.Identifier(*(part.replace("%", "%%") for part in parts))


def _blocks(rows: Iterator[tuple[Any, str]]) -> Iterator[_Block]:
    """Blocks of rows in the order of their keys; rows without a key, the last, make one without keys."""
    first = last = None
    count, digest = 0, hashlib.blake2b(digest_size=16)
    for key, version in rows:
        starts = count >= MOST_ROWS or zlib.crc32(str(key).encode()) % BLOCK_ROWS == 0
        if count and key != last and (starts or key is None):
            yield _Block(first, last, count, digest.hexdigest())
            count, digest = 0, hashlib.blake2b(digest_size=16)
        if not count:
            first = key
        last = key
        count += 1
        digest.update(f"{key}\0{version}\n".encode("utf-8", "surrogatepass"))
    if count:
        yield _Block(first, last, count, digest.hexdigest())
