"""Variables that nobody knows are named; ``e2e/test_scheduled.py`` tries fields of a trigger's configuration."""

import logging
from pathlib import Path

import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.core.settings import Settings, unknown_variables


def test_variables_that_are_no_settings_are_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAL_SORUCES", "file:/x")
    (tmp_path / ".env").write_text("HEAL_QUX=1\nOTHER=2\nHEAL_SEED=3\n")
    assert unknown_variables(tmp_path) == [
        "HEAL_QUX is set, and is no setting; docs/settings.md lists them",
        "HEAL_SORUCES is set, and is no setting; did you mean HEAL_SOURCES?",
    ]
    found = [(level, text) for level, name, text in examine(settings) if name == "settings"]
    assert found == [("note", sentence) for sentence in unknown_variables(tmp_path)]


def test_a_command_names_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from heal_tasks.cli.base import settings_for_command

    monkeypatch.setenv("HEAL_FORCE_RUOTE", "nothing")
    with caplog.at_level(logging.WARNING):
        settings_for_command()
    assert "did you mean HEAL_FORCE_ROUTE?" in caplog.text
