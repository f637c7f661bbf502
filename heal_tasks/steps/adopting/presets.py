"""The columns of the tables that known clients make, and the choice of columns for a table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from heal_tasks.core.acl import ACL_FIELD
from heal_tasks.core.errors import InputError

VECTOR_TYPES = frozenset({"vector", "halfvec"})
JSON_TYPES = frozenset({"json", "jsonb"})
METADATA_TYPES = JSON_TYPES | {
    "boolean", "smallint", "integer", "bigint", "numeric", "real", "double precision", "text", "character varying",
    "character", "bpchar", "uuid", "date", "timestamp without time zone", "timestamp with time zone",
}  # fmt: skip
"""Types of columns that are read into the metadata; others hold indexes of words and files."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table by their use; an empty name for none."""

    id: str = ""
    text: str = ""
    vector: str = ""
    metadata: str = ""
    updated_at: str = ""
    collection: str = ""  # of ids of collections

    def fits(self, names: Mapping[str, str]) -> bool:
        """True if a table with these columns, types by name, has all that are named."""
        return all(name in names for name in vars(self).values() if name)


PRESETS: dict[str, tuple[Columns, ...]] = {
    "langchain": (
        Columns("langchain_id", "content", "embedding", "langchain_metadata"),  # langchain-postgres, PGVectorStore
        Columns("langchain_id", "content", "embedding"),  # the same with store_metadata=False
        Columns("id", "document", "embedding", "cmetadata", collection="collection_id"),  # PGVector
        Columns("uuid", "document", "embedding", "cmetadata", collection="collection_id"),  # of langchain-community
    ),
    "llama-index": (Columns("id", "text", "embedding", "metadata_"),),  # llama-index-vector-stores-postgres
    "pgai": (Columns("embedding_uuid", "chunk", "embedding"),),  # the table or the view of a vectorizer
    "haystack": (Columns("id", "content", "embedding", "meta"),),  # pgvector-haystack
}
"""The tables of each client, newest first."""


def choose_columns(types: Mapping[str, str], given: Columns, preset: str) -> tuple[str, Columns]:
    """The columns to read, those given by name first, and the preset that has the others; empty for none.

    Args:
        types: type of every column of the table, by name.
        given: columns named on the command line.
        preset: one of ``PRESETS``; empty to recognise the table.

    Raises:
        InputError: a column is missing, or is not of a usable type.
    """
    if preset and preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; presets are {', '.join(PRESETS)}")
    complete = bool(given.id and given.text and given.vector)
    for name in [preset] if preset else [] if complete else [*PRESETS]:
        for columns in PRESETS[name]:
            chosen = replace(columns, **{use: column for use, column in vars(given).items() if column})
            if chosen.fits(types):
                _check_types(types, chosen)
                return name, chosen
    shown = ", ".join(f"{name} {kind}" for name, kind in types.items())
    if preset:
        wanted = " or ".join(", ".join(filter(None, vars(columns).values())) for columns in PRESETS[preset])
        raise InputError(f"the table has not the columns of {preset} ({wanted}); it has {shown}")
    if not complete:
        raise InputError(f"no client's table is recognised; name its columns by --id, --text and --vector, of {shown}")
    if not given.fits(types):
        raise InputError(
            f"a column is not there: {', '.join(sorted({*vars(given).values()} - {*types, ''}))}; of {shown}"
        )
    _check_types(types, given)
    return "", given


def _check_types(types: Mapping[str, str], columns: Columns) -> None:
    if types[columns.vector] not in VECTOR_TYPES:
        raise InputError(
            f"column {columns.vector!r} is of type {types[columns.vector]}; name one of type vector or halfvec"
        )
    if columns.metadata and types[columns.metadata] not in JSON_TYPES:
        raise InputError(
            f"column {columns.metadata!r} is of type {types[columns.metadata]}; metadata are json or jsonb"
        )


def other_columns(types: Mapping[str, str], columns: Columns) -> list[str]:
    """The columns without a use of their own that are read into the metadata: of plain types, and the list of readers.

    Raises:
        InputError: the column of readers is of a type that is no list of them; without it everybody would be one.
    """
    used = {*vars(columns).values()}
    for name, kind in types.items():
        if name.lower() == ACL_FIELD and kind not in METADATA_TYPES and not kind.endswith("[]"):
            raise InputError(f"column {name!r} is of type {kind}; readers are text[], json or text with commas")
    return [
        name for name, kind in types.items()
        if name not in used and (kind in METADATA_TYPES or name.lower() == ACL_FIELD)
    ]  # fmt: skip
