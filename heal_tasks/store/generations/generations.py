"""Generations: made, switched to, rolled back, dropped; ``ServedRepository`` reads and writes what they serve."""

import random
import time
from collections.abc import Sequence
from typing import Any, Literal, get_args

import psycopg
from psycopg import sql

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.core.types import JsonObject
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generation import Generation, GenerationPrefix, Metric, State, get_generation
from heal_tasks.store.generations.search import named_errors
from heal_tasks.store.rows import scalar, select
from heal_tasks.store.spaces.spaces import Space
from heal_tasks.store.spaces.vector_tables import create_keyed, give_table, table_exists

LOCK_TIMEOUT_MS = 50
"""A reader waits at most this long behind a switch: the longest of 1,000 readers took 52 ms (bench.switches)."""

_SETTABLE = {"nudge", "ef_search", "recall", "metrics"}


class GenerationRepository:
    """Generations by id, over an autocommit connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def create(
        self,
        *,
        run_id: str,
        space: Space,
        topic_run_id: int | None = None,
        metric: Metric = "cosine",
        nudge: JsonObject | None = None,
    ) -> Generation:
        """Make a generation in state ``building``, without tables.

        The metric is ``inner_product`` for NUDGE-M, whose vectors are not of unit length. ``nudge`` is the record of
        how rows are moved, None if they are not.
        """
        number = scalar(
            self._conn,
            "INSERT INTO heal.generation (run_id, space_id, dims, topic_run_id, metric, nudge) "
            "VALUES (%s, %s, %s, %s, %s, %s) RETURNING generation_id",
            (run_id, space.space_id, space.dims, topic_run_id, metric, nudge),
        )
        return get_generation(self._conn, number)

    def create_tables(self, generation: Generation) -> None:
        """Make the empty table of served rows, and that of displacements if the nudge record has contrast steps.

        Tables that an interrupted attempt left half-written are dropped first.

        Raises:
            StoreError: the generation is live.
        """
        self._refuse_live(generation.generation_id)
        unit_length = sql.SQL(", CONSTRAINT unit_length CHECK (abs(vector_norm(embedding) - 1) < 1e-3)")
        with self._conn.transaction():
            self._drop(generation)
            # A nudge of a few percent never reaches the default threshold of 20 %, but its dead rows cost recall.
            self._conn.execute(
                sql.SQL(
                    "CREATE TABLE {} (chunk_id bigint NOT NULL, document_id bigint NOT NULL, leaf integer NOT NULL, "
                    "embedding vector({}) NOT NULL{}) WITH (autovacuum_vacuum_scale_factor = 0.02)"
                ).format(
                    generation.table("vec"),
                    sql.Literal(generation.dims),
                    unit_length if generation.metric == "cosine" else sql.SQL(""),
                )
            )
            give_table(self._conn, generation.table("vec"))
            if generation.contrast_steps:
                create_keyed(self._conn, generation.table("push"), "chunk", generation.dims)

    def get(self, generation_id: int) -> Generation:
        """One generation; StoreError if there is none with that id."""
        return get_generation(self._conn, generation_id)

    def active(self) -> Generation | None:
        """The generation that is served, or None."""
        return next(iter(self.list("active")), None)

    def previous(self) -> Generation | None:
        """The generation that a rollback returns to, or None."""
        return next(iter(self.list("previous")), None)

    def list(self, *states: State) -> Sequence[Generation]:
        """Generations in any of the states (in all, if none is given), oldest first."""
        rest = "FROM heal.generation WHERE state = ANY(%s) ORDER BY generation_id"
        return select(self._conn, Generation, rest, ([*(states or get_args(State))],))

    def set_fields(self, generation_id: int, **values: Any) -> Generation:
        """Change nudge, ef_search, recall or metrics, and return the generation; StoreError for other columns."""
        if unknown := values.keys() - _SETTABLE:
            raise StoreError(f"{sorted(unknown)} cannot be set on a generation; these can: {sorted(_SETTABLE)}")
        assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
        query = sql.SQL("UPDATE heal.generation SET {} WHERE generation_id = %s").format(assignments)
        self._conn.execute(query, (*values.values(), generation_id))
        return get_generation(self._conn, generation_id)

    def set_state(self, generation_id: int, state: Literal["ready", "failed"], note: str | None = None) -> None:
        """Mark a generation that is building or ready as ready or failed, and replace its note.

        Raises:
            StoreError: the generation is in another state, or ``state`` is one that only ``activate`` sets.
        """
        with self._conn.transaction():
            current = get_generation(self._conn, generation_id).state
            if state not in ("ready", "failed") or current not in ("building", "ready", state):
                raise StoreError(
                    f"generation {generation_id} is {current} and cannot become {state} by hand; use activate"
                )
            self._conn.execute(
                "UPDATE heal.generation SET state = %s, note = coalesce(%s, note) "
                "WHERE generation_id = %s AND state = %s",
                (state, note, generation_id, current),
            )

    def activate(self, generation_id: int, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS, attempts: int = 30) -> None:
        """Switch all readers to a ready generation, or back to the previous one; the active one stays as it is.

        A reader's open transaction holds up the switch. The switch gives way after ``lock_timeout_ms``, so that later
        readers do not queue behind it, and tries again, up to ``attempts`` times.

        Raises:
            StoreError: the generation is neither ready nor previous.
            RetryableError: readers held the lock through all attempts.
        """
        for attempt in range(attempts):
            try:
                with named_errors(), self._conn.transaction():
                    self._conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{lock_timeout_ms}ms",))
                    self._conn.execute("CALL heal.activate(%s::bigint)", (generation_id,))
            except psycopg.errors.LockNotAvailable:
                # Jitter, so that two callers do not meet again and again.
                time.sleep(min(0.05 * 2**attempt, 2.0) * random.uniform(0.5, 1.0))  # noqa: S311
            else:
                return
        raise RetryableError(
            f"generation {generation_id} could not be switched to: through {attempts} attempts of {lock_timeout_ms} ms "
            "an open transaction kept heal.embedding locked; SELECT * FROM pg_stat_activity shows whose"
        )

    def drop_tables(self, generation_id: int) -> bool:
        """Drop a generation's tables and return True if there were any; its row stays as a record.

        Raises:
            StoreError: the generation is live.
        """
        generation = self._refuse_live(generation_id)
        with self._conn.transaction():
            found = table_exists(self._conn, generation.table("vec"))
            self._drop(generation)
        return found

    def discard_unfinished(self, run_id: str) -> None:
        """Put away the generations that an earlier, interrupted attempt of a run has left."""
        for generation in self.list("building", "ready"):
            if generation.run_id == run_id:
                self.set_state(generation.generation_id, "failed", note="replaced by a later attempt of its run")
                self.drop_tables(generation.generation_id)

    def retire_old(self, drain_hours: float) -> Sequence[int]:
        """Drop the tables of generations retired, or made and failed, so many hours ago, and return their ids.

        Until then a client may still have such a generation in its cache.
        """
        old = select(
            self._conn,
            Generation,
            "FROM heal.generation WHERE state IN ('retired', 'failed') "
            "AND coalesce(retired_at, created_at) <= now() - make_interval(secs => %s) ORDER BY generation_id",
            (drain_hours * 3600,),
        )
        return [item.generation_id for item in old if self.drop_tables(item.generation_id)]

    def _drop(self, generation: Generation) -> None:
        tables = [generation.table(prefix) for prefix in get_args(GenerationPrefix)]
        self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(tables)))

    def _refuse_live(self, generation_id: int) -> Generation:
        generation = get_generation(self._conn, generation_id)
        if generation.state in ("active", "previous"):
            raise StoreError(
                f"generation {generation_id} is {generation.state}, so its tables are in use and stay as they are"
            )
        return generation


__all__ = ["Generation", "GenerationRepository", "Metric", "State"]
