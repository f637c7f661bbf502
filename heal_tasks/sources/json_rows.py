"""Rows of JSON Lines and of JSON files.

A value of JSON takes up to 60 times its bytes in memory, and nothing of it can be dropped before all of it is read. So
what is too long, or has too many values, is refused before it is parsed.
"""

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, AnyStr

from heal_tasks.core.types import Rejected
from heal_tasks.sources.encodings import decode, decode_wide
from heal_tasks.sources.records import reject, reject_undecodable
from heal_tasks.sources.table_rows import Columns, Row

_MAX_VALUES = 8_000_000
"""Half a gibibyte of memory, for the smallest strings and numbers."""
_BYTES_PER_CHAR = 12  # of a character outside the basic plane that is written as two escapes
_METADATA_BYTES = 2**20


def jsonl_rows(path: str, data: bytes, columns: Columns, max_chars: int) -> Iterator[Row | Rejected]:
    """Read every JSON line that is not blank, in any form of Unicode; a byte order mark may stand before any line.

    A line that is not UTF-8 is rejected alone.
    """
    if (wide := decode_wide(data)) is not None:
        data = wide.encode("utf-8", "surrogatepass")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    longest = _BYTES_PER_CHAR * max_chars + _METADATA_BYTES
    for number, line in enumerate(io.BytesIO(data), start=1):
        if len(line) > longest or _values(line, b"[", b"{", b",") > _MAX_VALUES:
            yield reject(path, number, f"the line has {len(line)} bytes, more than a record can have; split it", line)
            continue
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            yield reject_undecodable(path, number, error)
            continue
        if text:
            yield _json_line(path, number, text, columns)


def json_rows(path: str, data: bytes, columns: Columns, max_chars: int) -> Iterator[Row | Rejected]:
    """Read a JSON file: an array of records, an object with one array of records, one record, or JSON Lines.

    ``line`` of a row is its number in the array.
    """
    del max_chars  # the size of the file is the bound
    text = decode(data)
    lost = max(1, text.count("{"))
    if _values(text, "[", "{", ",") > _MAX_VALUES:
        yield reject(path, 0, f"the file has more than {_MAX_VALUES} JSON values; write JSON Lines instead", text, lost)
        return
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        # Not by ``splitlines``: JSON allows U+2028 and its like inside a string.
        lines = [line for line in re.split(r"[\r\n]+", text.strip()) if line.strip()]
        if len(lines) > 1 and _is_object(lines[0]):
            yield from jsonl_rows(path, data, columns, len(data))
            return
        reason = f"broken JSON: {error.msg} at line {error.lineno} column {error.colno}; write the file again"
        yield reject(path, error.lineno, reason, text, lost)
        return
    except (ValueError, RecursionError) as error:
        yield reject(path, 0, f"JSON that cannot be read ({type(error).__name__}: {error}); simplify it", text, lost)
        return
    records, numbered = _records(value, columns)
    if not numbered and lost > 1 and columns.missing(set(named(value, columns))):
        reason = f"an object without {columns.described()}, and without one array of records; write an array of records"
        yield reject(path, 0, reason, text, lost - 1)
        return
    for number, record in enumerate(records, start=1):
        yield _row(path, number if numbered else 0, record, columns, record)


def named(values: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """The values with the names of known columns in lower case, unless that name is there already."""
    found = dict(values)
    for name in values:
        if name not in columns.known and (plain := name.strip().lower()) in columns.known and plain not in values:
            found[plain] = found.pop(name)
    return found


def _json_line(path: str, number: int, text: str, columns: Columns) -> Row | Rejected:
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return reject(path, number, f"broken JSON: {error.msg} at column {error.colno}; one object per line", text)
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or thousands of brackets.
        return reject(path, number, f"JSON that cannot be read ({type(error).__name__}: {error}); simplify it", text)
    return _row(path, number, value, columns, text)


def _row(path: str, number: int, value: Any, columns: Columns, raw: Any) -> Row | Rejected:
    if not isinstance(value, dict):
        reason = f"JSON {type(value).__name__} where an object is wanted; one object per line"
        return reject(path, number, reason, raw, len(value) or 1 if isinstance(value, list) else 1)
    return Row(number, named(value, columns), raw)


def _records(value: Any, columns: Columns) -> tuple[list[Any], bool]:
    """The records of a JSON file, and whether they are several."""
    if isinstance(value, list):
        return value, True
    if isinstance(value, dict) and columns.missing(set(named(value, columns))):
        arrays = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        if len(arrays) == 1:
            return arrays[0], True
    return [value], False


def _is_object(text: str) -> bool:
    try:
        return isinstance(_DECODER.decode(text.lstrip("\ufeff").strip()), dict)
    except (ValueError, RecursionError):
        return False


def _values(text: AnyStr, *marks: AnyStr) -> int:
    """About the number of values: of brackets and commas."""
    return sum(text.count(mark) for mark in marks)


def _finite(digits: str) -> float | None:
    """Read NaN and Infinity, which Python writes and JSON does not know, and numbers too large as null."""
    value = float(digits)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
