"""Rows of tables, for documents and judgments alike: JSON Lines, JSON and CSV to dicts, one broken row at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from heal_tasks.core.types import Rejected


@dataclass(frozen=True, slots=True)
class Row:
    """One row or object of a table."""

    line: int  # 1-based line of its beginning, or number of the object in a JSON file
    values: Mapping[str, Any]  # by column; the columns asked for have their names in lower case
    raw: Any  # the input, for quarantine: its text, or a value of JSON
    guessed: str | None = None  # the encoding, if it was guessed


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a table is read for; their names count in any case."""

    required: tuple[tuple[str, ...], ...]  # of each group, at least one
    optional: tuple[str, ...] = ()
    ids: str | None = None  # the column that names documents
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the names."""
        object.__setattr__(self, "known", frozenset(self.optional).union(*self.required))

    def missing(self, names: set[str]) -> bool:
        """True if names in lower case lack a required column."""
        return any(names.isdisjoint(group) for group in self.required)

    def described(self) -> str:
        """The required columns in words."""
        return " and ".join(" or ".join(group) for group in self.required)


class RowReader(Protocol):
    """Reads a table; a row longer than ``max_chars`` is rejected before it is parsed."""

    def __call__(self, path: str, data: bytes, columns: Columns, max_chars: int) -> Iterator[Row | Rejected]:
        """Yield rows in order, and a Rejected for each that cannot be read."""
