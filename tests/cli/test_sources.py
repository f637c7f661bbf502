"""The command that tries every source."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from heal_tasks.cli import sources
from heal_tasks.cli.app import app
from heal_tasks.cli.doctor import examine
from heal_tasks.core.settings import load_settings

TABLES = """
["My Folder"]
kind = "folder"
location = "My Folder"
[missing]
kind = "folder"
location = "missing"
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A shell in a folder with sources, one of them missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sources.toml").write_text(TABLES)
    (tmp_path / "My Folder").mkdir()
    for number in range(7):
        (tmp_path / "My Folder" / f"{number}.txt").write_text("A text.")
    (tmp_path / "My Folder" / "picture.png").write_text("")
    return CliRunner(env={"HEAL_VAR_DIR": str(tmp_path / "var"), "HEAL_SOURCES": None})


def test_every_source_is_tried_and_a_broken_one_fails_the_command(shell: CliRunner) -> None:
    done = shell.invoke(app, ["sources"])
    good, bad = done.output.splitlines()
    assert good == (
        "source:My Folder (folder My Folder): 7 files, 1 others that are skipped: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, …"
    )
    assert bad.startswith("source:missing (folder missing): FAILED: source 'file:missing': ")
    assert done.exit_code == 1
    one = shell.invoke(app, ["sources", "My Folder"], env={"HEAL_SOURCES": "file:var"})
    assert one.output.rstrip().endswith("…; HEAL_SOURCES does not name it, so no run reads it")
    assert one.exit_code == 0


def test_a_long_listing_is_cut(shell: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TRY_S", 0)
    assert ": 1 files in 0 seconds, and more: 0.txt" in shell.invoke(app, ["sources", "source:My Folder"]).output


def test_an_unknown_name_is_refused(shell: CliRunner) -> None:
    error = shell.invoke(app, ["sources", "folder"]).exception
    assert "there is no source 'folder'; defined are source:My Folder, source:missing" in str(error)


def test_a_file_without_any_table_is_named(shell: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sources.toml").write_text("")
    for arguments in (["sources"], ["judgments", "queries.jsonl"]):
        error = str(shell.invoke(app, arguments).exception)
        assert error.startswith("no source is defined: sources.toml has no table; write one"), arguments
    monkeypatch.delenv("HEAL_SOURCES", raising=False)
    (found,) = [item for item in examine(load_settings()) if item.subject == "sources"]
    assert (found.level, found.text[:21]) == ("note", "no source is defined:")
