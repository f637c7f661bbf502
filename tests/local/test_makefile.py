"""`make setup` installs into an environment only what it lacks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/../calls"
case "$*" in *--dry-run*) exit {status};; esac
"""


def make(folder: Path, satisfied: bool) -> list[str]:
    """The calls of an environment's Python by ``make setup``."""
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python, calls = folder / "venv" / "bin" / "python", folder / "venv" / "calls"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(PYTHON.format(status=0 if satisfied else 1))
    python.chmod(0o755)
    calls.write_text("")
    done = subprocess.run(["make", "VENV=venv", "PYTHON=false", "setup"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.partition("--quiet ")[2] for line in calls.read_text().splitlines()]


DRY = "--isolated --dry-run --no-index -c constraints.txt -r requirements.txt"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_an_environment_that_has_everything_is_left_alone(tmp_path: Path) -> None:
    assert make(tmp_path, satisfied=True) == [DRY]
    stamp = tmp_path / "venv" / ".requirements"
    assert stamp.exists()
    os.utime(stamp, (0, 0))
    assert make(tmp_path, satisfied=False) == [], "newer files of the same content"
    stamp.write_text("of other requirements")
    os.utime(stamp, (0, 0))
    assert make(tmp_path, satisfied=True) == [DRY], "it has them all the same"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_an_environment_that_lacks_something_gets_it(tmp_path: Path) -> None:
    dry, torch, rest = make(tmp_path, satisfied=False)
    assert dry == DRY
    assert torch.startswith("torch==")
    assert rest == "-c constraints.txt -r requirements.txt"
