"""The sources of the settings, opened by their specs; adopted tables over one connection that cannot write."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from heal_tasks.core.settings import Settings
from heal_tasks.sources.base import OpenSource, open_source
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.adopted.user_table import UserTable, reading_connection
from heal_tasks.store.db import Connection

Open = Callable[[str], OpenSource]
"""Opens a source by its spec, as ``open_source`` does, with its errors."""


@contextmanager
def opening_sources(settings: Settings) -> Iterator[Open]:
    """Open sources by their specs; the connection is made for the first adopted table and closed with the block."""
    with ExitStack() as held:
        opened: list[Connection] = []

        def open_adopted(source: str) -> UserTable:
            if not opened:
                opened.append(held.enter_context(reading_connection(settings.require_database_url())))
            return UserTable(opened[0], AdoptedRepository(opened[0]).get(source))

        yield partial(
            open_source,
            s3_endpoint_url=settings.s3_endpoint_url,
            tables=settings.source_tables,
            open_adopted=open_adopted,
        )
