"""One generation: its row in ``heal.generation`` and the names of its tables."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from pgvector import Vector
from psycopg import sql
from psycopg.rows import class_row

from heal_tasks.core.errors import StoreError
from heal_tasks.core.types import JsonObject
from heal_tasks.store.db import Connection

Kind = Literal["baseline", "reference", "trained"]
State = Literal["building", "ready", "active", "previous", "retired", "failed"]
Metric = Literal["cosine", "inner_product"]
IndexKind = Literal["none", "vector", "halfvec"]
Prefix = Literal["base", "vec", "question", "push"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One vector space, as in ``heal.generation``."""

    generation_id: int
    kind: Kind
    state: State
    run_id: str
    model_uri: str
    model_sha256: str
    dims: int
    topic_run_id: int | None
    metric: Metric
    nudge_variant: str
    nudge_theta: float
    nudge_prior: float
    nudge_centre: Vector | None
    nudge_contrast: int
    nudge_many: float
    nudge_by_people: bool
    ef_search: int
    recall: float | None
    metrics: JsonObject
    note: str
    created_at: datetime
    activated_at: datetime | None
    retired_at: datetime | None
    index_kind: IndexKind

    def table(self, prefix: Prefix) -> sql.Identifier:
        """One of its tables: ``base`` (encoder output), ``vec`` (served), ``question``; ``push`` where it has one."""
        return sql.Identifier("heal", f"{prefix}_g{self.generation_id:06d}")


NO_BUDGET: dict[str, Any] = {
    "nudge_variant": "none", "nudge_theta": 0.0, "nudge_prior": 0.0, "nudge_centre": None, "nudge_contrast": 0,
    "nudge_many": 0.0, "nudge_by_people": False,
}  # fmt: skip
"""Of a generation whose rows are not moved."""
COLUMNS = sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(Generation))


def find_generations(conn: Connection, condition: sql.Composable, values: tuple[object, ...] = ()) -> list[Generation]:
    """Generations that meet a condition, oldest first."""
    query = sql.SQL("SELECT {} FROM heal.generation WHERE {} ORDER BY generation_id").format(COLUMNS, condition)
    return conn.cursor(row_factory=class_row(Generation)).execute(query, values).fetchall()


def get_generation(conn: Connection, generation_id: int) -> Generation:
    """One generation.

    Raises:
        StoreError: there is none with that id.
    """
    found = find_generations(conn, sql.SQL("generation_id = %s"), (generation_id,))
    if not found:
        raise StoreError(f"there is no generation {generation_id}; SELECT * FROM heal.generation_status lists them")
    return found[0]


@dataclass(frozen=True, slots=True)
class ServedRow:
    """A searchable generation as ``heal.generation_status`` shows it; rows as of the last ANALYZE."""

    generation_id: int
    state: State
    rows: int | None
    dead_rows: int
    bytes: int
    index_bytes: int | None
    recall: float | None
    ef_search: int


def served_rows(conn: Connection) -> list[ServedRow]:
    """The active and the previous generation."""
    columns = sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(ServedRow))
    query = sql.SQL("SELECT {} FROM heal.generation_status WHERE state IN ('active', 'previous') ORDER BY state")
    return conn.cursor(row_factory=class_row(ServedRow)).execute(query.format(columns)).fetchall()
