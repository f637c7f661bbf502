"""The demo of adoption: the state that it leaves, how its database is opened, and what it says about moved rows."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heal_tasks.cli import demo_adopt
from heal_tasks.cli.app import app
from heal_tasks.cli.base import console
from heal_tasks.cli.demo_adopt import MOVED, Found, how_to_open
from heal_tasks.core.environment import child_environment
from heal_tasks.core.errors import StepError
from heal_tasks.core.redaction import redacted
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local import langchain_table
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection
from tests.store.sample_store import SampleStore


@pytest.fixture
def var(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The state folder of a demo that ends after its database was made."""
    folder = Path(tempfile.mkdtemp(prefix="heal demo "))
    folder.chmod(0o711)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAL_VAR_DIR", str(folder))
    monkeypatch.delenv("HEAL_DATABASE_URL", raising=False)
    monkeypatch.setattr(langchain_table, "rows_to_store", stop)
    try:
        yield folder
    finally:
        EmbeddedPostgres(folder / "postgres").stop()
        shutil.rmtree(folder)


def stop(settings: Settings) -> None:
    raise StepError("far enough")


def opened(commands: str) -> str:
    """The name of the database that ``psql`` of some commands reaches, in a plain shell."""
    psql = next(line for line in commands.splitlines() if "psql" in line)
    before = commands.partition(psql)[0]
    done = subprocess.run(
        ["/bin/sh", "-ec", f"{before}{psql} -Atc 'SELECT current_database()'"],
        env=child_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_it_leaves_what_up_leaves_and_names_what_it_replaces(var: Path) -> None:
    first = CliRunner().invoke(app, ["demo-adopt"])
    assert str(first.exception) == "far enough"
    assert "starting the embedded Postgres" in first.output
    assert "of an earlier demo" not in first.output
    server = EmbeddedPostgres(var / "postgres")
    assert load_settings().require_database_url() == server.url("heal")
    status = CliRunner().invoke(app, ["status"])
    assert status.exit_code == 0, status.output
    assert status.output.startswith("postgres       up (embedded)")
    assert "database heal_adopt of an earlier demo is dropped" in CliRunner().invoke(app, ["demo-adopt"]).output

    for embedded in (True, False):
        commands = how_to_open(var, embedded)
        assert redacted(commands) == commands  # it is printed so
        assert server.url().split(":")[2].partition("@")[0] not in commands
        assert opened(commands) == "heal_adopt"


def test_a_database_of_the_users_own_is_left_alone(
    var: Path, monkeypatch: pytest.MonkeyPatch, auto: Connection, database_url: str
) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    auto.execute("DELETE FROM heal.schema_migration WHERE name = 'api.sql'")
    assert str(CliRunner().invoke(app, ["demo-adopt"]).exception) == "far enough"
    assert not (var / "local.env").exists()
    assert not auto.execute("SELECT FROM heal.schema_migration WHERE name = 'api.sql'").rowcount


def test_it_serves_no_corpus(var: Path) -> None:
    Path("corpora").mkdir()
    Path("corpora/legal.env").touch()
    refused = CliRunner(env={"HEAL_CORPUS": "legal"}).invoke(app, ["demo-adopt"])
    assert str(refused.exception).startswith("one stack serves all corpora")


def compared(monkeypatch: pytest.MonkeyPatch, conn: Connection, *found: Found) -> str:
    """What is printed about these questions."""
    monkeypatch.setattr(demo_adopt, "compared", lambda *_: list(found))
    with console.capture() as printed:
        demo_adopt._print_comparison(load_settings(), conn)
    return printed.get()


def test_only_where_rows_were_moved_it_says_what_moved_them(auto: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SampleStore(auto)
    store.load_many(5)
    store.publish(store.generation("m"))
    told = compared(monkeypatch, auto, Found("how to sort", 3, 3), Found("how to cut", 0, 0))
    assert "No row has been moved." in told
    assert MOVED not in told
    assert "before" not in told
    store.publish(store.generation("m", nudge={"variant": "N", "theta": 0.25}))
    told = compared(monkeypatch, auto, Found("how to sort", 3, 1), Found("how to cut", 0, 10), Found("same", 2, 2))
    assert MOVED in told
    assert told.splitlines()[-2:] == [
        "'how to sort': place 3 before, 1 after",
        "'how to cut': place beyond 10 before, 10 after",
    ]
