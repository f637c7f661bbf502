"""Streams over the network whose reads and writes end at a deadline, head and TLS included."""

import time
from collections.abc import Callable
from typing import Any

import httpcore2

Deadline = Callable[[], float]
"""The time until which this thread's request may take, by ``time.monotonic``."""


class TimedStream(httpcore2.NetworkStream):
    """A stream of which the timeouts do not begin anew with every byte."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See ``NetworkStream``."""
        return self._stream.read(max_bytes, self._left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See ``NetworkStream``."""
        self._stream.write(buffer, self._left_s(timeout))

    def close(self) -> None:
        """See ``NetworkStream``."""
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        """See ``NetworkStream``."""
        return TimedStream(self._stream.start_tls(*args, **options), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """See ``NetworkStream``."""
        return self._stream.get_extra_info(info)

    def _left_s(self, timeout_s: float | None) -> float:
        left_s = self._deadline() - time.monotonic()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("the reply was not complete in time")
        return left_s if timeout_s is None else min(timeout_s, left_s)
