"""A few database connections that threads share; they stay open, because a session keeps the plans of searches."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from heal_tasks.core.errors import InputError, RetryableError, StoreError
from heal_tasks.store.db import Connection, connect, is_fault_of_values

MOST = 8

_NOT_READABLE = (
    psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)  # fmt: skip


class Connections:
    """Autocommit connections to one database, opened when they are needed; ``vectors`` as in ``connect``."""

    def __init__(self, url: str, *, vectors: bool = True) -> None:
        self._url, self._vectors = url, vectors
        self._free: queue.LifoQueue[Connection | None] = queue.LifoQueue()
        for _ in range(MOST):
            self._free.put(None)
        self._closed = False

    def connect(self) -> Connection:
        """A new connection, which the caller closes."""
        conn = connect(self._url, autocommit=True, vectors=self._vectors)
        conn.prepare_threshold = None  # a pooler gives each transaction to another session
        return conn

    @contextmanager
    def take(self) -> Iterator[Connection]:
        """A connection for the block; a lost one is a RetryableError, and the next blocks get new ones.

        A value that the database refuses is an InputError; a database without schema heal, or without the right to read
        it, is a StoreError.
        """
        conn = self._free.get()
        try:
            if self._closed:
                raise StoreError("the connections have been closed; make a new client")
            if conn is None:
                conn = self.connect()
                conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # of explicit transactions
            yield conn
        except psycopg.DataError as error:
            raise InputError(f"the database refused an argument: {error.diag.message_primary or error}") from error
        except _NOT_READABLE as error:
            raise StoreError(
                f"{error.diag.message_primary}; check that it is the right database, that it has been migrated, and "
                "that its user has been granted heal_reader"
            ) from error
        except psycopg.OperationalError as error:
            if is_fault_of_values(error):
                raise InputError(f"the database refused the request: {str(error).strip()}; make it smaller") from error
            self._close_idle()  # what has ended this one has ended them, too
            raise RetryableError(f"the database does not answer: {str(error).strip()}") from error
        finally:
            if conn and self._closed:
                conn.close()
            self._free.put(None if conn is None or conn.closed else conn)

    def close(self) -> None:
        """Close all connections, those in use after their blocks."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for conn in idle:
            if conn:
                conn.close()
            self._free.put(None)
