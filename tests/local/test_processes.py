"""Recorded processes: found again, ended with their children, and told from processes with a reused id."""

import os
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from heal_tasks.local import processes

ENV = {"PATH": os.environ["PATH"]}
SLEEP = "import time; time.sleep(60)"
# A leader with a child that, like an Airflow task, has a process group of its own.
FAMILY = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {SLEEP!r}], process_group=0)
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


def start(folder: Path, code: str, **options: bool) -> processes.Recorded:
    recorded = processes.spawn([sys.executable, "-c", code], ENV, folder / "log", **options)
    deadline = time.monotonic() + 10
    while "ready" in code and "ready" not in (folder / "log").read_text():
        assert time.monotonic() < deadline, "the child did not start"
        time.sleep(0.02)
    return recorded


def is_gone(process: psutil.Process) -> bool:
    # Where nobody reaps orphans, a zombie is all that remains.
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_leads_a_session_of_its_own_and_ends(tmp_path: Path) -> None:
    recorded = start(tmp_path, SLEEP)
    assert processes.is_alive(recorded)
    assert os.getsid(recorded.pid) == recorded.pid != os.getsid(0)
    processes.end([recorded])
    assert not processes.is_alive(recorded)


@pytest.mark.parametrize("ends_its_own", [False, True])
def test_end_reaches_children_in_other_process_groups(tmp_path: Path, ends_its_own: bool) -> None:
    recorded = start(tmp_path, FAMILY, ends_its_own=ends_its_own)
    child = psutil.Process(recorded.pid).children()[0]
    assert os.getpgid(child.pid) != recorded.pid
    processes.end([recorded], timeout_s=0.5)
    assert is_gone(child)
    assert processes.members(recorded) == []


def test_orphans_of_a_killed_leader_are_found_and_ended(tmp_path: Path) -> None:
    recorded = start(tmp_path, FAMILY)
    leader = psutil.Process(recorded.pid)
    child = leader.children()[0]
    leader.kill()
    leader.wait(5)
    assert not processes.is_alive(recorded)
    assert [process.pid for process in processes.members(recorded)] == [child.pid]
    processes.end([recorded])
    assert is_gone(child)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    recorded = start(tmp_path, STUBBORN)
    processes.end([recorded], timeout_s=0.3)
    assert not processes.is_alive(recorded)


def test_a_process_with_a_reused_id_is_left_alone(tmp_path: Path) -> None:
    stranger = start(tmp_path, SLEEP)
    try:
        # As if the id had been written down for a process that started an hour earlier and has ended.
        stale = replace(stranger, started_at=stranger.started_at - 3600)
        assert not processes.is_alive(stale)
        assert processes.members(stale) == []
        processes.end([stale])
        assert processes.is_alive(stranger)
    finally:
        processes.end([stranger])


def test_a_record_from_before_the_last_boot_has_no_members(tmp_path: Path) -> None:
    recorded = start(tmp_path, FAMILY)
    try:
        psutil.Process(recorded.pid).kill()
        psutil.Process(recorded.pid).wait(5)
        assert processes.members(recorded)
        assert processes.members(replace(recorded, started_at=psutil.boot_time() - 60)) == []
    finally:
        processes.end([recorded])


def test_tail_names_the_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert processes.tail(log) == f"(log: {log})"
    log.write_text("\n".join(str(number) for number in range(100)))
    assert processes.tail(log, lines=2) == f"98\n99\n(log: {log})"


def test_write_private_narrows_an_open_file_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        processes.write_private(path, "new")
    finally:
        os.umask(before)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
