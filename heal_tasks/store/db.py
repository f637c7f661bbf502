"""Connections: psycopg with pgvector's type registered, and driver errors turned into this project's own."""

import math
from collections.abc import Mapping
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg.types import TypeInfo
from psycopg.types.json import JsonbDumper

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.core.text import storable

Connection = psycopg.Connection[tuple[Any, ...]]

MIN_SERVER, NEWEST_TRIED = 15, 18
MIN_PGVECTOR = (0, 8, 5)
CONNECT_TIMEOUT_S = 15


class Repository:
    """Reads and writes over an autocommit connection, or over one whose transaction the caller ends."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn


def connect(url: str, *, autocommit: bool = False) -> Connection:
    """Open a connection to a ``postgresql://`` URL; use it as a context manager to commit and close.

    Dictionaries are written as ``jsonb``. pgvector's type is registered if the extension exists, so call ``register``
    after creating the extension.

    Raises:
        RetryableError: the server cannot be reached.
    """
    try:
        conn = psycopg.connect(url, autocommit=autocommit, connect_timeout=CONNECT_TIMEOUT_S, application_name="heal")
    except psycopg.OperationalError as error:
        detail = str(error).strip() or type(error).__name__
        raise RetryableError(f"Postgres cannot be used right now: {detail}; check HEAL_DATABASE_URL") from error
    conn.adapters.register_dumper(dict, JsonbDumper)
    register(conn)
    return conn


def register(conn: Connection) -> None:
    """Register pgvector's type, if the database has the extension, before a cursor uses it."""
    if TypeInfo.fetch(conn, "vector") is not None:
        register_vector(conn)


def check_versions(conn: Connection) -> None:
    """Raise StoreError for servers and pgvector versions that corrupt indexes or lack features relied on."""
    if (server := conn.info.server_version // 10000) < MIN_SERVER:
        raise StoreError(f"Postgres {server} is too old: {MIN_SERVER} or newer is needed")
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
