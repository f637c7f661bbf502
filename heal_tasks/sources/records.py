"""Shared by all parsers: decoding, and the check that a record can be stored.

Postgres stores neither NUL characters nor lone surrogates, in text or in jsonb. One such record must not take a batch
of five hundred down with it, so each is rejected here with its place.
"""

import codecs
from collections.abc import Mapping
from typing import Any

from heal_tasks.core.ids import natural_key
from heal_tasks.core.text import storable, unstorable
from heal_tasks.core.types import Record, Rejected

_RAW_CHARS = 500
_MAX_REASON_CHARS = 300
_MAX_DEPTH = 50

UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode(data: bytes) -> str:
    """Decode UTF-8 with or without byte order mark, or UTF-16 with one; the mark is removed.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return data.decode("utf-16" if data.startswith(UTF16_BOMS) else "utf-8-sig")


def reject(path: str, line: int, reason: str, raw: str | bytes = "") -> Rejected:
    """Make a Rejected; ``raw`` is cut to 500 characters, and characters that cannot be stored become U+FFFD."""
    # Four bytes are the longest character of UTF-8, so this much is enough for the cut below.
    text = raw if isinstance(raw, str) else raw[: 4 * _RAW_CHARS].decode("utf-8", "replace")
    return Rejected(path, line, storable(reason[:_MAX_REASON_CHARS]), storable(text[:_RAW_CHARS]))


def reject_undecodable(path: str, line: int, error: UnicodeDecodeError) -> Rejected:
    """Make a Rejected for bytes in another encoding."""
    found = error.object[error.start : error.start + 1].hex()
    reason = f"not {error.encoding}: byte 0x{found} at offset {error.start}; convert it to UTF-8"
    return reject(path, line, reason, error.object)


def build_record(
    path: str,
    line: int,
    *,
    external_id: Any,
    title: Any,
    body: Any,
    metadata: Mapping[str, Any],
    max_chars: int,
    raw: str,
) -> Record | Rejected:
    """Make a Record if all its parts can be stored, else a Rejected that names the field.

    Args:
        path: the source file.
        line: as in Record and Rejected.
        external_id: string or integer.
        title: string or None; line breaks become blanks.
        body: non-empty string; line ends become ``\\n``, surrounding white space is removed.
        metadata: JSON values, without NaN and infinity.
        max_chars: longest body, in characters.
        raw: the input, for quarantine.
    """
    if (problem := _id_problem(external_id)) is not None:
        return reject(path, line, problem, raw)
    if title is not None and not isinstance(title, str):
        return reject(path, line, f"title is {_kind(title)}; make it a string or leave it out", raw)
    if not isinstance(body, str):
        return reject(path, line, f"text is {_kind(body)}; give a string in field text or body", raw)
    body = body.replace("\r\n", "\n").replace("\r", "\n").strip()
    if not body:
        return reject(path, line, "text is empty; leave the record out or give it text", raw)
    if len(body) > max_chars:
        return reject(path, line, f"text has {len(body)} characters, at most {max_chars} are taken; split it", raw)
    title = " ".join((title or "").split())
    for name, value in (("id", external_id), ("title", title), ("text", body), ("metadata", metadata)):
        if (problem := _storage_problem(value)) is not None:
            return reject(path, line, f"{name} {problem}", raw)
    return Record(natural_key(str(external_id).strip()), title, body, metadata, path, line)


def _id_problem(external_id: Any) -> str | None:
    if external_id is None:
        return "id is missing; every record needs one that stays the same from run to run"
    if isinstance(external_id, bool) or not isinstance(external_id, str | int):
        return f"id is {_kind(external_id)}; make it a string or an integer"
    text = str(external_id).strip()
    if not text:
        return "id is empty; every record needs one that stays the same from run to run"
    return None


def _storage_problem(value: Any, depth: int = 0) -> str | None:
    """Say why Postgres cannot store a value as text or jsonb; None if it can."""
    if isinstance(value, str):
        return f"contains {found}, which Postgres cannot store; remove it" if (found := unstorable(value)) else None
    if isinstance(value, Mapping | list):
        if depth == _MAX_DEPTH:
            return f"is nested deeper than {_MAX_DEPTH}; flatten it"
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        return next((problem for part in parts if (problem := _storage_problem(part, depth + 1)) is not None), None)
    return None


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
