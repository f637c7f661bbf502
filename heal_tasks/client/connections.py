"""A few database connections that threads share; they stay open, because a session keeps the plans of searches."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from heal_tasks.core.errors import InputError, RetryableError
from heal_tasks.store.db import Connection, connect, is_fault_of_values

MOST = 8


class Connections:
    """Autocommit connections to one database, opened when they are needed; ``vectors`` as in ``connect``."""

    def __init__(self, url: str, *, vectors: bool = True) -> None:
        self._url, self._vectors = url, vectors
        self._free: queue.LifoQueue[Connection | None] = queue.LifoQueue()
        for _ in range(MOST):
            self._free.put(None)

    def connect(self) -> Connection:
        """A new connection, which the caller closes."""
        conn = connect(self._url, autocommit=True, vectors=self._vectors)
        conn.prepare_threshold = None  # a pooler gives each transaction to another session
        return conn

    @contextmanager
    def take(self) -> Iterator[Connection]:
        """A connection for the block; a lost one is a RetryableError, and the next block gets a new one."""
        conn = self._free.get()
        try:
            if conn is None:
                conn = self.connect()
                conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # of explicit transactions
            yield conn
        except psycopg.OperationalError as error:
            if is_fault_of_values(error):
                raise InputError(f"the database refused the request: {str(error).strip()}; make it smaller") from error
            raise RetryableError(f"the database does not answer: {str(error).strip()}") from error
        finally:
            self._free.put(None if conn is None or conn.closed else conn)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while not self._free.empty():
            if conn := self._free.get():
                conn.close()
