"""Locks of the pipeline cannot be taken by a reader."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from heal_tasks.core.ids import document_id
from heal_tasks.core.settings import Settings
from heal_tasks.store import grants
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.chunks import lock_exclusive, lock_shared
from heal_tasks.store.llm.batches import BatchRepository
from heal_tasks.store.llm.ledger import SpendLimit
from heal_tasks.store.migrate import migrate
from tests.steps.planted_store import fill, publish
from tests.steps.test_maintain import maintain
from tests.store.sample_store import SOURCE, SampleStore

VIEWS = {f"heal.{name}" for name in grants.VIEWS}
NAMES = ("heal.corpus", "heal.activate", "heal.space", "heal.llm_spend_limit", "heal.migrate")


def work(conn: Connection) -> None:
    """Everything that takes a lock."""
    conn.execute("SET lock_timeout = '3s'")
    store = SampleStore(conn)
    store.load_many(4)
    store.publish(store.generation("m"))
    store.documents.delete([document_id(SOURCE, "d1")])
    conn.execute("SELECT heal.delete_document(document_id) FROM heal.document WHERE external_id = 'd2'")
    SpendLimit(conn, "r", run_usd=1, day_usd=1).reserve([(1, 0.1)])
    with BatchRepository(conn, "http://x").holding("key") as held:
        assert held
    store.spaces.drop_unused(set())


def test_a_reader_who_holds_every_advisory_key_stops_nobody(auto: Connection, login: dict[str, str]) -> None:
    with connect(login["heal_reader"], autocommit=True) as reader:
        for name in NAMES:
            reader.execute(
                "SELECT pg_advisory_lock(hashtext(%s)), pg_advisory_lock(hashtextextended(%s, 0))", (name, name)
            )
        work(auto)
        assert migrate(auto) == []
        assert auto.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (2 * len(NAMES),)


def test_a_reader_has_no_rights_on_the_tables_that_are_locked(auto: Connection, login: dict[str, str]) -> None:
    tables = [
        name
        for (name,) in auto.execute(
            "SELECT 'heal.' || relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace "
            "AND relkind IN ('r', 'v')"
        )
        if name not in VIEWS
    ]
    assert sum(".lock_" in name for name in tables) >= 5
    with connect(login["heal_reader"], autocommit=True) as reader:
        for name in tables:
            for mode in ("ACCESS SHARE", "ROW SHARE", "SHARE", "EXCLUSIVE"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege), reader.transaction():
                    reader.execute(f"LOCK TABLE {name} IN {mode} MODE".encode())


def test_maintenance_leaves_what_somebody_still_reads_for_the_next_time(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.store.spaces.vector_tables.DROP_WAIT_MS", 100)
    fill(auto, 5)
    for number in range(3):
        publish(auto, f"models/{number}", number)
    at_once = settings.model_copy(update={"drain_hours": 0.0})
    with connect(settings.require_database_url()) as backup:
        for table in ("vec_g000001", "question_s000001"):
            backup.execute(f"LOCK TABLE heal.{table} IN ACCESS SHARE MODE".encode())
        counts = maintain(at_once).counts
        assert (counts["generations_dropped"], counts["spaces_dropped"]) == (0, 0)
        assert backup.execute("SELECT count(*) FROM heal.vec_g000001").fetchone() == (6,)
    counts = maintain(at_once, "next").counts
    assert (counts["generations_dropped"], counts["spaces_dropped"]) == (1, 1)
    assert auto.execute("SELECT to_regclass('heal.question_s000001')").fetchone() == (None,)


def test_writers_share_and_deletions_exclude(auto: Connection, login: dict[str, str]) -> None:
    with connect(login["heal_pipeline"]) as one, connect(login["heal_pipeline"]) as two:
        lock_shared(one)
        lock_shared(two)
        two.rollback()
        two.execute("SET lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            lock_exclusive(two)
        two.rollback()
        one.rollback()
        lock_exclusive(two)
        two.rollback()


def test_a_batch_is_held_once_and_free_after_its_holder_is_gone(login: dict[str, str]) -> None:
    with (
        connect(login["heal_pipeline"], autocommit=True) as one,
        connect(login["heal_pipeline"], autocommit=True) as two,
    ):
        with BatchRepository(one, "u").holding("key") as held, BatchRepository(two, "u").holding("key") as second:
            assert (held, second) == (True, False)
            with BatchRepository(two, "u").holding("other") as third:
                assert third
        with BatchRepository(two, "u").holding("key") as held:
            assert held
        assert one.execute("SELECT count(*) FROM heal.lock_llm_batch").fetchone() == (0,)


def test_migrations_of_one_database_wait_for_each_other(auto: Connection, database_url: str) -> None:
    ended: list[float] = []

    def run(body: Callable[[Connection], object]) -> None:
        with connect(database_url, autocommit=True) as conn:
            body(conn)
            ended.append(time.monotonic())

    thread = threading.Thread(target=run, args=(migrate,))
    with auto.transaction():
        auto.execute("LOCK TABLE heal.schema_migration IN EXCLUSIVE MODE")
        thread.start()
        time.sleep(0.5)
        assert not ended
    thread.join(timeout=20)
    assert ended
