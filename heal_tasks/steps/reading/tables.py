"""Adopted tables opened for reading, over one connection that cannot write."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from heal_tasks.core.settings import Settings
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.adopted.user_table import UserTable, reading_connection
from heal_tasks.store.db import Connection

OpenTable = Callable[[str], UserTable]
"""Opens an adopted table by its source."""


@contextmanager
def reading_tables(settings: Settings) -> Iterator[OpenTable]:
    """Open adopted tables by their sources; the connection is made for the first one and closed with the block."""
    with ExitStack() as held:
        opened: list[Connection] = []

        def open_table(source: str) -> UserTable:
            if not opened:
                opened.append(held.enter_context(reading_connection(settings.require_database_url())))
            return UserTable(opened[0], AdoptedRepository(opened[0]).get(source))

        yield open_table
