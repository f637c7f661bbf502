"""Tables of documents: JSON Lines and CSV, one record per line or row.

Fields of both: ``id`` (required), ``text`` or ``body`` (required), ``title``; every other field is metadata. A broken
row is rejected alone, and the rows after it are read.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

from heal_tasks.core.types import Record, Rejected
from heal_tasks.sources.records import UTF16_BOMS, build_record, decode, reject, reject_undecodable

TEXT_FIELDS = ("text", "body")
DELIMITERS = ",;\t"


def parse_jsonl(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Parse every JSON line that is not blank, in UTF-8, or UTF-16 with a byte order mark.

    A line that is not UTF-8 is rejected alone.
    """
    if data.startswith(UTF16_BOMS):
        data = decode(data).encode()
    for number, line in enumerate(io.BytesIO(data), start=1):
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            yield reject_undecodable(path, number, error)
            continue
        if text:
            yield _json_record(path, number, text, max_chars)


def parse_csv(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Parse every CSV row that is not blank, below a header row, in UTF-8, or UTF-16 with a byte order mark.

    The delimiter is the one of comma, semicolon and tab that splits the header. A row's ``line`` is its first.
    """
    try:
        text = decode(data)
    except UnicodeDecodeError as error:
        yield reject_undecodable(path, data.count(b"\n", 0, error.start) + 1, error)
        return
    # Longer fields are an error by default. The limit is one of the process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    delimiter = _delimiter(text)
    if delimiter is None:
        reason = "the first row must name columns id and text (or body), split by comma, semicolon or tab"
        yield reject(path, 1, reason, text)
        return
    # Strict: a quote that is never closed is an error instead of a field that takes in the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader)]
    if len(set(header)) != len(header):
        yield reject(path, 1, f"the first row names a column twice ({header}); rename one", text)
        return
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reject(path, line, f"broken row ({error}); write a quote inside a quoted field twice")
            continue
        if any(cell.strip() for cell in row):
            yield _csv_record(path, line, header, row, max_chars)


def _json_record(path: str, number: int, text: str, max_chars: int) -> Record | Rejected:
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        return reject(path, number, f"broken JSON: {error.msg} at column {error.colno}; one object per line", text)
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or thousands of brackets.
        return reject(path, number, f"JSON that cannot be read ({type(error).__name__}: {error}); simplify it", text)
    if not isinstance(value, dict):
        return reject(path, number, f"JSON {type(value).__name__} where an object is wanted; one object per line", text)
    return _record(path, number, value, max_chars, text)


def _csv_record(path: str, line: int, header: list[str], row: list[str], max_chars: int) -> Record | Rejected:
    raw = ",".join(row)
    if len(row) != len(header):
        reason = f"the row has {len(row)} cells, the header {len(header)}; quote cells that contain the delimiter"
        return reject(path, line, reason, raw)
    return _record(path, line, {k: v for k, v in zip(header, row, strict=True) if v.strip()}, max_chars, raw)


def _record(path: str, line: int, value: dict[str, Any], max_chars: int, raw: str) -> Record | Rejected:
    field = next((name for name in TEXT_FIELDS if value.get(name) is not None), TEXT_FIELDS[0])
    metadata = {name: item for name, item in value.items() if name not in ("id", "title", field, "metadata")}
    nested = value.get("metadata")
    if isinstance(nested, dict):
        metadata |= nested
    elif nested is not None:
        metadata["metadata"] = nested
    return build_record(
        path,
        line,
        external_id=value.get("id"),
        title=value.get("title"),
        body=value.get(field),
        metadata=metadata,
        max_chars=max_chars,
        raw=raw,
    )


def _delimiter(text: str) -> str | None:
    for delimiter in DELIMITERS:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        names = {name.strip() for name in header}
        if "id" in names and not names.isdisjoint(TEXT_FIELDS):
            return delimiter
    return None


def _finite(digits: str) -> float | None:
    """Read NaN and Infinity, which Python writes and JSON does not know, and numbers too large as null."""
    value = float(digits)
    return value if math.isfinite(value) else None
