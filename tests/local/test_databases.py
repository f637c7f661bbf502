"""The databases of this machine: the file for the command line, and the names of our own databases."""

import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heal_tasks.cli.app import app
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.databases import own_databases, prepare_vectors, start_server
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a new state folder, without a database, in a working folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEAL_DATABASE_URL", raising=False)
    folder = Path(tempfile.mkdtemp(prefix="heal-databases-"))
    folder.chmod(0o711)
    settings = load_settings(var_dir=folder)
    try:
        yield settings
    finally:
        EmbeddedPostgres(folder / "postgres").stop()
        shutil.rmtree(folder)


def test_the_command_line_finds_the_embedded_database(fresh: Settings, database_url: str) -> None:
    said: list[str] = []
    server = start_server(fresh, said.append)
    url, embedded = prepare_vectors(fresh, said.append)
    assert (url, embedded) == (server.url("heal"), True)
    assert said[0] == "starting the embedded Postgres"
    assert said[1].startswith("database schema: applied 001_documents.sql")
    assert stat.S_IMODE((fresh.var_dir / "local.env").stat().st_mode) == 0o600
    read_back = load_settings(var_dir=fresh.var_dir)
    assert read_back.require_database_url() == url
    with connect(url) as conn:
        assert conn.execute("SELECT count(*) FROM heal.run").fetchone() == (0,)

    Path("corpora").mkdir()
    Path("corpora/legal.env").touch()
    Path("corpora/away.env").write_text("HEAL_DATABASE_URL=postgresql://u:p@elsewhere/strange\n")
    Path("corpora/Wrong.env").touch()
    for place in (read_back, load_settings(var_dir=fresh.var_dir, database_url=server.url("heal_adopt"))):
        assert own_databases(place) == ["heal", "heal_adopt", "heal_legal"]
    legal = load_settings(var_dir=fresh.var_dir / "corpora" / "legal", corpus="legal", database_url=url + "_legal")
    assert own_databases(legal) == ["heal", "heal_adopt", "heal_legal"]

    # A database of somebody's own is named nowhere, and nobody else's heal_adopt is ours.
    theirs = load_settings(var_dir=fresh.var_dir, database_url=database_url)
    name = database_url.rpartition("/")[2]
    assert own_databases(theirs) == [name, f"{name}_legal"]
    for path in Path("corpora").iterdir():
        if path.name != "Wrong.env":
            path.unlink()
    assert prepare_vectors(theirs, said.append) == (database_url, False)
    assert said[-1].startswith("corpus Wrong was left out: 'Wrong' is no name of a corpus")
    assert "HEAL_DATABASE_URL" not in (fresh.var_dir / "local.env").read_text()


def test_up_starts_the_database_alone(fresh: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_VAR_DIR", str(fresh.var_dir))
    done = CliRunner().invoke(app, ["up", "--database-only"])
    assert done.exit_code == 0, done.output
    assert "the embedded Postgres is up; " in done.output
    assert "local.env has its URL" in done.output
    assert not (fresh.var_dir / "airflow").exists()
    with connect(load_settings().require_database_url()) as conn:
        assert conn.execute("SELECT count(*) FROM heal.run").fetchone() == (0,)
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    done = CliRunner().invoke(app, ["up", "--database-only"])
    assert "the embedded Postgres is up; vectors stay in that of HEAL_DATABASE_URL" in done.output
