"""Processes, locks, ports and private files of this machine.

A long-lived process is recorded, so that any later process can find, check and end it without mistaking a reused id.
Every component leads a session of its own, and all processes of the session belong to it: Airflow gives every running
task a process group of its own, which a signal to the component's group would miss.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import psutil

from heal_tasks.core.files import private_folder

# The start time is derived from the boot time, which moves when the clock is set; ids are not reused this fast.
START_TOLERANCE_S = 2.0
KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """Record of a process; the start time tells it from a later process with the same id."""

    pid: int  # also the id of its session
    started_at: float  # seconds since 1970
    log: str  # file of its output
    ends_its_own: bool = False  # only it gets the signal to end, and ends its children; otherwise its whole session


def spawn(command: Sequence[str], env: Mapping[str, str], log: Path, *, ends_its_own: bool = False) -> Recorded:
    """Start a process that outlives this one, in a session of its own; its output is appended to ``log``."""
    private_folder(log.parent)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    # A process that ended at once is a zombie until it is waited for, so it still has a start time.
    return Recorded(child.pid, psutil.Process(child.pid).create_time(), str(log), ends_its_own)


def is_alive(recorded: Recorded) -> bool:
    """True if that very process runs; a zombie or another process with its id does not count."""
    return _status(recorded) not in ("gone", "foreign", psutil.STATUS_ZOMBIE)


def members(recorded: Recorded) -> list[psutil.Process]:
    """All live processes of a recorded process's session, also after the recorded process has ended."""
    if recorded.started_at < psutil.boot_time() - START_TOLERANCE_S or _status(recorded) == "foreign":
        return []
    found = []
    for process in psutil.process_iter():
        try:
            ours = os.getsid(process.pid) == recorded.pid and process.status() != psutil.STATUS_ZOMBIE
            if ours and process.create_time() >= recorded.started_at - START_TOLERANCE_S:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def end(sessions: Sequence[Recorded], timeout_s: float = 20.0) -> None:
    """End processes with their sessions: SIGTERM, and after ``timeout_s`` seconds SIGKILL to the rest."""
    for one in sessions:
        alone = one.ends_its_own and is_alive(one)
        _signal([process for process in members(one) if not alone or process.pid == one.pid], signal.SIGTERM)
    _wait_for(sessions, timeout_s)
    # Oldest first: a supervisor that outlived its task would report it as failed, and the scheduler would not run it
    # again.
    left = [process for one in sessions for process in members(one)]
    _signal(sorted(left, key=psutil.Process.create_time), signal.SIGKILL)
    _wait_for(sessions, KILL_TIMEOUT_S)


def _wait_for(sessions: Sequence[Recorded], timeout_s: float) -> None:
    """Wait until all are gone. Polled, because without an init process that reaps them they stay zombies."""
    deadline = time.monotonic() + timeout_s
    while any(members(one) for one in sessions) and time.monotonic() < deadline:
        time.sleep(0.1)


@contextlib.contextmanager
def locked(path: Path, before_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of a file during the block; the lock ends with the process that holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            before_waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def first_free(candidates: Iterable[int]) -> int | None:
    """The first port on 127.0.0.1 that nobody listens on; 0 means any; None if all are taken."""
    for port in candidates:
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As servers do: a connection of a predecessor that lingers does not make the port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return None


def tail(log: Path, lines: int = 15, start: int = 0) -> str:
    """The last lines of a log file, none of them before byte ``start``, and its path."""
    text = log.read_bytes()[start:].decode(errors="replace") if log.exists() else ""
    return "\n".join([*text.splitlines()[-lines:], f"(log: {log})"])


def write_private(path: Path, text: str) -> None:
    """Replace a file by one of mode 600; at no moment is it half written or readable by others."""
    private_folder(path.parent)
    with NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).rename(path)


def _status(recorded: Recorded) -> str:
    """Status of the recorded process; gone, or foreign if another process has its id now."""
    try:
        process = psutil.Process(recorded.pid)
        if abs(process.create_time() - recorded.started_at) > START_TOLERANCE_S:
            return "foreign"
        return str(process.status())
    except psutil.NoSuchProcess:
        return "gone"


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
