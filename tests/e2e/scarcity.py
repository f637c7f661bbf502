"""Takes from a step what it needs: disk, memory, connections, locks; and what a child does with them."""

import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors import indexing
from heal_tasks.store.db import Connection, connect
from tests.e2e.kill_points import Snapshots, counted

FIRST = "^INSERT INTO heal.step_result"
"""The first statement of every step's own."""
ROLE, PASSWORD = "heal_scarce", "p"
_BLOCK = bytes(1 << 16)


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """A real file system of some megabytes."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("this account may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path) -> None:
    """Leave no space on a disk, of which a page at a time would be left otherwise."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (len(_BLOCK), 4096, 1):
            try:
                while file.write(_BLOCK[:size]) == size:
                    pass
            except OSError:
                continue


def free(disk: Path) -> None:
    """Give the space back."""
    (disk / "ballast").unlink(missing_ok=True)


def step_before(
    values: dict[str, Any], manifest: Manifest, step: str, statement: str, then: Callable[..., None], *arguments: Any
) -> None:
    """Run a step that calls ``then`` before its first statement that a pattern matches."""
    done = list[str]()

    def before(text: str) -> None:
        if not done and re.search(statement, text):
            done.append(text)
            then(*arguments)

    indexing.EXACT_ROWS = INDEXED_ROWS
    with counted(before):
        load_step(step).run_to_end(load_settings(**values), manifest)
    if not done:
        raise AssertionError(f"step {step} has no statement {statement!r}")


def step_within(values: dict[str, Any], manifest: Manifest, step: str, spare_mb: float, statement: str = FIRST) -> None:
    """Run a step that may take so much more memory than its process has at a statement."""
    settings = load_settings(**values)
    loaded, indexing.EXACT_ROWS = load_step(step), INDEXED_ROWS  # loaded before the limit holds
    done = list[str]()

    def limit(text: str) -> None:
        if not done and re.search(statement, text):
            done.append(text)
            status = Path("/proc/self/status").read_text()
            found = re.search(r"VmData:\s+(\d+) kB", status)
            assert found
            most = (int(found[1]) << 10) + int(spare_mb * 2**20)
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    with counted(limit):
        loaded.run_to_end(settings, manifest)


INDEXED_ROWS = 10
"""From so many rows on a generation gets an HNSW index here."""


class SmallDatabase(Snapshots):
    """Snapshots of a database whose tables are on a disk of their own, and of a state folder on another."""

    def on(self, disk: Path) -> None:
        """Put the database on a disk from now on."""
        owner = self.server.data_dir.stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        (disk / "tables").mkdir()
        os.chown(disk / "tables", owner.st_uid, owner.st_gid)
        self.run("DROP TABLESPACE IF EXISTS heal_small")
        self.run(f"CREATE TABLESPACE heal_small LOCATION '{disk}/tables'")

    def begin(self, template: str) -> str:
        """Make the database from a template, on the disk, and return its URL."""
        self.run(f"CREATE DATABASE {self.database} TEMPLATE {template} TABLESPACE heal_small STRATEGY file_copy")
        return self.server.url(self.database)

    def end(self) -> None:
        """Drop the database, its copies, and the place that they were at."""
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            names = admin.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (self.database,)
            ).fetchall()
        for (name,) in names:
            self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.run("DROP TABLESPACE IF EXISTS heal_small")

    def run(self, statement: str) -> None:
        """Run a statement as the server's administrator."""
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(statement.encode())


def jump(conn: Connection, hours: float) -> None:
    """Set the server's clock forward by some hours, or back: everything that it has noted is then as much earlier."""
    columns = conn.execute(
        """SELECT c.relname, array_agg(a.attname::text) FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r' AND a.atttypid = 'timestamptz'::regtype
        GROUP BY 1"""
    ).fetchall()
    assert sum(len(names) for _, names in columns) > 25
    for table, names in columns:
        moved = sql.SQL(", ").join(
            sql.SQL("{0} = {0} - make_interval(secs => {1})").format(sql.Identifier(name), sql.Literal(hours * 3600))
            for name in names
        )
        conn.execute(sql.SQL("UPDATE heal.{} SET {}").format(sql.Identifier(table), moved))


def jump_at(url: str, hours: float) -> None:
    """As ``jump``, for a database that others work in."""
    with connect(url) as conn:
        jump(conn, hours)


@contextmanager
def few_connections(server: EmbeddedPostgres, database: str, most: int) -> Iterator[str]:
    """The URL of a database for a member of the pipeline's role that may have so many connections."""
    with psycopg.connect(server.url(database), autocommit=True) as admin:
        if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).rowcount:
            admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}' IN ROLE heal_pipeline".encode())
        admin.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {most}".encode())
        admin.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(*map(sql.Identifier, (database, ROLE))))
    yield f"postgresql://{ROLE}:{PASSWORD}@{server.url(database).split('@')[1]}"


@contextmanager
def every_connection(url: str) -> Iterator[None]:
    """Take all connections that a server gives to ordinary users."""
    taken = list[psycopg.Connection[Any]]()
    try:
        while True:
            try:
                taken.append(psycopg.connect(url))
            except psycopg.OperationalError:
                break
        yield
    finally:
        for conn in taken:
            conn.close()


def row(resource: str, step: str, what: str, sentence: str, next_run: str) -> str:
    """A row of the table: what a step lacked, what it said, and the state that the next run left."""
    said = " ".join(re.sub(r"^step \w+: ", "", sentence).split())
    return f"{resource:12} {step:12} {what:30} {said[:240]:240}  {next_run}"
