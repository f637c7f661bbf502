"""Kills a step at a chosen statement: a child counts what it sends to the database and dies before the chosen one."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step

_SENDERS = (
    (psycopg.Cursor, "execute"), (psycopg.Cursor, "executemany"), (psycopg.Cursor, "copy"),
    (psycopg.ServerCursor, "execute"),
)  # fmt: skip


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


def _die(values: dict[str, Any], manifest: Manifest, step: str, number: int) -> None:
    left = [number]

    def before(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with counted(before):
        load_step(step).run_to_end(load_settings(**values), manifest)


def kill(values: dict[str, Any], manifest: Manifest, step: str, number: int) -> bool:
    """Run a step in a child that dies before its ``number``-th statement; False if it ended before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sentence_transformers", "tests.e2e.kill_points"])
    child = context.Process(target=_die, args=(values, manifest, step, number))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode != 0


@dataclass
class Snapshots:
    """Copies of a database and of a state folder, which come back at their own place."""

    server: EmbeddedPostgres
    database: str
    var_dir: Path
    folder: Path

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
