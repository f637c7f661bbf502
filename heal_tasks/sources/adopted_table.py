"""An adopted table as a source: one row is one document; its parts, sets of rows by a hash of the id, are the files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from heal_tasks.core.errors import SourceError
from heal_tasks.core.types import SourceFile


class TableRows(Protocol):
    """Reader of a table's rows."""

    def parts(self) -> Sequence[tuple[int, str, int, list[str]]]:
        """Number, fingerprint, bytes of text and ids of every part."""

    def rows(self, ids: Sequence[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Id, text and metadata of rows, by id."""


class AdoptedTable:
    """The rows of ``table:SCHEMA.TABLE``."""

    def __init__(self, spec: str, table: TableRows) -> None:
        self.name, self._table = spec, table
        self._ids: dict[str, list[str]] = {}  # of the rows of each part, by path

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; one query for the whole table."""
        for number, version, size, ids in self._table.parts():
            path = f"rows-{number:06d}.jsonl"
            self._ids[path] = ids
            yield SourceFile(path, version, size)

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``; a line has id, text and metadata of a row."""
        if file.path not in self._ids:
            raise SourceError(f"{file.path} is not a part of {self.name}; list the source again")
        lines, size = list[bytes](), 0
        for key, text, metadata in self._table.rows(self._ids[file.path]):
            lines.append(json.dumps({"id": key, "text": text, "metadata": metadata}).encode() + b"\n")
            size += len(lines[-1])
            if size > limit:
                break
        return b"".join(lines)[: limit + 1]
