"""A database server whose disk is full while a generation is copied in or indexed: the live one still serves."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from heal_tasks.core.errors import RetryableError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.vectors import indexing
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.migrate import migrate
from tests.conftest import TEMPLATE
from tests.e2e.kill_points import counted
from tests.e2e.scarcity import SmallDatabase, fill, free, row, small_disk
from tests.e2e.store_state import leftovers
from tests.steps.planted_store import build
from tests.steps.planted_store import fill as plant
from tests.steps.planted_store import publish as published
from tests.steps.test_maintain import maintain
from tests.steps.test_publish import publish


@pytest.fixture
def small(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Settings, Path]]:
    """A deployment whose tables are on a small disk, and that disk."""
    monkeypatch.setattr(indexing, "EXACT_ROWS", 10)
    with small_disk(Path(f"{postgres.data_dir}.tables"), 100) as disk:
        database = SmallDatabase(postgres, "small", tmp_path, tmp_path)
        database.on(disk)
        try:
            yield load_settings(var_dir=tmp_path, database_url=database.begin(TEMPLATE), drain_hours=0.0), disk
        finally:
            database.end()


def answers(conn: Connection) -> list[object]:
    return conn.execute("SELECT chunk_id, generation_id FROM heal.embedding ORDER BY 1").fetchall()


@pytest.mark.parametrize("statement", ["COPY ", "USING hnsw"])
def test_what_is_served_stays_while_the_next_generation_has_no_space(
    small: tuple[Settings, Path], statement: str, table: Callable[[str], None]
) -> None:
    settings, disk = small
    filled = list[str]()

    def before(text: str) -> None:
        if statement in text and not filled:
            filled.append(text)
            fill(disk)

    with connect(settings.require_database_url(), autocommit=True) as conn:
        plant(conn)
        published(conn, "live", 1)
        made, seen = build(conn, "m", 2), answers(conn)
        words = "step publish: the disk of the database server is full; free space there, then run it again"
        with counted(before), pytest.raises(RetryableError, match=words) as full:
            publish(settings, made)
        assert filled
        assert answers(conn) == seen
        free(disk)
        assert publish(settings, made).number("went_live") == made.generation_id
        active = GenerationRepository(conn).active()
        assert active
        assert len(ServedRepository(conn).load_served(active).chunk_ids) == len(seen)
        assert active.index_kind == "vector"
        maintain(settings)
        assert leftovers(conn) == []
    table(row("server disk", "publish", statement, str(full.value), "as undisturbed"))


@pytest.mark.usefixtures("soaking")
def test_a_server_that_cannot_write_its_log_is_lost_and_comes_back_with_everything(
    tmp_path: Path, table: Callable[[str], None]
) -> None:
    """Postgres stops at once then."""
    folder = Path(tempfile.mkdtemp(prefix="heal-small-"))
    folder.chmod(0o711)
    with ExitStack() as held:
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        disk = held.enter_context(small_disk(folder / "disk", 400))
        disk.chmod(0o711)
        server = EmbeddedPostgres(disk / "data")
        server.start()
        held.callback(server.stop)
        settings = load_settings(var_dir=tmp_path, database_url=server.ensure_database("heal"), drain_hours=0.0)
        with connect(settings.require_database_url(), autocommit=True) as conn:
            migrate(conn)
            plant(conn)
            published(conn, "live", 1)
            made, seen = build(conn, "m", 2), answers(conn)
            fill(disk)
            with pytest.raises(psycopg.OperationalError, match=r"pg_wal|server closed the connection"):
                while True:  # until the log needs its next file
                    conn.execute("SELECT pg_logical_emit_message(true, 'heal', repeat('x', 1000000))")
        with pytest.raises(RetryableError, match=r"cannot be used right now|lost the database|is full") as lost:
            publish(settings, made)
        free(disk)
        server.start()
        with connect(settings.require_database_url(), autocommit=True) as conn:
            assert answers(conn) == seen
            assert publish(settings, made).number("went_live") == made.generation_id
            maintain(settings)
            assert leftovers(conn) == []
        table(row("server disk", "publish", "log of the server", str(lost.value), "as undisturbed"))
