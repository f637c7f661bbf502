"""Plain text, Markdown, HTML and PDF to documents: one document per file with the path as its id."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from heal_tasks.core.types import Record, Rejected
from heal_tasks.sources.encodings import read_text
from heal_tasks.sources.extract import UnreadableError
from heal_tasks.sources.formats.readers import KIND_OF
from heal_tasks.sources.markdown import first_heading, split_front_matter
from heal_tasks.sources.parser_process import extract
from heal_tasks.sources.records import build_record, is_visible, reject


def parse_txt(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Parse text; its title is the file name without suffix."""
    text, guessed = read_text(data)
    yield _document(path, "", text, max_chars, _noted(guessed))


def parse_md(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Take Markdown as it is, but its front matter as metadata; its title is there or the first heading."""
    text, guessed = read_text(data)
    try:
        metadata, body = split_front_matter(text)
    except UnreadableError as error:
        yield reject(path, 0, str(error), text)
        return
    title = metadata.pop("title", None)
    title = first_heading(body) if title is None else title
    yield _document(path, title, body, max_chars, metadata | _noted(guessed))


def _parse_apart(kind: str, path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Parse a file in the parser process."""
    try:
        found = extract(kind, data, max_chars)
    except UnreadableError as error:
        yield reject(path, 0, str(error), data if kind == "html" else "")
        return
    yield _document(path, found.title, found.body, max_chars, found.metadata)


parsed_apart = {suffix: partial(_parse_apart, kind) for suffix, kind in KIND_OF.items() if kind != "parquet"}
"""Parsers of kinds that the parser process reads, by suffix."""


def _document(path: str, title: str, body: str, max_chars: int, metadata: Mapping[str, Any]) -> Record | Rejected:
    return build_record(
        path,
        0,
        external_id=path,
        title=title if is_visible(title) else PurePosixPath(path).stem,
        body=body,
        metadata=metadata,
        max_chars=max_chars,
        raw=body,
    )


def _noted(guessed: str | None) -> dict[str, str]:
    return {} if guessed is None else {"encoding_guessed": guessed}
