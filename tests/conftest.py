"""Fixtures for every package: one embedded Postgres per session, a fresh migrated database per test."""

import contextlib
import functools
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql

from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.migrate import migrate

# On a shared machine an example that takes long says nothing about the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

TEMPLATE = "heal_template"
LINE = "line of the table"
SERVER_BYTES = 4 << 30
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", choices=("16", "18"), default="18", help="major version of the server under test")
    parser.addoption("--soak", action="store_true", help="try everything (make soak), not only what takes seconds")
    parser.addoption("--nights-seed", type=int, default=1, help="of what happens in thirty nights")


def pytest_collection_finish() -> None:
    """Keep what is imported out of garbage collections: every training makes one, which took a second otherwise."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one table of what was tried in ``make soak``, whichever processes the tests ran in."""
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        lines = [str(value) for name, value in report.user_properties if name == LINE]
        if lines and config.getoption("--soak"):
            terminalreporter.section(report.nodeid, "-")
            for line in lines:
                terminalreporter.line(line)


class Postgres16(EmbeddedPostgres):
    """The older server that the wheel brings."""

    programs = "pginstall"
    locale = ("--locale=C.UTF-8",)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The command line narrows the umask of its process; each test has its own."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def in_memory() -> Path | None:
    """A file system in memory with room for a server, where a database is copied in a third of the time."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > SERVER_BYTES else None


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A running server with a migrated template database."""
    # Not below pytest's own folder: its mode 700 would keep out the account that serves root in containers.
    folder = Path(tempfile.mkdtemp(prefix="heal-postgres-", dir=in_memory()))
    folder.chmod(0o711)
    server = (Postgres16 if request.config.getoption("--postgres") == "16" else EmbeddedPostgres)(folder / "data")
    server.start()
    try:
        # Tests make and drop a database each; what they write need not outlive a power cut.
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET fsync = off")
            admin.execute("ALTER SYSTEM SET full_page_writes = off")
            # It passes once a minute, sometimes between a test's own statements: dead rows and plans would be its luck.
            admin.execute("ALTER SYSTEM SET autovacuum = off")
            admin.execute("SELECT pg_reload_conf()")
        with connect(server.ensure_database(TEMPLATE)) as conn:
            migrate(conn)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fresh_database(server: EmbeddedPostgres, template: str = TEMPLATE) -> Iterator[str]:
    """URL of a database of its own: migrated and empty, or a copy of one that nobody is connected to."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template.rpartition("/")[2])
            )
        )
        yield server.url(name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """URL of a fresh, migrated, empty database."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """URL of a migrated database that the tests of one module share."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    """A connection to a fresh, migrated, empty database."""
    with connect(database_url) as connection:
        yield connection


@pytest.fixture
def auto(database_url: str) -> Iterator[Connection]:
    """An autocommit connection, as steps use it, to a fresh, migrated, empty database."""
    with connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Settings with all state in the test's folder and a fresh database."""
    return load_settings(var_dir=tmp_path, database_url=database_url)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make Airflow's plugins importable, with an Airflow home of its own for what importing Airflow writes."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("airflow")
        patch.setenv("AIRFLOW_HOME", str(home))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{home}/airflow.db")
        patch.syspath_prepend(str(Path(__file__).parents[1] / "plugins"))
        yield


@pytest.fixture(scope="module")
def airflow_database(plugins: None) -> None:
    """Airflow's own tables, empty."""
    from airflow import settings
    from airflow.models import import_all_models
    from airflow.models.base import Base

    import_all_models()
    Base.metadata.create_all(settings.engine)


@pytest.fixture
def airflow_user(airflow_database: None) -> Iterator[Callable[[str | None], None]]:
    """Log a user with a role of Airflow's in to the plugin's pages; None: without a role."""
    import heal_reports
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    init_auth_manager()
    app = heal_reports.build_app("")

    def log_in(role: str | None) -> None:
        app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="somebody", role=role)

    yield log_in
    app.dependency_overrides.clear()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """URL of an S3 server."""
    from moto.server import ThreadedMotoServer  # takes a second

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """True in ``make soak``."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def soaking(soak: bool) -> None:
    """Leave out what ``make soak`` alone runs, because quicker tests try the same in smaller parts."""
    if not soak:
        pytest.skip("make soak runs it (--soak)")


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Add a line to the table that ``make soak`` prints."""
    return functools.partial(record_property, LINE)
