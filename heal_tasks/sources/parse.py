"""Files to records: dispatch by suffix, and the refusals that concern a file as a whole.

Nothing that a file contains raises: a bad record, and a bad file, each becomes a Rejected with its place
and reason, and everything else is loaded.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from heal_tasks.core.errors import SourceError
from heal_tasks.core.types import Record, Rejected, SourceFile
from heal_tasks.sources.base import Source
from heal_tasks.sources.parse_pdf import parse_pdf
from heal_tasks.sources.parse_tables import parse_csv, parse_jsonl
from heal_tasks.sources.parse_text import parse_html, parse_md, parse_txt
from heal_tasks.sources.records import reject

Parser = Callable[[str, bytes, int], Iterator[Record | Rejected]]

PARSERS: dict[str, Parser] = {
    ".jsonl": parse_jsonl,
    ".csv": parse_csv,
    ".txt": parse_txt,
    ".md": parse_md,
    ".html": parse_html,
    ".pdf": parse_pdf,
}


def parse(file: SourceFile, data: bytes, *, max_bytes: int, max_chars: int) -> Iterator[Record | Rejected]:
    """Turn one file into records.

    Args:
        file: as listed; its suffix, in any case, chooses the parser.
        data: its content; not looked at where the listed size is above ``max_bytes``.
        max_bytes: largest file.
        max_chars: longest text of a document, in characters.

    Yields:
        A Record for every document, and a Rejected for everything that was refused. An id that comes a
        second time in the file is refused.
    """
    if (refused := _refusal(file, max_bytes)) is not None:
        yield refused
        return
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        yield reject(file.path, 0, f"the file is empty ({len(data)} bytes); delete it or write it again")
        return
    first_line: dict[str, int] = {}
    for item in PARSERS[_suffix(file.path)](file.path, data, max_chars):
        if isinstance(item, Record):
            line = first_line.setdefault(item.external_id, item.line)
            if line != item.line:
                yield reject(
                    item.path,
                    item.line,
                    f"id {item.external_id!r} is already on line {line}; make ids unique",
                    item.body,
                )
                continue
        yield item


def read_records(source: Source, file: SourceFile, *, max_bytes: int, max_chars: int) -> Iterator[Record | Rejected]:
    """Read one listed file and turn it into records.

    Args:
        source: what listed it.
        file: as listed; one that is too large or of an unknown kind is refused without being read.
        max_bytes: largest file.
        max_chars: longest text of a document, in characters.

    Yields:
        What ``parse`` yields; one Rejected where the file cannot be read.

    Raises:
        RetryableError: a lost connection or throttling.
    """
    if (refused := _refusal(file, max_bytes)) is not None:
        yield refused
        return
    try:
        data = source.read(file)
    except SourceError as error:
        yield reject(file.path, 0, str(error))
        return
    yield from parse(file, data, max_bytes=max_bytes, max_chars=max_chars)


def _refusal(file: SourceFile, max_bytes: int) -> Rejected | None:
    """Why a file is not even read; None if it is."""
    suffix = _suffix(file.path)
    if suffix not in PARSERS:
        return reject(file.path, 0, f"files of kind {suffix!r} are not read; supported are {', '.join(PARSERS)}")
    if file.size_bytes > max_bytes:
        return reject(
            file.path,
            0,
            f"the file has {file.size_bytes} bytes, at most {max_bytes} are read; split it or raise HEAL_MAX_FILE_MB",
        )
    return None


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
