"""Checks of who may reach, read and change what: addresses, files, rights in the database; each with its cure."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg

from heal_tasks.cli.base import described
from heal_tasks.cli.doctor import Finding, Result
from heal_tasks.core.corpora import FOLDER as CORPORA
from heal_tasks.core.errors import HealError, SettingsError, StoreError
from heal_tasks.core.redaction import redacted
from heal_tasks.core.settings import Settings
from heal_tasks.core.specs import join_specs
from heal_tasks.local.components import read_state
from heal_tasks.local.databases import own_databases
from heal_tasks.local.processes import members
from heal_tasks.serve.gate import is_loopback
from heal_tasks.store.db import Connection, connect, scalar
from heal_tasks.store.grants import grant_faults, shared_roles
from heal_tasks.store.ownership import misowned, strangers, unknown_objects
from heal_tasks.store.permissions import examine_permissions

MOST_NAMED = 10
"""Findings of one kind that are printed; a folder of 100,000 readable files is one fault."""


class Listener(NamedTuple):
    """A socket of a process of this project that accepts connections."""

    name: str  # of the process
    pid: int
    address: str
    port: int
    guarded: bool  # callers need a token


def examine_security(settings: Settings) -> list[Finding]:
    """Run every check; one that raises an error has failed."""
    checks: dict[str, Callable[[Settings], Iterator[str]]] = {
        "listeners": _listeners, "files": _files, "sources": _sources, "owners": _owners, "roles": _roles,
    }  # fmt: skip
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            faults = list(check(settings))
        except Exception as error:
            faults = [described(error, settings)]
        more = [f"and {len(faults) - MOST_NAMED:,} more of this kind"] if len(faults) > MOST_NAMED else []
        results: list[Result] = [("fail", text) for text in [*faults[:MOST_NAMED], *more]] or [("ok", _GOOD[subject])]
        findings += [Finding(level, subject, redacted(text)) for level, text in results]
    return [*findings, *_neighbours(settings), *_readers(settings)]


_GOOD = {
    "listeners": "nothing of this project listens beyond this machine without a token",
    "files": "state, artifacts and .env can be read by their account alone",
    "sources": "all sources and documents lie in HEAL_SOURCE_ROOTS",
    "owners": "schema heal has only what migrations made, with the right owners",
    "roles": "roles have the rights that migrations granted, and no others",
}


def _listeners(settings: Settings) -> Iterator[str]:
    for item in listeners(settings):
        if not is_loopback(item.address) and not item.guarded:
            yield (
                f"{item.name} (process {item.pid}) listens on {item.address}:{item.port}, which others can reach; end "
                "it, or let it listen on 127.0.0.1 behind a proxy that asks for a login (`serve`: set HEAL_SERVE_TOKEN)"
            )


def listeners(settings: Settings) -> list[Listener]:
    """The sockets of Airflow's components, the embedded Postgres, and every ``serve`` that this user may inspect."""
    named: dict[int, tuple[str, psutil.Process]] = {}
    for name, recorded in read_state(settings.machine_dir).components.items():
        named |= {process.pid: (f"Airflow's {name}", process) for process in members(recorded)}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "heal_tasks" in command and "serve" in command:
            named[process.pid] = ("serve", process)
        elif str(settings.machine_dir / "postgres") in command:
            named[process.pid] = ("the embedded Postgres", process)
    found: list[Listener] = []
    for pid, (name, process) in named.items():
        try:
            guarded = name == "serve" and bool(settings.serve_token or process.environ().get("HEAL_SERVE_TOKEN"))
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.append(Listener(name, pid, connection.laddr.ip, connection.laddr.port, guarded))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _files(settings: Settings) -> Iterator[str]:
    roots = [settings.var_dir]
    if not settings.artifacts_uri.startswith("s3://"):
        roots.append(Path(settings.artifacts_uri))
    for root in roots:
        for path in _open_to_others(root) if root.exists() else ():
            yield f"{path} can be read or written by every account of this machine; chmod -R o-rw {root}"
    for env in (Path(".env"), *CORPORA.glob("*.env")):
        if env.exists() and env.stat().st_mode & stat.S_IROTH:
            yield f"{env.resolve()} can be read by every account of this machine; chmod 600 {env.resolve()}"


def _open_to_others(path: Path) -> Iterator[Path]:
    """Files and folders that others may read or write, of those that they can reach."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        yield path
    if stat.S_ISDIR(mode) and mode & stat.S_IXOTH:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield from _open_to_others(path / entry.name)


@contextmanager
def _database(settings: Settings) -> Iterator[Connection]:
    with connect(settings.require_database_url()) as conn:
        if scalar(conn, "SELECT to_regclass('heal.schema_migration')") is None:
            raise StoreError("schema heal is missing; run `python -m heal_tasks migrate`")
        yield conn


def _sources(settings: Settings) -> Iterator[str]:
    roots = settings.allowed_roots
    with _database(settings) as conn:
        stored = [row[0] for row in conn.execute("SELECT DISTINCT source FROM heal.document WHERE deleted_at IS NULL")]
    for spec in dict.fromkeys((*settings.sources, *sorted(stored))):
        if not _permitted(settings, spec):
            yield (
                f"source {spec!r} lies in none of HEAL_SOURCE_ROOTS ({join_specs(roots)}); add its folder or prefix to "
                "that setting, or delete its documents (heal.delete_document)"
            )


def _permitted(settings: Settings, spec: str) -> bool:
    try:
        return settings.permits(spec)
    except SettingsError:  # documents of a table that has been taken out
        return False


def _owners(settings: Settings) -> Iterator[str]:
    with _database(settings) as conn:
        for item in strangers(conn):
            yield f"{item} was made by no migration, and could run with rights of heal_owner; as its owner: {item.drop}"
        for item in unknown_objects(conn):
            yield f"{item} is made by no migration of this version; if it is not yours: {item.drop}"
        for item in misowned(conn):
            yield f"{item} should belong to the role of the migrations; run `python -m heal_tasks migrate`"


def _roles(settings: Settings) -> Iterator[str]:
    with _database(settings) as conn:
        yield from grant_faults(conn, own_databases(settings))


def _neighbours(settings: Settings) -> Iterator[Finding]:
    """Databases of this deployment whose users may connect to this one; the check of the roles names a fault."""
    with suppress(HealError, psycopg.Error), _database(settings) as conn:
        for text in shared_roles(conn, own_databases(settings)):
            yield Finding("note", "roles", text)


def _readers(settings: Settings) -> list[Finding]:
    """Documents that readers are shown although they may not read them, or else the ways that keep them apart."""
    try:
        with _database(settings) as conn:
            found = examine_permissions(conn)
    except Exception as error:
        return [Finding("fail", "readers", described(error, settings))]
    faults = [Finding("fail", "readers", text) for text in found.faults]
    return faults or [Finding("ok", "readers", found.describe())]
