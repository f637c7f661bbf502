"""One generation: its row in ``heal.generation`` and the names of its tables."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.core.types import JsonObject
from heal_tasks.store.db import Connection
from heal_tasks.store.rows import find, select

State = Literal["building", "ready", "active", "previous", "retired", "failed"]
Metric = Literal["cosine", "inner_product"]
IndexKind = Literal["none", "vector", "halfvec"]
GenerationPrefix = Literal["vec", "push"]


@dataclass(frozen=True, slots=True)
class Generation:
    """A served state of a space, as in ``heal.generation``.

    ``nudge`` records how rows were moved (:meth:`heal_tasks.nudge.plan.NudgeRecord.to_json`); None: rows are not moved.
    """

    generation_id: int
    state: State
    run_id: str
    space_id: int
    dims: int
    topic_run_id: int | None
    metric: Metric
    nudge: JsonObject | None
    ef_search: int
    index_kind: IndexKind
    recall: float | None
    metrics: JsonObject
    note: str
    created_at: datetime
    activated_at: datetime | None
    retired_at: datetime | None

    def table(self, prefix: GenerationPrefix) -> sql.Identifier:
        """The table of served rows (``vec``), or of contrastive displacements (``push``) if ``contrast_steps`` > 0."""
        return sql.Identifier("heal", f"{prefix}_g{self.generation_id:06d}")

    @property
    def contrast_steps(self) -> int:
        """Steps of the contrastive displacement of rows; 0: rows were not displaced."""
        return int((self.nudge or {}).get("contrast_steps", 0))

    @property
    def by_people(self) -> bool:
        """True if only human questions move rows."""
        return bool((self.nudge or {}).get("by_people", False))


def get_generation(conn: Connection, generation_id: int) -> Generation:
    """One generation.

    Raises:
        StoreError: there is none with that id.
    """
    generation = find(conn, Generation, "FROM heal.generation WHERE generation_id = %s", (generation_id,))
    if generation is None:
        raise StoreError(f"there is no generation {generation_id}; SELECT * FROM heal.generation_status lists them")
    return generation


@dataclass(frozen=True, slots=True)
class ServedRow:
    """A searchable generation, as in ``heal.generation_status``; rows as of the last ANALYZE."""

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
    rest = "FROM heal.generation_status WHERE state IN ('active', 'previous') ORDER BY state"
    return select(conn, ServedRow, rest)
