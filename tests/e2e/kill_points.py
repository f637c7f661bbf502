"""Stops a step at a chosen statement: a child counts what it sends to the database, and before the chosen one dies,
stops the server, or waits while something else is done."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from heal_tasks.core.errors import HealError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step, run_pipeline
from heal_tasks.store.db import connect

CRASHED_S = 30.0
"""After so long a server that was told to stop has stopped, and a child that waits goes on by itself."""

_SENDERS = (
    (psycopg.Cursor, "execute"), (psycopg.Cursor, "executemany"), (psycopg.Cursor, "copy"),
    (psycopg.ServerCursor, "execute"),
)  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["sentence_transformers", "tests.e2e.kill_points"])


@contextmanager
def counted(before: Callable[[str], None]) -> Iterator[None]:
    """Call a function with the text of every statement before it is sent."""
    originals = [(kind, name, getattr(kind, name)) for kind, name in _SENDERS]

    def watched(original: Any) -> Any:
        def send(cursor: Any, query: Any, *values: Any, **named: Any) -> Any:
            text = query.as_string(cursor) if isinstance(query, sql.Composable) else query
            before(text.decode() if isinstance(text, bytes) else text)
            return original(cursor, query, *values, **named)

        return send

    for kind, name, original in originals:
        setattr(kind, name, watched(original))
    try:
        yield
    finally:
        for kind, name, original in originals:
            setattr(kind, name, original)


@dataclass(frozen=True)
class Child:
    """A process that runs a step or something else, and the file with the error that ended it."""

    process: ForkServerProcess
    error: Path

    def join(self, timeout_s: float | None = None) -> bool:
        """True if it has ended."""
        self.process.join(timeout_s)
        return self.process.exitcode is not None

    def sentence(self) -> str:
        """The error that ended it; empty for none."""
        return self.error.read_text() if self.error.exists() else ""


def start(folder: Path, work: Callable[..., None], *values: Any) -> Child:
    """Start a child that calls a function of this module."""
    error = folder / f"error{time.monotonic_ns()}"
    process = _CONTEXT.Process(target=_guarded, args=(error, work, values))
    process.start()
    return Child(process, error)


def _guarded(error: Path, work: Callable[..., None], values: tuple[Any, ...]) -> None:
    try:
        work(*values)
    except HealError as refused:
        error.write_text(str(refused))
    except Exception as fault:
        error.write_text(f"UNNAMED {type(fault).__name__}: {fault}")


def step_until(
    values: dict[str, Any], manifest: Manifest, step: str, number: int, then: Callable[..., None], *arguments: Any
) -> None:
    """Run a step that calls ``then`` before its ``number``-th statement."""
    left = [number]

    def before(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            then(*arguments)

    with counted(before):
        load_step(step).run_to_end(load_settings(**values), manifest)


def die() -> None:
    """As ``kill -9``, without a chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)


def crash(data_dir: Path) -> None:
    """Stop the server of a data folder at once, as a power cut would."""
    pid = int((data_dir / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + CRASHED_S
    while (data_dir / "postmaster.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def wait(reached: Path, release: Path) -> None:
    """Say that this point is reached, and go on when the other file is there."""
    reached.touch()
    deadline = time.monotonic() + CRASHED_S
    while not release.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def do(values: dict[str, Any], what: str) -> None:
    """What another process may do at any time."""
    settings = load_settings(**values)
    if what == "delete":
        with connect(settings.require_database_url(), autocommit=True) as conn:
            conn.execute(
                "SELECT heal.delete_document(max(document_id)) FROM heal.document "
                "WHERE deleted_at IS NULL AND duplicate_of IS NULL"
            )
    elif what == "run":
        run_pipeline(settings, "beside")
    else:
        step = {"rollback": "activate", "maintain": "maintain"}[what]
        load_step(step).run(settings, Manifest(run_id=f"beside {what}", refs={"generation_id": 0}))


@dataclass
class Snapshots:
    """Copies of a database and of a state folder, which come back at their own place."""

    server: EmbeddedPostgres
    database: str
    var_dir: Path
    folder: Path

    def begin(self, template: str) -> str:
        """Make the database from a template, and return its URL."""
        self._copy(template, self.database)
        return self.server.url(self.database)

    def end(self) -> None:
        """Drop the database."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)

    def save(self, name: str) -> None:
        """Keep the present state."""
        self._copy(self.database, f"{self.database}_{name}")
        shutil.copytree(self.var_dir, self.folder / name, symlinks=True)

    def restore(self, name: str) -> None:
        """Bring a state back."""
        self._copy(f"{self.database}_{name}", self.database)
        shutil.rmtree(self.var_dir)
        shutil.copytree(self.folder / name, self.var_dir, symlinks=True)

    def drop(self, name: str) -> None:
        """Forget a state."""
        self._execute("DROP DATABASE {} WITH (FORCE)", f"{self.database}_{name}")
        shutil.rmtree(self.folder / name)

    def _copy(self, source: str, target: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", target)
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", target, source)

    def _execute(self, query: str, *names: str) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(sql.SQL(query).format(*map(sql.Identifier, names)))  # type: ignore[arg-type]
