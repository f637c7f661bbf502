"""Generations: made, switched to, rolled back, dropped; ``ServedRepository`` reads and writes what they serve."""

import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import psycopg
from psycopg import sql

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.core.types import JsonObject
from heal_tasks.store.db import Repository, find, scalar, select
from heal_tasks.store.generations.search import named_errors
from heal_tasks.store.spaces.spaces import Space
from heal_tasks.store.spaces.vector_tables import create_keyed, drop_soon, give_table, table_exists

State = Literal["building", "ready", "active", "previous", "retired", "failed"]
Metric = Literal["cosine", "inner_product"]
IndexKind = Literal["none", "vector", "halfvec", "bit"]
GenerationPrefix = Literal["vec", "lex", "push"]

LOCK_TIMEOUT_MS = 50
"""A reader waits at most this long behind a switch: the longest of 1,000 readers took 52 ms (bench.switches)."""

_SETTABLE = {"nudge", "lexicon", "ef_search", "oversampling", "recall", "metrics"}


@dataclass(frozen=True, slots=True)
class Generation:
    """A served state of a space, as in ``heal.generation``."""

    generation_id: int
    state: State
    run_id: str
    space_id: int
    dims: int
    topic_run_id: int | None
    metric: Metric
    nudge: JsonObject | None  # how rows are moved, a NudgeRecord as JSON; None: they are not
    lexicon: JsonObject | None  # how the lexicon is fitted and used, a LexiconRecord as JSON; None: there is none
    ef_search: int
    index_kind: IndexKind
    oversampling: int  # candidates for each row wanted, in a search by an index of bits
    recall: float | None
    metrics: JsonObject
    note: str
    created_at: datetime
    activated_at: datetime | None

    def table(self, prefix: GenerationPrefix) -> sql.Identifier:
        """The table of served rows (``vec``), of the lexicon (``lex``), or of displacements (``push``)."""
        return sql.Identifier("heal", f"{prefix}_g{self.generation_id:06d}")

    @property
    def effort(self) -> str:
        """What a search by the index reads, in words: the value that is raised until the recall is reached."""
        return f"oversampling {self.oversampling}" if self.index_kind == "bit" else f"ef_search {self.ef_search}"

    @property
    def contrast_steps(self) -> int:
        """Steps of the contrastive displacement of rows; 0: rows were not displaced."""
        return int((self.nudge or {}).get("contrast_steps", 0))

    @property
    def by_people(self) -> bool:
        """True if only human questions move rows."""
        return bool((self.nudge or {}).get("by_people", False))

    @property
    def public_words(self) -> bool:
        """True if its lexicon, and so its topics, are of documents that everybody may read."""
        return bool((self.lexicon or {}).get("public", False))


