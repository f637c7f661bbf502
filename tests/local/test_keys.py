"""Secrets: made once, readable by their owner only, and an unreadable file is named."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.local.keys import load_keys, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_made_once_and_private(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    assert load_keys(tmp_path) == keys
    assert len(keys.jwt.encode()) >= 64
    assert len(base64.urlsafe_b64decode(keys.fernet)) == 32
    assert len(keys.ui_password) >= 12
    assert {mode(tmp_path / name) for name in ("secrets.json", "passwords.json")} == {0o600}
    assert json.loads((tmp_path / "passwords.json").read_text()) == {"admin": keys.ui_password}


def test_two_stacks_have_different_keys(tmp_path: Path) -> None:
    assert load_keys(tmp_path / "a") != load_keys(tmp_path / "b")


def test_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"jwt": "x"}')
    with pytest.raises(StepError, match=r"secrets\.json cannot be read as secrets .*delete it"):
        load_keys(tmp_path)


def test_write_private_narrows_an_open_file_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write_private(path, "new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
