"""A new user of each role, in the database of the test."""

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from heal_tasks.local.postgres import EmbeddedPostgres

_numbers = itertools.count(1)


@pytest.fixture
def login(postgres: EmbeddedPostgres, database_url: str) -> Iterator[dict[str, str]]:
    """URLs of this test's database, as a new user of each role."""
    urls, names = {}, []
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        for role in ("heal_owner", "heal_pipeline", "heal_reader"):
            name = f"field_{role}_{next(_numbers)}"
            names.append(name)
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x' IN ROLE {}").format(*map(sql.Identifier, (name, role)))
            )
            database = database_url.rsplit("/", 1)[1]
            admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(*map(sql.Identifier, (database, name))))
            urls[role] = f"postgresql://{name}:x@{database_url.split('@')[1]}"
        yield urls
    with psycopg.connect(database_url, autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.Identifier(name)))
