"""Bodies of replies that are compressed: whole, cut, empty, too large."""

import gzip
from collections.abc import Iterator

import httpx2
import pytest

from heal_tasks.endpoint.transport import TooLargeError, bound, bounded_lines

LINES = gzip.compress(b"".join(b'{"custom_id": "%d", "body": "%d"}\n' % (n, n * 7919 % 10007) for n in range(1000)))


class Pieces(httpx2.SyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield b""
        for place in range(0, len(self._data), 1000):
            yield self._data[place : place + 1000]


def reply(data: bytes, max_bytes: int = 10**6) -> httpx2.Response:
    made = httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=Pieces(data))
    bound(made, max_bytes)
    return made


def test_a_compressed_body_is_read_whole_or_not_at_all() -> None:
    assert len(list(bounded_lines(reply(LINES).iter_bytes()))) == 1000
    assert reply(b"").read() == b""
    for end in (1, 8, 3000):
        with pytest.raises(httpx2.DecodingError, match="the reply ends within its gzip data"):
            list(bounded_lines(reply(LINES[:-end]).iter_bytes()))
    with pytest.raises(TooLargeError):
        reply(LINES, 1000).read()
