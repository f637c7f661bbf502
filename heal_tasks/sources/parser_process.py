"""Parsers of untrusted formats run in one child process of their own, with bounds of time and memory.

A file that takes too long, needs too much memory or crashes a parser is refused, and the next one gets a new process.
The child gets bytes and a kind: no database, and an environment without secrets. Its replies are JSON of bounded size.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from heal_tasks.core.environment import environment_of
from heal_tasks.core.errors import RetryableError, SettingsError
from heal_tasks.sources.extract import Extract, UnreadableError
from heal_tasks.sources.parser_child import MAX_MEMORY_BYTES, OUT_OF_MEMORY

SECONDS = 20.0
SECONDS_PER_MIB = 2.0
"""Bounds of the time for a file. HTML takes .2 s per MiB and PDF 2 ms per page; the rest is for busy machines."""

_START_SECONDS = 60
_REPLY_BYTES_PER_CHAR = 6  # of a control character as JSON
_REPLY_EXTRA_BYTES = 2**20
_PIECE_BYTES = 2**18
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME")

_of_thread = threading.local()


def extract(kind: str, data: bytes, max_chars: int) -> Extract:
    """Extract the text of a file in this thread's parser process, which is started if there is none.

    Args:
        kind: one of ``formats.readers.READERS``.
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
                bufsize=0,
                env={**environment_of(*_KEPT_VARIABLES), "PYTHONPATH": os.pathsep.join(paths)},
                cwd="/",
            )
        except OSError as error:
            raise RetryableError(f"no process for parsers can be started ({error}); try again later") from error
        self._owner = os.getpid()
        self.stop = weakref.finalize(self, _stop, self._process, self._owner)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        try:
            started = self._exchange(b"", _REPLY_EXTRA_BYTES, _START_SECONDS)
        except TimeoutError:
            started = None
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
        most = _REPLY_BYTES_PER_CHAR * max_chars + _REPLY_EXTRA_BYTES
        try:
            reply = self._exchange(json.dumps(request).encode() + b"\n" + data, most, seconds)
        except TimeoutError:
            self.stop()
            message = f"reading the file took longer than {seconds:.0f} s; save it again, or split it"
            raise UnreadableError(message) from None
        if reply is None or reply.get("refused") == OUT_OF_MEMORY:
            self.stop()
        if reply is None:
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

    def _exchange(self, request: bytes, most_bytes: int, seconds: float) -> dict[str, Any] | None:
        """Send a request and return the reply; None if there is none, or none that is valid.

        Raises:
            TimeoutError: it took longer than ``seconds``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        sender, receiver = self._process.stdin.fileno(), self._process.stdout.fileno()
        deadline_s, unsent, received = time.monotonic() + seconds, memoryview(request), bytearray()
        pipes = select.poll()
        pipes.register(receiver, select.POLLIN)
        if unsent:
            pipes.register(sender, select.POLLOUT)
        while True:
            for pipe, _ in pipes.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                if pipe == receiver:
                    part = os.read(receiver, _PIECE_BYTES)
                    received += part
                    size = int.from_bytes(received[:8], "big")
                    if not part or (len(received) >= 8 and not 0 < size <= most_bytes):
                        return None
                    if len(received) >= 8 + size > 8:
                        return _json_object(bytes(received[8 : 8 + size]))
                    continue
                try:
                    unsent = unsent[os.write(sender, unsent) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    unsent = unsent[:0]
                if not unsent:
                    pipes.unregister(sender)
            if time.monotonic() >= deadline_s:
                raise TimeoutError


def _json_object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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
