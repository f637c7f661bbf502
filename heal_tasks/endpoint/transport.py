"""An HTTP client whose replies are bounded in time and size, whatever a server sends, and that follows no redirect.

The timeouts of the HTTP client begin anew with every byte, and its decoders expand a compressed body whole. Here reads
from the network end at a deadline, head and TLS included, and a body is decompressed only as far as its bound.
"""

import ssl
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import httpcore2
import httpx2
import openai

from heal_tasks.endpoint.network import Deadline, TimedStream

MAX_REPLY_BYTES = 4 << 20
"""Largest body, decompressed: a hundred times the longest reply that is asked for."""


class TooLargeError(openai.OpenAIError):
    """A reply exceeds its bound."""


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, backend: httpcore2.NetworkBackend, deadline: Deadline) -> None:
        self._backend, self._deadline = backend, deadline

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return TimedStream(self._backend.connect_tcp(*args, **options), self._deadline)


@cache
def _certificates() -> ssl.SSLContext:
    """The authorities that this process trusts: to read them takes 36 ms, longer than many a request."""
    return httpx2.create_ssl_context()


def bounded_client(deadline: Deadline, **hooks: Callable[..., None]) -> httpx2.Client:
    """An HTTP client for the SDK, with hooks ``request`` and ``response``."""
    client: httpx2.Client = openai.DefaultHttpxClient(
        follow_redirects=False,
        headers={"Accept-Encoding": "gzip"},
        verify=_certificates(),
        event_hooks={name: [hook] for name, hook in hooks.items()},
    )
    # There is no public way to set the network backend and keep the proxies that the environment names.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            pool: Any = transport._pool
            pool._network_backend = _Backend(pool._network_backend, deadline)
    return client


def bound(response: httpx2.Response, max_bytes: int = MAX_REPLY_BYTES) -> None:
    """Have a reply's body read at most up to a size, decompressed; more than that is a TooLargeError."""
    encoding = response.headers.pop("content-encoding", "identity").strip().lower()
    # Whatever charset is named: JSON is UTF-8, and Python also knows codecs that decompress without a bound.
    response.encoding = "utf-8"
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _Body(response.stream, encoding, max_bytes)


def bounded_lines(pieces: Iterable[bytes], max_bytes: int = MAX_REPLY_BYTES) -> Iterator[str]:
    """Yield lines of bytes that come in pieces, without blank ones and those that are longer than ``max_bytes``."""
    line, skipping = b"", False
    for piece in pieces:
        *ended, line = (line + piece).split(b"\n")
        for text in ended:
            if text.strip() and not skipping:
                yield text.decode("utf-8", "replace")
            skipping = False
        if len(line) > max_bytes:
            line, skipping = b"", True
    if line.strip() and not skipping:
        yield line.decode("utf-8", "replace")


class _Body(httpx2.SyncByteStream):
    def __init__(self, body: httpx2.SyncByteStream, encoding: str, max_bytes: int) -> None:
        self._body, self._encoding, self._left = body, encoding, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._decoded(self._body):
            self._left -= len(piece)
            if self._left < 0:
                raise TooLargeError("the reply is larger than any that was asked for; the rest was not read")
            yield piece

    def close(self) -> None:
        self._body.close()

    def _decoded(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        if self._encoding in ("", "identity"):
            yield from pieces
            return
        if self._encoding not in ("gzip", "x-gzip"):
            raise httpx2.DecodingError(f"the reply is encoded as {self._encoding[:40]!r}, which was not asked for")
        decoder, empty = zlib.decompressobj(zlib.MAX_WBITS | 32), True
        try:
            for piece in pieces:
                empty = empty and not piece
                while piece:
                    yield decoder.decompress(piece, self._left + 1)
                    piece = decoder.unconsumed_tail
        except zlib.error as error:
            raise httpx2.DecodingError(f"the reply cannot be decompressed: {error}") from error
        if not (empty or decoder.eof):  # of a result file the lines that are missing would look unanswered
            raise httpx2.DecodingError("the reply ends within its gzip data")
