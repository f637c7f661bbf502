"""A space: its row in ``heal.space`` and the names of its tables."""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Literal

from psycopg import sql
from psycopg.rows import class_row

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection

SpacePrefix = Literal["base", "question"]


@dataclass(frozen=True, slots=True)
class Space:
    """The vectors of one encoder, as in ``heal.space``."""

    space_id: int
    model_uri: str
    model_sha256: str
    dims: int
    created_at: datetime
    used_at: datetime = field(compare=False)

    def table(self, prefix: SpacePrefix) -> sql.Identifier:
        """The table of chunk vectors (``base``) or of question vectors (``question``)."""
        return space_table(self.space_id, prefix)


def space_table(space_id: int, prefix: SpacePrefix) -> sql.Identifier:
    """Name of a table of a space; ``heal.space_table`` is the same rule for SQL."""
    return sql.Identifier("heal", f"{prefix}_s{space_id:06d}")


def find_spaces(conn: Connection, condition: sql.Composable, values: tuple[object, ...] = ()) -> list[Space]:
    """Spaces that meet a condition, oldest first."""
    columns = sql.SQL(", ").join(sql.Identifier(item.name) for item in fields(Space))
    query = sql.SQL("SELECT {} FROM heal.space WHERE {} ORDER BY space_id").format(columns, condition)
    return conn.cursor(row_factory=class_row(Space)).execute(query, values).fetchall()


def get_space(conn: Connection, space_id: int) -> Space:
    """One space.

    Raises:
        StoreError: there is none with that id.
    """
    found = find_spaces(conn, sql.SQL("space_id = %s"), (space_id,))
    if not found:
        raise StoreError(f"there is no space {space_id}; SELECT * FROM heal.space lists them")
    return found[0]
