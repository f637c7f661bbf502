"""State, logs, inbox and artifacts are for their account alone; an embedded server of another account gets through."""

import os
import stat
import sys
from pathlib import Path

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.files import private_folder, state_folder
from heal_tasks.local import processes
from heal_tasks.steps.engine.only_process import only_process
from tests.cli.in_process import run_main


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_folders_are_closed_and_old_ones_stay(tmp_path: Path) -> None:
    passable = 0o711 if os.geteuid() == 0 else 0o700
    assert mode(private_folder(tmp_path / "var" / "airflow" / "logs")) == 0o700
    assert mode(tmp_path / "var") == mode(tmp_path / "var" / "airflow") == passable
    assert mode(state_folder(tmp_path / "state")) == passable
    (tmp_path / "own").mkdir(mode=0o755)
    assert mode(private_folder(tmp_path / "own")) == mode(state_folder(tmp_path / "own")) == 0o755


def test_everything_that_is_written_is_behind_a_closed_folder(tmp_path: Path) -> None:
    var = tmp_path / "var"
    store = ArtifactStore(str(var / "artifacts"), var / "artifact_cache")
    with store.writing("reports/x") as folder:
        (folder / "report.html").write_text("text")
    processes.write_private(var / "airflow" / "pids.json", "{}")
    with only_process(var / "locks", "train", print):
        pass
    done = processes.spawn([sys.executable, "-c", "print('x')"], dict(os.environ), var / "logs" / "x.log")
    processes.end([done])
    assert {item.name: mode(item) for item in var.iterdir()} == dict.fromkeys(
        ("artifacts", "airflow", "locks", "logs"), 0o700
    )
    assert mode(Path(store.uri("reports/x"))) == 0o700


def test_the_command_line_writes_files_for_its_account_alone(tmp_path: Path, database_url: str) -> None:
    page, var = tmp_path / "settings.md", tmp_path / "var"
    assert os.umask(0o022) == 0o022
    run_main("doctor", HEAL_VAR_DIR=str(var), HEAL_DATABASE_URL=database_url)
    page.touch()
    made = list(var.rglob("*"))
    assert made
    assert [path for path in [page, *made] if mode(path) & 0o077] == []
