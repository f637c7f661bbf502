"""Files to records: a parser per suffix, and the rejection of files that cannot be read at all.

The content of a file never raises: a bad record and a bad file each become a Rejected with place and reason, and
everything else is loaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from heal_tasks.core.errors import SourceError
from heal_tasks.core.source_tables import Rule
from heal_tasks.core.types import Record, Rejected, SourceFile, Unread
from heal_tasks.sources.base import Source
from heal_tasks.sources.parse_documents import parse_md, parse_txt, parsed_apart
from heal_tasks.sources.parse_tables import parse_csv, parse_json, parse_jsonl, parse_parquet
from heal_tasks.sources.records import reject, reject_undecodable

Parser = Callable[[str, bytes, int], Iterator[Record | Rejected]]
"""Takes the path, the content and the longest text in characters; may raise UnicodeDecodeError."""

PARSER_VERSION = 3
"""Raised with every change after which a parser reads what it refused before: refused files are then read again."""

PARSERS: dict[str, Parser] = {
    **dict.fromkeys((".jsonl", ".ndjson"), parse_jsonl),
    ".json": parse_json,
    **dict.fromkeys((".csv", ".tsv"), parse_csv),
    **dict.fromkeys((".txt", ".text"), parse_txt),
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), parse_md),
    **parsed_apart,
    ".parquet": parse_parquet,
}

TABLES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv"})
"""Kinds with a record per line: a file that cannot be decoded loses as many records as it has lines."""

MAX_REJECTED_PER_FILE = 1000
"""So many rejected records of a file are named; a file of millions of broken lines would fill memory and quarantine."""

MAX_REJECTED_IN_VAIN = 100_000
"""After so many rejected records a file of which nine in ten were rejected is read no further: it is not such a table.
A megabyte can hold half a million broken rows, and each takes five microseconds."""


PLAIN = Rule()


def kind_of(file: SourceFile) -> str:
    """The suffix, in lower case, that chooses the parser; a kind that ``PARSERS`` lacks is skipped."""
    return file.kind or PurePosixPath(file.real_path).suffix.lower()


def read_records(
    source: Source, file: SourceFile, *, max_bytes: int, max_chars: int, rule: Rule = PLAIN
) -> Iterator[Record | Rejected]:
    """Read one listed file of a kind in ``PARSERS`` and turn it into records, as the rule of its source says.

    A file that has more than ``max_bytes`` is rejected, and one that cannot be read this time is Unread. Of the records
    with one id in a file all but the first are rejected.

    Raises:
        RetryableError: a lost connection or throttling.
    """
    path, kind = file.path, kind_of(file)
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
    yield from _bounded(path, data, _unique(path, _parsed(path, kind, data, max_chars, rule)))


def _parsed(path: str, kind: str, data: bytes, max_chars: int, rule: Rule) -> Iterator[Record | Rejected]:
    parser: Callable[..., Iterator[Record | Rejected]] = PARSERS[kind]
    if kind in TABLES or kind == ".parquet":
        parser = partial(parser, fields=rule.fields)
    try:
        for item in parser(path, data, max_chars):
            if rule.metadata and isinstance(item, Record):
                item = replace(item, metadata={**rule.metadata, **item.metadata})
            yield item
    except UnicodeDecodeError as error:
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        yield reject_undecodable(path, 0, error, max(lines, data.count(b"{")) if kind in TABLES else 1)


def _unique(path: str, items: Iterator[Record | Rejected]) -> Iterator[Record | Rejected]:
    """Reject every record whose id an earlier one of the file has."""
    first_line: dict[str, int] = {}
    for item in items:
        if isinstance(item, Record):
            line = first_line.setdefault(item.external_id, item.line)
            if line != item.line:
                reason = f"id {item.external_id!r} is already on line {line}; make ids unique"
                yield reject(path, item.line, reason, item.body)
                continue
        yield item


def _bounded(path: str, data: bytes, items: Iterator[Record | Rejected]) -> Iterator[Record | Rejected]:
    """Count the rejected records beyond the first thousand in one last Rejected, and give up a file of nothing else."""
    accepted = named = more = line = 0
    unread = ""
    for item in items:
        if isinstance(item, Record):
            accepted += 1
        elif named == MAX_REJECTED_PER_FILE:
            more += item.records
            line = line or item.line
            if more > max(MAX_REJECTED_IN_VAIN, 9 * accepted):
                more += max(0, data.count(b"\n") - item.line)
                unread = " or, after so many, not read"
                break
            continue
        else:
            named += 1
        yield item
    if more:
        reason = f"{more} more records were rejected{unread}, from this line on; mend those that are named first"
        yield reject(path, line, reason, records=more)
