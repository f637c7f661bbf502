"""Files to records: a parser per suffix, and the rejection of files that cannot be read at all.

The content of a file never raises: a bad record and a bad file each become a Rejected with place and reason, and
everything else is loaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath

from heal_tasks.core.errors import SourceError
from heal_tasks.core.types import Record, Rejected, SourceFile, Unread
from heal_tasks.sources.base import Source
from heal_tasks.sources.parse_documents import parse_html, parse_md, parse_pdf, parse_txt
from heal_tasks.sources.parse_tables import parse_csv, parse_jsonl
from heal_tasks.sources.records import reject, reject_undecodable

Parser = Callable[[str, bytes, int], Iterator[Record | Rejected]]
"""Takes the path, the content and the longest text in characters; may raise UnicodeDecodeError."""

PARSER_VERSION = 1
"""Raised with every change after which a parser reads what it refused before: refused files are then read again."""

PARSERS: dict[str, Parser] = {
    ".jsonl": parse_jsonl,
    ".csv": parse_csv,
    ".txt": parse_txt,
    ".md": parse_md,
    ".html": parse_html,
    ".pdf": parse_pdf,
}


TABLES = frozenset({".jsonl", ".csv"})
"""Kinds with a record per line: one that is rejected as a whole loses about as many records as it has lines."""


def kind_of(path: str) -> str:
    """The suffix, in lower case, that chooses the parser; a kind that ``PARSERS`` lacks is skipped."""
    return PurePosixPath(path).suffix.lower()


def read_records(source: Source, file: SourceFile, *, max_bytes: int, max_chars: int) -> Iterator[Record | Rejected]:
    """Read one listed file of a kind in ``PARSERS`` and turn it into records.

    A file that has more than ``max_bytes`` is rejected, and one that cannot be read this time is Unread. Of the records
    with one id in a file all but the first are rejected.

    Raises:
        RetryableError: a lost connection or throttling.
    """
    path = file.path
    kind = kind_of(path)
    if file.size_bytes > max_bytes:
        too_large = f"the file has {file.size_bytes} bytes, at most {max_bytes} are read"
        yield reject(path, 0, f"{too_large}; split it or raise HEAL_MAX_FILE_MB")
        return
    try:
        data = source.read(file, max_bytes)
    except SourceError as error:
        refused = reject(path, 0, str(error))
        yield Unread(refused.path, refused.line, refused.reason, refused.raw)
        return
    if len(data) > max_bytes:
        too_large = f"the file was listed with {file.size_bytes} bytes and has more than {max_bytes}"
        yield reject(path, 0, f"{too_large}; split it or raise HEAL_MAX_FILE_MB", data)
        return
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        yield reject(path, 0, f"the file is empty ({len(data)} bytes); delete it or write it again")
        return
    items = _parsed(path, data, kind, max_chars)
    yield from _weighed(items, data.count(b"\n") + 1) if kind in TABLES else items


def _parsed(path: str, data: bytes, kind: str, max_chars: int) -> Iterator[Record | Rejected]:
    first_line: dict[str, int] = {}
    try:
        for item in PARSERS[kind](path, data, max_chars):
            if isinstance(item, Record):
                line = first_line.setdefault(item.external_id, item.line)
                if line != item.line:
                    reason = f"id {item.external_id!r} is already on line {line}; make ids unique"
                    yield reject(path, item.line, reason, item.body)
                    continue
            yield item
    except UnicodeDecodeError as error:
        yield reject_undecodable(path, 0, error)


def _weighed(items: Iterator[Record | Rejected], lines: int) -> Iterator[Record | Rejected]:
    """Give a rejection that is all that came of a table the weight of the whole table."""
    start = list(islice(items, 2))
    if len(start) == 1 and isinstance(start[0], Rejected):
        yield replace(start[0], records=max(start[0].records, lines - 1))
        return
    yield from start
    yield from items
