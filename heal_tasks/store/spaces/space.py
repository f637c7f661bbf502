"""A space: its row in ``heal.space`` and the names of its tables."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from psycopg import sql

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
