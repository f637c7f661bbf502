"""A store as version 0.1.0 had it: its numbered files, with the rows of a store of today in the columns that it had."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import psycopg
from psycopg import sql

from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.migrate import apply_files

FIRST = "009"
"""The first numbered file that version 0.1.0 did not have."""
VECTORS = "'^((base|question)_s|(vec|lex|push)_g)[0-9]+$'"
REPLACED = {"source_file": ("clean", "state = 'read'")}
"""Columns that are no more, and what they were made into."""
FUNCTION = """CREATE FUNCTION heal.vector_table(generation_id bigint, prefix text DEFAULT 'vec')
    RETURNS text LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT prefix || '_g' || lpad(generation_id::text, greatest(6, length(generation_id::text)), '0') $$"""

_TABLES = (
    "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r' "
    f"AND c.relname !~ {VECTORS} AND c.relname <> 'schema_migration'"
)
_COLUMNS = (
    "SELECT a.attname FROM pg_attribute a WHERE a.attrelid = format('heal.%%I', %s::text)::regclass AND a.attnum > 0 "
    "AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum"
)


def prepare(conn: Connection) -> None:
    """The schema of version 0.1.0, of its functions only the one that migrations need, in an empty database."""
    folder = files("heal_tasks.store") / "sql"
    numbered = {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name < FIRST}
    conn.execute("CREATE EXTENSION vector; CREATE SCHEMA heal")
    conn.execute(
        "CREATE TABLE heal.schema_migration "
        "(name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    apply_files(conn, numbered)
    conn.execute(FUNCTION)


@contextmanager
def older_copy(server: EmbeddedPostgres, url: str, name: str, folder: Path) -> Iterator[str]:
    """The URL of a new database with the schema of version 0.1.0 and the rows of a store; it is dropped in the end."""
    target, dump = server.ensure_database(name), folder / f"{name}.dump"
    with connect(target, autocommit=True) as old:
        prepare(old)
    with connect(url, autocommit=True) as new, connect(target, autocommit=True) as old:
        old.execute("SET session_replication_role = replica")  # rows come in any order
        for (table,) in old.execute(_TABLES.encode()).fetchall():
            _copy(new, old, table)
    tables = ("--table", "heal.base_s0*", "--table", "heal.question_s0*", "--table", "heal.*_g0*")
    program(server, "pg_dump", "--format=custom", *tables, "--file", str(dump), url)
    program(server, "pg_restore", "--no-owner", "--no-privileges", "--dbname", target, str(dump))
    try:
        yield target
    finally:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def program(server: EmbeddedPostgres, name: str, *arguments: str) -> None:
    """Run one of the server's own programs."""
    done = subprocess.run([str(server.bin(name)), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _copy(new: Connection, old: Connection, table: str) -> None:
    both = [[column for (column,) in conn.execute(_COLUMNS.encode(), (table,)).fetchall()] for conn in (old, new)]
    names = [column for column in both[0] if column in both[1]]
    values = [sql.Identifier(name) for name in names]
    read: list[sql.Composable] = [*values]
    if table in REPLACED:
        was, now = REPLACED[table]
        values.append(sql.Identifier(was))
        read.append(sql.SQL(now))  # type: ignore[arg-type]
    source = sql.SQL("COPY (SELECT {} FROM heal.{}) TO STDOUT").format(sql.SQL(", ").join(read), sql.Identifier(table))
    target = sql.SQL("COPY heal.{} ({}) FROM STDIN").format(sql.Identifier(table), sql.SQL(", ").join(values))
    with new.cursor().copy(source) as rows, old.cursor().copy(target) as into:
        for block in rows:
            into.write(block)
    for column in names:  # so that new rows get new numbers
        found = old.execute("SELECT pg_get_serial_sequence(%s, %s)", (f"heal.{table}", column)).fetchone()
        if found and found[0]:
            old.execute(
                sql.SQL("SELECT setval({}, (SELECT coalesce(max({}), 0) + 1 FROM heal.{}))").format(
                    sql.Literal(found[0]), sql.Identifier(column), sql.Identifier(table)
                )
            )
