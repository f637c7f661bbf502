"""A kind of source from an installed package: the example of docs/sources.md, as it stands there."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from heal_tasks.core.errors import RetryableError, SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.sources.base import open_source
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()


def example(name: str) -> str:
    """The code below a file's name on the page."""
    found = re.search(rf"^`{re.escape(name)}`.*?:\n\n```\w+\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed the example into."""
    package, target = tmp_path_factory.mktemp("heal-notes"), tmp_path_factory.mktemp("site-packages")
    for name in ("pyproject.toml", "heal_notes.py"):
        (package / name).write_text(example(name))
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(package)], check=True, capture_output=True)
    return target


@pytest.fixture
def root(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with a file of notes and its table."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEAL_SOURCES", raising=False)
    with sqlite3.connect(tmp_path / "notes.db") as conn:
        conn.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, topic, title, text, changed)")
        conn.executemany(
            "INSERT INTO note VALUES (?, ?, ?, ?, 1)",
            [
                (1, "valves", "Seals", "Seals age."),
                (2, "pumps", "Oil", "Oil."),
                (3, "valves", "Keys", "They break."),
            ],
        )
    write(tmp_path)
    return tmp_path


def write(root: Path, more: str = "", kind: str = "notes") -> None:
    table = example("sources.toml").replace("/data/notes.db", str(root / "notes.db")).replace('"notes"', f'"{kind}"')
    (root / "sources.toml").write_text(table + more)


def test_the_example_of_the_page_is_a_source(root: Path, database_url: str, auto: Connection) -> None:
    def run(name: str) -> dict[str, float]:
        settings = load_settings(var_dir=root / "var", database_url=database_url)
        return dict(load_step("ingest").run(settings, Manifest(run_id=name)).counts)

    assert run("first")["new"] == 2
    rows = auto.execute("SELECT external_id, source, title, body FROM heal.document ORDER BY 1").fetchall()
    assert rows == [("1", "source:notes", "Seals", "Seals age."), ("3", "source:notes", "Keys", "They break.")]
    with sqlite3.connect(root / "notes.db") as conn:
        conn.execute("UPDATE note SET text = 'Seals age fast.', changed = 2 WHERE id = 1")
        conn.execute("DELETE FROM note WHERE id = 3")
    after = run("second")
    assert (after["new"], after["changed"], after["deleted"]) == (0, 1, 1)
    (root / "notes.db").unlink()
    with pytest.raises(RetryableError, match=r"notes\.db cannot be read now"):
        run("third")
    assert auto.execute("SELECT count(*) FROM heal.document WHERE deleted_at IS NULL").fetchone() == (1,)


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ("topik = 'a'\n", "notes", r"\[notes\] topik: is no key of kind 'notes' .*did you mean topic\?"),
        ("", "note", r"\[notes\] kind: is 'note'; did you mean 'notes'\? Ours are folder, .*packages: .*notes"),
        ("", "note_cards", r"\[notes\] kind: is 'note_cards'; Ours are folder, "),
        ("", "Postgresql", r"\[notes\] kind: is 'Postgresql'; did you mean 'postgres'\? Ours are folder, "),
        (
            "password_env = 'NO_SUCH_PASSWORD'\n",
            "notes",
            r"password_env: the variable NO_SUCH_PASSWORD is not set",
        ),
    ],
)
def test_a_wrong_table_is_named(root: Path, more: str, kind: str, message: str) -> None:
    write(root, more, kind)
    tables = load_settings(var_dir=root / "var").source_tables
    with pytest.raises(SettingsError, match=message):
        open_source("source:notes", s3_endpoint_url=None, tables=tables)


def test_a_package_that_cannot_be_imported_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = root / "broken"
    (broken / "broken-1.0.dist-info").mkdir(parents=True)
    (broken / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "broken-1.0.dist-info" / "entry_points.txt").write_text("[heal_etl.sources]\nbroken = no_such_module:A\n")
    monkeypatch.syspath_prepend(str(broken))
    write(root, kind="broken")
    tables = load_settings(var_dir=root / "var").source_tables
    with pytest.raises(SettingsError, match=r"kind: is 'broken', and no_such_module:A cannot be imported \(ModuleNotF"):
        open_source("source:notes", s3_endpoint_url=None, tables=tables)
