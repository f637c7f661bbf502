"""Shared by all parsers: the check that a record can be stored, and its bounds.

Postgres stores neither NUL characters nor lone surrogates, in text or in jsonb. One such record must not take a batch
of five hundred down with it, so each is rejected here with its place.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from heal_tasks.core.ids import natural_key
from heal_tasks.core.text import storable, unstorable
from heal_tasks.core.types import Record, Rejected

MAX_TITLE_CHARS = 500
"""A longer title is cut. The encoder reads 200 characters of it, and the title is indexed with every chunk."""

_RAW_CHARS = 500
_MAX_REASON_CHARS = 300
_MAX_DEPTH = 50
# Postgres takes up to 256 MiB, but every key and value is an entry of the index that filters use.
_MAX_METADATA_CHARS = 64 * 1024

# By Unicode's categories letters, symbols and marks, but drawn as nothing: fillers, joiners, variation selectors.
_BLANKS = {*"\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\u180b\u180c\u180d", *map(chr, range(0xFE00, 0xFE10))}
_VISIBLE_CATEGORIES = frozenset("LNPSM")
# Hyphenation hints and byte order marks inside a text: nobody sees them, and word search does not find such words.
_SEARCHED_AWAY = re.compile("[\u00ad\ufeff]")


def reject(path: str, line: int, reason: str, raw: Any = "", records: int = 1) -> Rejected:
    """Make a Rejected; ``raw`` (text, bytes or a JSON value) is cut to 500 characters that can be stored."""
    if isinstance(raw, bytes):
        # Four bytes are the longest character of UTF-8, so this much is enough for the cut below.
        raw = raw[: 4 * _RAW_CHARS].decode("utf-8", "replace")
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
    return Rejected(path, line, storable(reason[:_MAX_REASON_CHARS]), storable(text[:_RAW_CHARS]), records)


def reject_undecodable(path: str, line: int, error: UnicodeDecodeError, records: int = 1) -> Rejected:
    """Make a Rejected for bytes in another encoding."""
    return reject(path, line, undecodable(error), error.object, records)


def undecodable(error: UnicodeDecodeError) -> str:
    """Reason for refusing bytes in another encoding."""
    found = error.object[error.start : error.start + 1].hex()
    return f"not {error.encoding}: byte 0x{found} at offset {error.start}; convert it to UTF-8"


def is_visible(text: str) -> bool:
    """True if a text has more than white space, controls, marks of format and fillers, or something broken."""
    first = text[:1]
    if first.isascii() and first.isalnum():  # nearly every text
        return True
    return any(
        (unicodedata.category(char)[0] in _VISIBLE_CATEGORIES and char not in _BLANKS) or unstorable(char)
        for char in text
    )


def external_id_of(value: Any) -> str:
    """Make the id of a document as it is stored (``core.ids.natural_key``), without invisible characters around it.

    A number that is whole counts as the integer, because exports write integers as 1.0 where a column has gaps.

    Raises:
        ValueError: it cannot be an id; the message says why.
    """
    if value is None:
        raise ValueError("is missing; every record needs one that stays the same from run to run")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"is {_kind(value)}; make it a string or an integer")
    text = natural_key(_stripped(str(value)))
    if not text:
        raise ValueError("is empty; every record needs one that stays the same from run to run")
    return text


def bounded_title(title: str) -> str:
    """Make a title one line of at most 500 characters; a cut ends in an ellipsis."""
    title = " ".join(_SEARCHED_AWAY.sub("", title).split())
    return title if len(title) <= MAX_TITLE_CHARS else f"{title[: MAX_TITLE_CHARS - 1].rstrip()}…"


def too_long(chars: int, max_chars: int) -> str:
    """Reason for refusing a text of too many characters."""
    return f"text has {chars} characters, at most {max_chars} are taken; split it"


def build_record(
    path: str,
    line: int,
    *,
    external_id: Any,
    title: Any,
    body: Any,
    metadata: Mapping[str, Any],
    max_chars: int,
    raw: Any,
) -> Record | Rejected:
    """Make a Record if all its parts can be stored, else a Rejected that names the field.

    Args:
        path: the source file.
        line: as in Record and Rejected.
        external_id: string or integer; see ``external_id_of``.
        title: string or None; see ``bounded_title``.
        body: string with something to see; line ends become ``\\n``, surrounding white space is removed.
        metadata: JSON values, without NaN and infinity.
        max_chars: longest body, in characters.
        raw: the input, for quarantine.
    """
    try:
        external_id = external_id_of(external_id)
    except ValueError as error:
        return reject(path, line, f"id {error}", raw)
    if title is not None and not isinstance(title, str):
        return reject(path, line, f"title is {_kind(title)}; make it a string or leave it out", raw)
    if not isinstance(body, str):
        return reject(path, line, f"text is {_kind(body)}; give a string in field text or body", raw)
    body = _SEARCHED_AWAY.sub("", body.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not is_visible(body):
        return reject(path, line, "text is empty; leave the record out or give it text", raw)
    if len(body) > max_chars:
        return reject(path, line, too_long(len(body), max_chars), raw)
    title = bounded_title(title) if title and is_visible(title) else ""
    for name, value in (("id", external_id), ("title", title), ("text", body), ("metadata", metadata)):
        if (problem := storage_problem(value)) is not None:
            return reject(path, line, f"{name} {problem}", raw)
    if metadata and (size := len(json.dumps(metadata, ensure_ascii=False))) > _MAX_METADATA_CHARS:
        reason = f"metadata has {size} characters as JSON, at most {_MAX_METADATA_CHARS} are taken; leave fields out"
        return reject(path, line, reason, raw)
    return Record(external_id, title, body, metadata, path, line)


def storage_problem(value: Any, depth: int = 0) -> str | None:
    """Say why Postgres cannot store a value as text or jsonb; None if it can."""
    if isinstance(value, str):
        return f"contains {found}, which Postgres cannot store; remove it" if (found := unstorable(value)) else None
    if isinstance(value, Mapping | list):
        if depth == _MAX_DEPTH:
            return f"is nested deeper than {_MAX_DEPTH}; flatten it"
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        return next((problem for part in parts if (problem := storage_problem(part, depth + 1)) is not None), None)
    return None


def _stripped(text: str) -> str:
    """The text without blanks and invisible characters around it."""
    start, end = 0, len(text)
    while start < end and not is_visible(text[start]):
        start += 1
    while end > start and not is_visible(text[end - 1]):
        end -= 1
    return text[start:end]


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
