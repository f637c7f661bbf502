"""Commands on a database without this version's schema say so in one line."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from heal_tasks.cli.base import outdated
from heal_tasks.cli.doctor import examine
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from tests.cli.in_process import run_main
from tests.fake_embeddings import FakeEmbeddings
from tests.steps.adopting import MODEL, TABLES, fill

CURE = "run `python -m heal_tasks migrate`"


@pytest.fixture
def bare(postgres: EmbeddedPostgres) -> Iterator[str]:
    """URL of a database in which nothing has been made."""
    yield postgres.ensure_database("bare")
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE bare WITH (FORCE)")


def last_line(arguments: list[str], url: str, folder: Path, **variables: str) -> str:
    """The last line of standard error of a command that fails."""
    code, _, errors = run_main(*arguments, HEAL_DATABASE_URL=url, HEAL_VAR_DIR=str(folder), **variables)
    assert code == 1, errors
    assert "Traceback" not in errors
    return errors.splitlines()[-1]


@pytest.mark.parametrize(
    "command", [["adopt", "public.My Docs", "--model", MODEL], ["plan"], ["search", "words"], ["status"], ["topics"]]
)
def test_a_database_without_the_schema_is_one_line(command: list[str], bare: str, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with connect(bare, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
        fill(conn, TABLES["langchain"])
    with FakeEmbeddings() as server:
        found = last_line(command, bare, tmp_path, HEAL_EMBED_BASE_URL=server.base_url)
    assert found.startswith(f"error: the database has no schema heal; {CURE} (")


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE heal.run DROP COLUMN verdict CASCADE",
        "DROP TABLE heal.run CASCADE",
        "DROP SCHEMA heal CASCADE; CREATE SCHEMA heal; CREATE TABLE heal.schema_migration (name text, sha256 text)",
    ],
)
def test_an_older_schema_is_one_line(damage: str, auto: Connection, settings: Settings) -> None:
    auto.execute("DELETE FROM heal.schema_migration WHERE name = '024_kept.sql'")
    auto.execute(damage.encode())
    found = last_line(["status"], settings.require_database_url(), settings.var_dir)
    assert found.startswith(f"error: the database's schema heal is older than this version; {CURE} (")


def fault(conn: Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as raised:
        conn.execute(statement.encode())
    return raised.value


def test_faults_of_a_current_schema_keep_their_traceback(auto: Connection, settings: Settings) -> None:
    for statement in ("SELECT * FROM heal.none", "SELECT none FROM heal.run", "SELECT heal.none()"):
        assert outdated(fault(auto, statement), settings) is None
    auto.execute("INSERT INTO heal.schema_migration VALUES ('999_later.sql', 'x')")
    told = str(outdated(fault(auto, "SELECT * FROM heal.none"), settings))
    assert told.startswith("the database's schema heal is of a newer version of heal_tasks (999_later.sql); install")
    assert outdated(fault(auto, "SELECT 1 / 0"), settings) is None


def test_a_user_who_may_not_read_the_record_is_told_by_the_name(auto: Connection, database_url: str) -> None:
    auto.execute("CREATE ROLE outdated_reader LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA heal TO outdated_reader")
    theirs = load_settings(database_url=f"postgresql://outdated_reader:x@{database_url.split('@')[1]}")
    try:
        told = str(outdated(fault(auto, "SELECT * FROM heal.none"), theirs))
        assert told.startswith(f"the database has no schema heal, or an older one; {CURE} (")
        assert outdated(fault(auto, "SELECT * FROM public.none"), theirs) is None
    finally:
        auto.execute("DROP OWNED BY outdated_reader; DROP ROLE outdated_reader")


def test_the_doctor_says_it_too(auto: Connection, settings: Settings) -> None:
    auto.execute("DELETE FROM heal.schema_migration WHERE name = '024_kept.sql'")
    auto.execute("ALTER TABLE heal.question DROP COLUMN split CASCADE")
    (found,) = [item for item in examine(settings) if item.subject == "questions"]
    assert (found.level, found.text.partition(" (")[0]) == (
        "fail",
        f"the database's schema heal is older than this version; {CURE}",
    )