class GenerationRepository(Repository):
    """Generations by id."""

    def create(
        self,
        *,
        run_id: str,
        space: Space,
        topic_run_id: int | None = None,
        metric: Metric = "cosine",
        nudge: JsonObject | None = None,
        lexicon: JsonObject | None = None,
    ) -> Generation:
        """Make a generation in state ``building``, without tables.

        The metric is ``inner_product`` for NUDGE-M, whose vectors are not of unit length.
        """
        number = scalar(
            self._conn,
            "INSERT INTO heal.generation (run_id, space_id, dims, topic_run_id, metric, nudge, lexicon) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING generation_id",
            (run_id, space.space_id, space.dims, topic_run_id, metric, nudge, lexicon),
        )
        return self.get(number)

    def create_tables(self, generation: Generation) -> None:
        """Make empty tables of rows, lexicon and, with contrast steps, displacements, in place of half-written ones."""
        unit_length = sql.SQL(", CONSTRAINT unit_length CHECK (abs(vector_norm(embedding) - 1) < 1e-3)")
        with self._conn.transaction():
            self.drop_tables(generation.generation_id)
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
            self._conn.execute(
                sql.SQL(
                    "CREATE TABLE {} (language text, stem text, chunks integer NOT NULL, weight real NOT NULL, "
                    "embedding halfvec({}) NOT NULL, PRIMARY KEY (language, stem))"
                ).format(generation.table("lex"), sql.Literal(generation.dims))
            )
            give_table(self._conn, generation.table("lex"))
            if generation.contrast_steps:
                create_keyed(self._conn, generation.table("push"), "chunk", generation.dims)

    def get(self, generation_id: int) -> Generation:
        """One generation; StoreError if there is none with that id."""
        generation = find(self._conn, Generation, "FROM heal.generation WHERE generation_id = %s", (generation_id,))
        if generation is None:
            raise StoreError(f"there is no generation {generation_id}; SELECT * FROM heal.generation_status lists them")
        return generation

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
        """Change some of ``_SETTABLE``, and return the generation; StoreError for other columns."""
        if unknown := values.keys() - _SETTABLE:
            raise StoreError(f"{sorted(unknown)} cannot be set on a generation; these can: {sorted(_SETTABLE)}")
        assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
        query = sql.SQL("UPDATE heal.generation SET {} WHERE generation_id = %s").format(assignments)
        self._conn.execute(query, (*values.values(), generation_id))
        return self.get(generation_id)

    def set_state(self, generation_id: int, state: Literal["ready", "failed"], note: str | None = None) -> None:
        """Mark a generation that is building or ready as ready or failed, and replace its note.

        Raises:
            StoreError: the generation is in another state, or ``state`` is one that only ``activate`` sets.
        """
        changed = self._conn.execute(
            "UPDATE heal.generation SET state = %(state)s, note = coalesce(%(note)s, note) "
            "WHERE generation_id = %(id)s AND state IN ('building', 'ready', %(state)s) "
            "AND %(state)s IN ('ready', 'failed')",
            {"id": generation_id, "state": state, "note": note},
        )
        if not changed.rowcount:
            current = self.get(generation_id).state
            raise StoreError(f"generation {generation_id} is {current} and cannot become {state} by hand; use activate")

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
        """Drop a generation's tables, unless it is live, and return True if there were any; its row stays."""
        generation = self.get(generation_id)
        if generation.state in ("active", "previous"):
            raise StoreError(
                f"generation {generation_id} is {generation.state}, so its tables are in use and stay as they are"
            )
        found = table_exists(self._conn, generation.table("vec"))
        self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(_tables(generation))))
        return found

    def discard_unfinished(self, run_id: str) -> None:
        """Put away the generations that an earlier, interrupted attempt of a run has left."""
        for generation in self.list("building", "ready"):
            if generation.run_id == run_id:
                self.set_state(generation.generation_id, "failed", note="replaced by a later attempt of its run")
                self.drop_tables(generation.generation_id)

    def discard_abandoned(self, hours: float, living: Collection[str]) -> Sequence[int]:
        """Put away generations in state ``building`` whose run has no step under way, and return their ids.

        Their run has ended, or they were made so many hours ago by a run that is not one of ``living``: it may stand
        still between two steps.
        """
        rest = """FROM heal.generation g WHERE state = 'building'
            AND NOT EXISTS (
                SELECT FROM heal.run_lock_holder h WHERE h.application_name = left('heal: ' || g.run_id, 63))
            AND (created_at <= now() - make_interval(secs => %s) AND run_id <> ALL (%s) OR EXISTS (
                SELECT FROM heal.run r WHERE r.run_id = g.run_id AND r.finished_at > g.created_at))
            ORDER BY generation_id"""
        found = select(self._conn, Generation, rest, (hours * 3600, list(living)))
        for item in found:
            self.set_state(item.generation_id, "failed", note="left by a run that ended before its publication")
            self.drop_tables(item.generation_id)
        return [item.generation_id for item in found]

    def retire_old(self, drain_hours: float) -> Sequence[int]:
        """Drop the tables of generations retired, or made and failed, so many hours ago, and return their ids.

        Until then a client may still have such a generation in its cache. Locked tables wait for the next time.
        """
        rest = """FROM heal.generation WHERE state IN ('retired', 'failed')
            AND coalesce(retired_at, created_at) <= now() - make_interval(secs => %s) ORDER BY generation_id"""
        old = select(self._conn, Generation, rest, (drain_hours * 3600,))
        there = [item for item in old if table_exists(self._conn, item.table("vec"))]
        return [item.generation_id for item in there if drop_soon(self._conn, _tables(item))]


def _tables(generation: Generation) -> list[sql.Identifier]:
    return [generation.table(prefix) for prefix in get_args(GenerationPrefix)]
