"""Helpers of the tests of parsing."""

from collections.abc import Iterator

from heal_tasks.core.types import Record, Rejected, SourceFile
from heal_tasks.sources.parse import read_records

LIMIT = 10_000


class FakeSource:
    """A source of one file, or of one that must not be read (None), or that raises."""

    name = "fake:"

    def __init__(self, content: bytes | Exception | None) -> None:
        self.content = content

    def list_files(self) -> Iterator[SourceFile]:
        yield from ()

    def read(self, file: SourceFile, limit: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        raise self.content or AssertionError(f"{file.path} must not be read")


def parse(path: str, data: bytes | str, max_chars: int = LIMIT) -> list[Record | Rejected]:
    data = data.encode() if isinstance(data, str) else data
    file = SourceFile(path, "f", len(data))
    return list(read_records(FakeSource(data), file, max_bytes=1_000_000, max_chars=max_chars))


def accepted(path: str, data: bytes | str) -> Record:
    (record,) = parse(path, data)
    assert isinstance(record, Record), record
    return record


def refused(path: str, data: bytes | str, max_chars: int = LIMIT) -> Rejected:
    (rejected,) = parse(path, data, max_chars)
    assert isinstance(rejected, Rejected), rejected
    return rejected
