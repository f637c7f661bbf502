"""Brings a database to this version's schema: numbered files once, others when they change, roles every time."""

from importlib.resources import files

import psycopg

from heal_tasks.core.errors import StoreError
from heal_tasks.core.ids import sha256_hex
from heal_tasks.store.db import Connection, check_versions, register

ROLES, RIGHTS = "roles.sql", "rights.sql"


def migrate(conn: Connection) -> list[str]:
    """Apply what is missing, with its record, in one transaction; two callers at once are safe.

    Args:
        conn: a connection without an open transaction, as the owner of the database.

    Returns:
        Names of the files applied, in order; empty where the schema is current. Roles and rights are set each time.

    Raises:
        StoreError: the server or pgvector is too old, the extension may not be created, or a file that was applied
            has been edited since.
    """
    texts = _packaged()
    roles, rights = texts.pop(ROLES), texts.pop(RIGHTS)
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(hashtext('heal.migrate'))")
        check_versions(conn)
        _prepare(conn)
        # The first one ends as heal_owner, if there is one that this user may be.
        conn.execute(roles)
        applied = apply_files(conn, texts)
        conn.execute(rights)
        conn.execute("RESET ROLE")
    register(conn)
    return applied


def apply_files(conn: Connection, texts: dict[str, str]) -> list[str]:
    """Apply what is missing of the SQL given, by file name: numbered files first, the others when they changed."""
    with conn.transaction():
        recorded: dict[str, str] = dict(conn.execute("SELECT name, sha256 FROM heal.schema_migration").fetchall())
        return [
            name
            for name in sorted(texts, key=lambda name: (not _numbered(name), name))
            if _apply(conn, name, texts[name], recorded.get(name))
        ]


def _numbered(name: str) -> bool:
    return name[0].isdigit()


def _packaged() -> dict[str, str]:
    folder = files("heal_tasks.store") / "sql"
    return {item.name: item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".sql")}


def _prepare(conn: Connection) -> None:
    try:
        with conn.transaction():
            conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        raise StoreError(
            "this user may not create the extension vector; let a superuser run CREATE EXTENSION vector in this "
            "database, then migrate again"
        ) from None
    conn.execute("CREATE SCHEMA IF NOT EXISTS heal")
    conn.execute(
        "CREATE TABLE IF NOT EXISTS heal.schema_migration "
        "(name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )


def _apply(conn: Connection, name: str, text: str, recorded: str | None) -> bool:
    digest = sha256_hex(text)
    if digest == recorded:
        return False
    if recorded is not None and _numbered(name):
        raise StoreError(
            f"{name} has been edited after it was applied to this database; restore it and put the change into a "
            "new numbered file"
        )
    conn.execute(text)
    conn.execute(
        "INSERT INTO heal.schema_migration (name, sha256) VALUES (%s, %s) "
        "ON CONFLICT (name) DO UPDATE SET sha256 = EXCLUDED.sha256, applied_at = now()",
        (name, digest),
    )
    return True
