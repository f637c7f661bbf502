"""Tables of documents: JSON Lines, JSON, CSV and Parquet, one record per row.

Fields: ``id`` (required), ``text`` or ``body`` (required), ``title``; every other field is metadata. A table of
``sources.toml`` can name others. A broken row is rejected alone, and the rows after it are read.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from heal_tasks.core.acl import ACL_FIELD
from heal_tasks.core.source_tables import Fields
from heal_tasks.core.types import Record, Rejected
from heal_tasks.sources.csv_rows import csv_rows
from heal_tasks.sources.extract import UnreadableError
from heal_tasks.sources.json_rows import json_rows, jsonl_rows
from heal_tasks.sources.parser_process import extract
from heal_tasks.sources.records import build_record, is_visible, reject
from heal_tasks.sources.table_rows import Columns, Row, RowReader

TEXT_FIELDS = ("text", "body")
USUAL = Fields()
MAX_PARQUET_CHARS = 2**26
"""Of a Parquet file as JSON Lines, which are several times its bytes; the parser process has 1 GiB for them."""


def _parse(
    rows: RowReader, path: str, data: bytes, max_chars: int, fields: Fields = USUAL
) -> Iterator[Record | Rejected]:
    key, title, updated_at = fields.key.lower(), fields.title.lower(), fields.updated_at.lower()
    texts = tuple(name.lower() for name in fields.text)
    required = ((key,), *((name,) for name in texts)) if texts else ((key,), TEXT_FIELDS)
    columns = Columns(required, tuple(filter(None, (title, updated_at, "metadata"))), ids=key)
    wanted = None if fields.metadata is None else {ACL_FIELD, *map(str.lower, fields.metadata)}
    for row in rows(path, data, columns, max_chars):
        if isinstance(row, Rejected):
            yield row
            continue
        used, body = _joined(row.values, texts) if texts else _first(row.values)
        metadata = _metadata(row, {key, title, updated_at, "metadata", *used}, wanted)
        if updated_at and row.values.get(updated_at) is not None:
            metadata["updated_at"] = row.values[updated_at]
        yield build_record(
            path,
            row.line,
            external_id=row.values.get(key),
            title=row.values.get(title),
            body=body,
            metadata=metadata,
            max_chars=max_chars,
            raw=row.raw,
        )


def _first(values: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """The usual text of a row, after the names of its field and of empty ones."""
    given = [name for name in TEXT_FIELDS if values.get(name) is not None]
    filled = (name for name in given if not isinstance(values[name], str) or is_visible(values[name]))
    field = next(filled, given[0] if given else TEXT_FIELDS[0])
    return (field, *(name for name in TEXT_FIELDS if values.get(name) in ("", None))), values.get(field)


def _joined(values: Mapping[str, Any], names: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """The named texts of a row, a blank line between them, after the names; of other values one, to be refused."""
    found = [values[name] for name in names if values.get(name) is not None]
    other = next((value for value in found if not isinstance(value, str)), None)
    return names, "\n\n".join(filter(is_visible, found)) if other is None else other


def _metadata(row: Row, used: set[str], wanted: set[str] | None) -> dict[str, Any]:
    """The other fields of a row, of which only the wanted ones are taken if the source's table names any."""
    metadata = {name: item for name, item in row.values.items() if name not in used}
    nested = row.values.get("metadata")
    if isinstance(nested, dict):
        metadata |= nested
    elif nested is not None:
        metadata["metadata"] = nested
    if wanted is not None:
        metadata = {name: item for name, item in metadata.items() if name.lower() in wanted}
    if row.guessed is not None:
        metadata["encoding_guessed"] = row.guessed
    return metadata


def parse_parquet(path: str, data: bytes, max_chars: int, fields: Fields = USUAL) -> Iterator[Record | Rejected]:
    """Parse a Parquet table in the parser process."""
    try:
        found = extract("parquet", data, MAX_PARQUET_CHARS)
    except UnreadableError as error:
        yield reject(path, 0, str(error))
        return
    yield from parse_jsonl(path, found.body.encode("utf-8", "surrogatepass"), max_chars, fields)


parse_jsonl = partial(_parse, jsonl_rows)
parse_json = partial(_parse, json_rows)
parse_csv = partial(_parse, csv_rows)
