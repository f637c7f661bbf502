"""A database of version 0.1.0 with its data is migrated; code and schema of two versions refuse each other."""

import unicodedata
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.search import search
from heal_tasks.store.migrate import apply_files, migrate
from tests.e2e.store_state import differences, state_of
from tests.field.older import older_copy, prepare
from tests.steps.asking import ask
from tests.steps.planted_systems import plant_systems

LATER = "INSERT INTO heal.schema_migration VALUES ('999_later.sql', 'x')"


@pytest.fixture
def older_url(postgres: EmbeddedPostgres) -> str:
    """URL of a database with the numbered files before this one, applied as an older version did."""
    url = postgres.ensure_database("older_files")
    with connect(url, autocommit=True) as conn:
        prepare(conn)
    return url


def test_files_quarantine_and_names_of_an_older_version(older_url: str) -> None:
    spelled = unicodedata.normalize("NFD", "café")
    with connect(older_url, autocommit=True) as conn:
        for path, clean in (("good.txt", True), ("partly.jsonl", False), ("spelled.jsonl", True)):
            conn.execute("INSERT INTO heal.source_file VALUES ('file:/a', %s, 'print', %s)", (path, clean))
        conn.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
            "VALUES (1, 'file:/a', %s, 'spelled.jsonl', '', 'b', 'h'), (2, 'file:/a', 'x', 'good.txt', '', 'b', 'i')",
            (spelled,),
        )
        reason = "x" * 120
        for number, end in enumerate(("a", "b", "c")):
            conn.execute(
                "INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw) "
                "VALUES (%s, 'file:/a', 'p', 1, %s, '')",
                (f"r{number}", reason + end),
            )
        folder = files("heal_tasks.store") / "sql"
        name = "009_source_files.sql"
        assert apply_files(conn, {name: (folder / name).read_text("utf-8")}) == [name]
        rows = conn.execute("SELECT path, fingerprint, state FROM heal.source_file ORDER BY path").fetchall()
        assert rows == [
            ("good.txt", "print", "read"), ("partly.jsonl", "print", "partly"), ("spelled.jsonl", "", "read"),
        ]  # fmt: skip
        assert conn.execute("SELECT run_id, records, mended_at FROM heal.quarantine").fetchall() == [("r2", 1, None)]


def test_a_store_of_the_first_version_keeps_everything(
    postgres: EmbeddedPostgres, auto: Connection, settings: Settings, tmp_path: Path
) -> None:
    live = plant_systems(auto, settings)
    ask(settings, "r1")
    with (
        older_copy(postgres, settings.require_database_url(), "older_store", tmp_path) as url,
        connect(url, autocommit=True) as conn,
    ):
        older = load_settings(var_dir=tmp_path, database_url=url)
        with pytest.raises(StoreError, match="older than this version; run `python -m heal_tasks migrate`"):
            load_step("ingest").run(older, Manifest(run_id="r2"))
        assert migrate(conn)[0].startswith("009")
        assert differences(state_of(conn), state_of(auto)) == []
        (vector,) = auto.execute("SELECT embedding FROM heal.vec_g000001 LIMIT 1").fetchone()  # type: ignore[misc]
        found = [search(each, vector.to_numpy(), live.generation_id) for each in (conn, auto)]
        assert found[0][0] == found[1][0], "the others are equally far"


def refused(settings: Settings, match: str) -> None:
    for work in (lambda: ask(settings, "r"), lambda: load_step("ingest").run(settings, Manifest(run_id="r"))):
        with pytest.raises(StoreError, match=match):
            work()


def test_a_newer_schema_is_refused_and_stays_as_it_is(auto: Connection, settings: Settings) -> None:
    auto.execute(f"{LATER}; UPDATE heal.schema_migration SET sha256 = 'newer' WHERE name LIKE 'api%'".encode())
    before = auto.execute("SELECT * FROM heal.schema_migration ORDER BY 1").fetchall()
    newer = r"of a newer version of heal_tasks \(999_later\.sql\); install that version"
    with pytest.raises(StoreError, match=newer):
        migrate(auto)
    refused(settings, newer)
    assert auto.execute("SELECT * FROM heal.schema_migration ORDER BY 1").fetchall() == before


def test_functions_of_another_version_are_refused(auto: Connection, settings: Settings) -> None:
    auto.execute("UPDATE heal.schema_migration SET sha256 = 'other' WHERE name = 'api_find.sql'")
    refused(settings, "the functions in the database's schema heal are of another version")
    assert migrate(auto) == ["api_find.sql"]
    assert ask(settings, "r").counts["asked"] == 0


def dropped(conn: Connection) -> None:
    conn.execute("ALTER TABLE heal.run RENAME COLUMN verdict TO outcome")


def widened(conn: Connection) -> None:
    conn.execute("ALTER TABLE heal.run ADD COLUMN later text")


@pytest.mark.parametrize("change", [dropped, widened])
def test_a_step_whose_schema_is_migrated_meanwhile_says_so(
    auto: Connection, settings: Settings, change: Callable[[Connection], None]
) -> None:
    def body(context: Context) -> Outcome:
        query = "SELECT *, verdict FROM heal.run"
        for _ in range(10):  # so that the statement is prepared
            context.conn.execute(query)
        change(auto)
        auto.execute(LATER)
        context.conn.execute(query)
        return Outcome()

    with pytest.raises(StoreError, match=r"step old met another schema than it began with: .* newer version"):
        Step("old", body, None).run(settings, Manifest(run_id="r"))
    ((message,),) = auto.execute("SELECT message FROM heal.step_result WHERE step = 'old'").fetchall()
    assert "met another schema" in message
