"""Tables of documents: JSON Lines, JSON, CSV and Parquet, one record per row.

Fields: ``id`` (required), ``text`` or ``body`` (required), ``title``; every other field is metadata. A broken row is
rejected alone, and the rows after it are read.
"""

from collections.abc import Iterator
from functools import partial

from heal_tasks.core.types import Record, Rejected
from heal_tasks.sources.csv_rows import csv_rows
from heal_tasks.sources.extract import UnreadableError
from heal_tasks.sources.json_rows import json_rows, jsonl_rows
from heal_tasks.sources.parser_process import extract
from heal_tasks.sources.records import build_record, is_visible, reject
from heal_tasks.sources.table_rows import Columns, Row, RowReader

TEXT_FIELDS = ("text", "body")
MAX_PARQUET_CHARS = 2**26
"""Of a Parquet file as JSON Lines, which are several times its bytes; the parser process has 1 GiB for them."""

COLUMNS = Columns((("id",), TEXT_FIELDS), ("title", "metadata"), ids="id")


def _parse(rows: RowReader, path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    for row in rows(path, data, COLUMNS, max_chars):
        yield row if isinstance(row, Rejected) else _record(path, row, max_chars)


def _record(path: str, row: Row, max_chars: int) -> Record | Rejected:
    value = row.values
    given = [name for name in TEXT_FIELDS if value.get(name) is not None]
    filled = (name for name in given if not isinstance(value[name], str) or is_visible(value[name]))
    field = next(filled, given[0] if given else TEXT_FIELDS[0])
    metadata = {
        name: item
        for name, item in value.items()
        if name not in ("id", "title", field, "metadata") and not (name in TEXT_FIELDS and item in ("", None))
    }
    nested = value.get("metadata")
    if isinstance(nested, dict):
        metadata |= nested
    elif nested is not None:
        metadata["metadata"] = nested
    if row.guessed is not None:
        metadata["encoding_guessed"] = row.guessed
    return build_record(
        path,
        row.line,
        external_id=value.get("id"),
        title=value.get("title"),
        body=value.get(field),
        metadata=metadata,
        max_chars=max_chars,
        raw=row.raw,
    )


def parse_parquet(path: str, data: bytes, max_chars: int) -> Iterator[Record | Rejected]:
    """Parse a Parquet table in the parser process."""
    try:
        found = extract("parquet", data, MAX_PARQUET_CHARS)
    except UnreadableError as error:
        yield reject(path, 0, str(error))
        return
    yield from parse_jsonl(path, found.body.encode("utf-8", "surrogatepass"), max_chars)


parse_jsonl = partial(_parse, jsonl_rows)
parse_json = partial(_parse, json_rows)
parse_csv = partial(_parse, csv_rows)
