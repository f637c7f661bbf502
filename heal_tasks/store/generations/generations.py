"""Generations: made, filled, switched to, rolled back, dropped. One vector space each, never rewritten in place."""

import random
import time
from collections.abc import Sequence
from typing import Any, get_args

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generation import (
    NO_BUDGET,
    Generation,
    Kind,
    Metric,
    Prefix,
    State,
    find_generations,
    get_generation,
)
from heal_tasks.store.generations.search import named_errors
from heal_tasks.store.generations.vectors import drop_indexes
from heal_tasks.store.spaces.vector_tables import create_keyed, give_table

_SETTABLE = {"topic_run_id", "metric", *NO_BUDGET, "ef_search", "recall", "metrics", "note"}

# The switch itself, and only it, makes a generation active or previous.
_TRANSITIONS: dict[str, set[str]] = {
    "building": {"ready", "failed", "retired"},
    "ready": {"building", "failed", "retired"},
    "failed": {"building"},
}

_UNIT_LENGTH = sql.SQL("CONSTRAINT unit_length CHECK (abs(vector_norm(embedding) - 1) < 1e-3)")


class GenerationRepository:
    """Generations by id; ``VectorRepository`` reads and writes their vectors.

    Args:
        conn: an autocommit connection.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def create(
        self,
        *,
        kind: Kind,
        run_id: str,
        model_uri: str,
        model_sha256: str,
        dims: int,
        topic_run_id: int | None = None,
        metric: Metric = "cosine",
        ef_search: int = 100,
        note: str = "",
    ) -> Generation:
        """Make a generation in state ``building`` with its three empty tables.

        Args:
            kind: ``baseline`` is never served; ``reference`` holds the live model, ``trained`` a new one.
            run_id: the pipeline run that makes it.
            model_uri: where the encoder is.
            model_sha256: identity of the encoder's files; equal means the same vectors.
            dims: dimensions of its vectors, 1 to 2000.
            topic_run_id: the topics that its leaves refer to.
            metric: ``inner_product`` for NUDGE-M, whose vectors are not of unit length.
            ef_search: HNSW candidates per query.
            note: one sentence for people.

        Returns:
            The new generation.

        Raises:
            StoreError: there is a baseline of that model already, or a value is out of range.
        """
        values = (kind, run_id, model_uri, model_sha256, dims, topic_run_id, metric, ef_search, note)
        try:
            with self._conn.transaction():
                row = self._conn.execute(
                    "INSERT INTO heal.generation (kind, run_id, model_uri, model_sha256, dims, topic_run_id, metric, "
                    "ef_search, note) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING generation_id",
                    values,
                ).fetchone()
                assert row is not None
                generation = get_generation(self._conn, row[0])
                self._create_tables(generation)
        except (psycopg.errors.UniqueViolation, psycopg.errors.CheckViolation) as error:
            raise StoreError(
                f"a {kind} generation of {dims} dimensions cannot be made: {error.diag.message_primary}"
            ) from error
        return generation

    def get(self, generation_id: int) -> Generation:
        """One generation; StoreError if there is none with that id."""
        return get_generation(self._conn, generation_id)

    def active(self) -> Generation | None:
        """The generation that is served, or None."""
        return self._one("active")

    def previous(self) -> Generation | None:
        """The generation that a rollback returns to, or None."""
        return self._one("previous")

    def baseline(self, model_sha256: str) -> Generation | None:
        """The base model's generation, or None."""
        found = find_generations(self._conn, sql.SQL("kind = 'baseline' AND model_sha256 = %s"), (model_sha256,))
        return found[0] if found else None

    def list(self, *states: State) -> Sequence[Generation]:
        """Generations in any of the states (in all, if none is given), oldest first."""
        return find_generations(self._conn, sql.SQL("state = ANY(%s)"), ([*(states or get_args(State))],))

    def set_fields(self, generation_id: int, **values: Any) -> Generation:
        """Change topic_run_id, metric, nudge_variant, the other nudge_..., ef_search, recall, metrics or note.

        Args:
            generation_id: the generation.
            values: new values by column name. Another ``metric`` empties the served table, whose vectors and index
                were made for the old one.

        Returns:
            The generation as it is now.

        Raises:
            StoreError: a column may not be set this way, or the metric of a live generation would change.
        """
        if unknown := values.keys() - _SETTABLE:
            raise StoreError(f"{sorted(unknown)} cannot be set on a generation; these can: {sorted(_SETTABLE)}")
        assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
        bound = [Jsonb(value) if name == "metrics" else value for name, value in values.items()]
        with self._conn.transaction():
            generation = get_generation(self._conn, generation_id)
            self._conn.execute(
                sql.SQL("UPDATE heal.generation SET {} WHERE generation_id = %s").format(assignments),
                (*bound, generation_id),
            )
            if values.get("metric", generation.metric) != generation.metric:
                self._change_metric(generation, values["metric"])
            return get_generation(self._conn, generation_id)

    def set_state(self, generation_id: int, state: State, note: str | None = None) -> None:
        """Move a generation that nobody reads to another state; ``activate`` is the way to the live ones.

        Args:
            generation_id: the generation.
            state: building, ready, failed or retired.
            note: replaces the generation's note.

        Raises:
            StoreError: that move is not allowed.
        """
        with self._conn.transaction():
            current = get_generation(self._conn, generation_id).state
            if state != current and state not in _TRANSITIONS.get(current, set()):
                raise StoreError(
                    f"generation {generation_id} is {current} and cannot become {state} by hand; use activate"
                )
            self._conn.execute(
                "UPDATE heal.generation SET state = %(state)s, note = coalesce(%(note)s, note), "
                "retired_at = CASE WHEN %(state)s = 'retired' THEN now() ELSE retired_at END "
                "WHERE generation_id = %(id)s AND state = %(current)s",
                {"state": state, "note": note, "id": generation_id, "current": current},
            )

    def activate(self, generation_id: int, *, lock_timeout_ms: int, attempts: int = 30) -> None:
        """Switch all readers to a ready generation, or back to the previous one.

        A reader's open transaction holds the switch up. It gives way after ``lock_timeout_ms``, so that the readers
        who come later do not queue behind it, and tries again.

        Args:
            generation_id: the generation; nothing happens if it is active already.
            lock_timeout_ms: longest wait for the lock, in milliseconds.
            attempts: how often it is tried.

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
        """Drop a generation's vectors; its row stays for the record.

        Returns:
            Whether there was anything to drop.

        Raises:
            StoreError: the generation is live, or a baseline.
        """
        generation = get_generation(self._conn, generation_id)
        if generation.state in ("active", "previous") or generation.kind == "baseline":
            raise StoreError(f"generation {generation_id} is in use ({generation.kind}, {generation.state})")
        tables = [generation.table(prefix) for prefix in get_args(Prefix)]
        with self._conn.transaction():
            found = self._conn.execute(
                "SELECT to_regclass(%s)", (generation.table("vec").as_string(self._conn),)
            ).fetchone()
            self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.SQL(", ").join(tables)))
        return found is not None and found[0] is not None

    def retire_old(self, drain_hours: float) -> Sequence[int]:
        """Drop the tables of retired and failed generations once no client can still have them in mind.

        Args:
            drain_hours: how long they are kept after they were retired, or made and failed.

        Returns:
            Ids of the generations whose tables were dropped.
        """
        old = find_generations(
            self._conn,
            sql.SQL(
                "kind <> 'baseline' AND state IN ('retired', 'failed') "
                "AND coalesce(retired_at, created_at) <= now() - make_interval(secs => %s)"
            ),
            (drain_hours * 3600,),
        )
        return [item.generation_id for item in old if self.drop_tables(item.generation_id)]

    def _change_metric(self, generation: Generation, metric: Metric) -> None:
        if generation.state in ("active", "previous"):
            raise StoreError(f"generation {generation.generation_id} is {generation.state}; its metric cannot change")
        table = generation.table("vec")
        drop_indexes(self._conn, generation)
        self._conn.execute(sql.SQL("TRUNCATE {}").format(table))
        change = sql.SQL("ADD ") + _UNIT_LENGTH if metric == "cosine" else sql.SQL("DROP CONSTRAINT unit_length")
        self._conn.execute(sql.SQL("ALTER TABLE {} {}").format(table, change))

    def _one(self, state: State) -> Generation | None:
        found = self.list(state)
        return found[0] if found else None

    def _create_tables(self, generation: Generation) -> None:
        create_keyed(self._conn, generation, "base")
        create_keyed(self._conn, generation, "question", ", push_level real, push_weight real")
        check = sql.SQL(", ") + _UNIT_LENGTH if generation.metric == "cosine" else sql.SQL("")
        # A nudge of a few percent never reaches the default threshold of 20 %, yet its dead rows cost recall.
        self._conn.execute(
            sql.SQL(
                "CREATE TABLE {} (chunk_id bigint NOT NULL, document_id bigint NOT NULL, leaf integer NOT NULL, "
                "embedding vector({}) NOT NULL{}) WITH (autovacuum_vacuum_scale_factor = 0.02)"
            ).format(generation.table("vec"), sql.Literal(generation.dims), check)
        )
        give_table(self._conn, generation.table("vec"))


__all__ = ["Generation", "GenerationRepository", "Kind", "Metric", "State"]
