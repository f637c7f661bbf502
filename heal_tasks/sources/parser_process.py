"""Parsers of untrusted formats run in one child process of their own, with bounds of time and memory.

A file that takes too long, needs too much memory or crashes a parser is refused, and the next one gets a new process.
The child gets bytes and a kind: no database, and an environment without secrets. Its replies are JSON of bounded size.
"""

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from heal_tasks.core.errors import RetryableError, SettingsError
from heal_tasks.core.settings import environment_of
from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.parser_child import MAX_MEMORY_BYTES, OUT_OF_MEMORY

SECONDS = 20.0
SECONDS_PER_MIB = 2.0
"""Bounds of the time for a file. HTML takes .2 s per MiB and PDF 2 ms per page; the rest is for busy machines."""

_START_SECONDS = 60
_REPLY_BYTES_PER_CHAR = 6  # of a control character as JSON
_REPLY_EXTRA_BYTES = 2**20
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME")

_of_thread = threading.local()


def extract(kind: str, data: bytes, max_chars: int) -> Extract:
    """Extract the text of a file in this thread's parser process, which is started if there is none.

    Args:
        kind: ``html`` or ``pdf``.
        data: the file.
        max_chars: longest text, in characters.

    Raises:
        UnreadableError: the file cannot be read, or took too much time or memory.
        SettingsError: the parser's library is not installed.
        RetryableError: no process can be started.
    """
    process: ParserProcess | None = getattr(_of_thread, "process", None)
    if process is None or not process.is_usable():
        process = _of_thread.process = ParserProcess()
    return process.extract(kind, data, max_chars)


@contextmanager
def parser_process() -> Iterator[None]:
    """End this thread's parser process, if one was started, with the block; without it, it ends with the thread."""
    try:
        yield
    finally:
        process: ParserProcess | None = _of_thread.__dict__.pop("process", None)
        if process is not None:
            process.stop()


class ParserProcess:
    """One child process, used by one thread of the process that started it."""

    def __init__(self) -> None:
        paths = (os.path.abspath(path) for path in sys.path)  # noqa: PTH100, "" is the working folder
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "heal_tasks.sources.parser_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**environment_of(*_KEPT_VARIABLES), "PYTHONPATH": os.pathsep.join(paths)},
                cwd="/",
            )
        except OSError as error:
            raise RetryableError(f"no process for parsers can be started ({error}); try again later") from error
        self._owner = os.getpid()
        self.stop = weakref.finalize(self, _stop, self._process, self._owner)
        with self._deadline(_START_SECONDS):
            started = self._receive(_REPLY_EXTRA_BYTES)
        if started is None:
            self.stop()
            raise RetryableError(
                "the process for parsers does not start; `python -m heal_tasks.sources.parser_child` shows why"
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def is_usable(self) -> bool:
        """False once it has ended, and in a process that was forked from the one that started it."""
        return self._owner == os.getpid() and self.stop.alive and self._process.poll() is None

    def extract(self, kind: str, data: bytes, max_chars: int) -> Extract:
        """See the function ``extract``."""
        seconds = SECONDS + SECONDS_PER_MIB * len(data) / 2**20
        request = {"kind": kind, "bytes": len(data), "max_chars": max_chars, "seconds": int(seconds) + 5}
        assert self._process.stdin is not None
        reply = None
        with self._deadline(seconds) as expired:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.write(data)
                self._process.stdin.flush()
            reply = self._receive(_REPLY_BYTES_PER_CHAR * max_chars + _REPLY_EXTRA_BYTES)
        if reply is None or expired.is_set() or reply.get("refused") == OUT_OF_MEMORY:
            self.stop()
        if reply is None:
            if expired.is_set():
                raise UnreadableError(f"reading the file took longer than {seconds:.0f} s; save it again, or split it")
            ended = self._process.returncode
            raise UnreadableError(f"the file crashed its parser (exit code {ended}); save it again")
        if reply.get("refused") == OUT_OF_MEMORY:
            size = f"{MAX_MEMORY_BYTES / 2**30:.0f} GiB"
            raise UnreadableError(f"reading the file needed more than {size} of memory; save it again, or split it")
        if "missing" in reply:
            raise SettingsError(f"files of kind {kind} cannot be parsed ({reply['missing']}); install requirements.txt")
        if "refused" in reply:
            raise UnreadableError(str(reply["refused"]))
        title, body, metadata = (reply.get(name) for name in ("title", "body", "metadata"))
        if not (isinstance(title, str) and isinstance(body, str) and isinstance(metadata, dict)):
            self.stop()
            raise UnreadableError("the file crashed its parser (no valid reply); save it again")
        return Extract(title, body, metadata)

    def _receive(self, most_bytes: int) -> dict[str, Any] | None:
        """The next reply; None if there is none, or none that is valid."""
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        size = int.from_bytes(stream.read(8), "big")
        if not 0 < size <= most_bytes:
            return None
        try:
            value = json.loads(stream.read(size))
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the process after so many seconds, which ends every wait for it; the event says that it happened."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill the process and close its pipes; a fork of its owner leaves it alone."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
