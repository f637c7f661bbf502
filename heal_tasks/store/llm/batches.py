"""Batches of language-model calls, with the texts in them and the outcome of each text.

A batch is recorded before anything is sent, and again before it is created at the endpoint. So after a kill the next
task knows that nothing was sent, or that it has to look. A task that works on a batch holds its lock.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, LiteralString

import psycopg
from psycopg import sql

from heal_tasks.core.errors import RetryableError
from heal_tasks.core.redaction import without_userinfo
from heal_tasks.core.text import storable
from heal_tasks.store.db import Connection, beside, select
from heal_tasks.store.documents.chunks import LiveChunk, live_chunks

BatchState = Literal["planned", "sending", "waiting", "collected", "lost"]
TextOutcome = Literal["invalid", "cut_off", "failed", "unanswered"]


@dataclass(frozen=True, slots=True)
class Batch:
    """A row of ``heal.llm_batch``."""

    batch_key: str  # our name for it; in its metadata at the endpoint
    run_id: str  # the run that sent it and pays for it
    shard: int  # the task of that run
    model: str
    prompt_hash: str
    state: BatchState = "planned"  # planned: nothing was sent; sending: it may have been; waiting: it was
    texts: int = 0
    batch_id: str | None = None  # the endpoint's name for it; None until known
    input_file_id: str | None = None  # the file that was sent; None until known
    counts: dict[str, float] = field(default_factory=dict)  # of its replies so far, as in a manifest
    age_s: float = 0.0  # since it was sent, or since the attempt to; 0 before that


@dataclass(frozen=True, slots=True)
class Tried:
    """A text to which a batch brought no usable reply: the outcome, and what was wrong with an invalid reply."""

    content_hash: str
    outcome: TextOutcome
    problem: str


_BATCHES: LiteralString = """
FROM (SELECT *, coalesce(extract(epoch FROM clock_timestamp() - sent_at), 0)::float8 AS age_s FROM heal.llm_batch) b
"""


class BatchRepository:
    """Batches at one endpoint, over an autocommit connection: a base URL, for embeddings that with their path."""

    def __init__(self, conn: Connection, endpoint: str) -> None:
        self._conn, self._endpoint = conn, without_userinfo(endpoint)

    @property
    def endpoint(self) -> str:
        """The address, without a user's name and password."""
        return self._endpoint

    @contextmanager
    def holding(self, batch_key: str) -> Iterator[bool]:
        """Lock a batch for the block, and yield whether that succeeded; a killed task's locks are released."""
        # In a transaction of its own, which is rolled back at the end.
        with beside(self._conn) as lock, lock.transaction(force_rollback=True):
            lock.execute("SET LOCAL lock_timeout = '50ms'; SET LOCAL idle_in_transaction_session_timeout = 0")
            try:
                lock.execute("INSERT INTO heal.lock_llm_batch VALUES (%s)", (batch_key,))
            except psycopg.errors.LockNotAvailable:
                held = False
            else:
                held = True
            yield held

    def open(self) -> list[Batch]:
        """Batches of all runs that are not collected yet, oldest first."""
        return self._select("endpoint = %s AND state IN ('planned', 'sending', 'waiting')", self._endpoint)

    def get(self, batch_key: str) -> Batch | None:
        """A batch as it is now; None where it was withdrawn."""
        return next(iter(self._select("batch_key = %s", batch_key)), None)

    def counted(self, run_id: str, shard: int) -> list[Batch]:
        """The collected batches whose counts a task reports."""
        condition: LiteralString = """endpoint = %s AND counted_run = %s AND counted_shard = %s
            AND state IN ('collected', 'lost')"""
        return self._select(condition, self._endpoint, run_id, shard)

    def plan(self, batch: Batch, texts: Sequence[tuple[str, int]]) -> set[str]:
        """Record a batch that is going to be sent, and its texts: content hash and chunk of each.

        Returned are the hashes that may be sent; the others are in another task's batch. Without any there is no batch.
        """
        key, about = batch.batch_key, (self._endpoint, batch.model, batch.prompt_hash)
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.execute(
                "INSERT INTO heal.llm_batch (batch_key, run_id, shard, endpoint, model, prompt_hash, texts, counts) "
                "VALUES (%s, %s, %s, %s, %s, %s, 0, %s)",
                (key, batch.run_id, batch.shard, *about, batch.counts),
            )
            cursor.execute(
                "INSERT INTO heal.llm_batch_row (batch_key, content_hash, chunk_id, endpoint, model, prompt_hash) "
                "SELECT %s, content_hash, chunk_id, %s, %s, %s "
                "FROM unnest(%s::text[], %s::bigint[]) AS given (content_hash, chunk_id) "
                "ON CONFLICT DO NOTHING RETURNING content_hash",
                (key, *about, [text for text, _ in texts], [chunk for _, chunk in texts]),
            )
            won = {row[0] for row in cursor}
            cursor.execute("UPDATE heal.llm_batch SET texts = %s WHERE batch_key = %s", (len(won), key))
            if not won:
                cursor.execute("DELETE FROM heal.llm_batch WHERE batch_key = %s", (key,))
        return won

    def sending(self, batch_key: str, input_file_id: str) -> None:
        """Record that the batch is going to be created; RetryableError if another task has withdrawn it meanwhile."""
        done = self._conn.execute(
            "UPDATE heal.llm_batch SET state = 'sending', input_file_id = %s, sent_at = clock_timestamp() "
            "WHERE batch_key = %s AND state = 'planned'",
            (input_file_id, batch_key),
        )
        if done.rowcount != 1:
            raise RetryableError(f"batch {batch_key} was withdrawn by another task before it was sent; try again")

    def sent(self, batch_key: str, batch_id: str) -> None:
        """Record the id that the endpoint gave the batch."""
        self._conn.execute(
            "UPDATE heal.llm_batch SET state = 'waiting', batch_id = %s WHERE batch_key = %s", (batch_id, batch_key)
        )

    def withdraw(self, batch: Batch) -> None:
        """Delete a batch that was never sent: its texts may be sent again, and its money is free."""
        with self._conn.transaction():
            self._release(batch, None)
            self._conn.execute("DELETE FROM heal.llm_batch WHERE batch_key = %s", (batch.batch_key,))

    def texts_under_way(self, model: str, prompt_hash: str) -> dict[str, str]:
        """Batch key by content hash of every text whose reply is awaited."""
        rows = self._conn.execute(
            "SELECT content_hash, batch_key FROM heal.llm_batch_row "
            "WHERE outcome IS NULL AND endpoint = %s AND model = %s AND prompt_hash = %s",
            (self._endpoint, model, prompt_hash),
        )
        return dict(rows.fetchall())

    def texts_tried(self, run_id: str, model: str, prompt_hash: str) -> dict[str, Tried]:
        """Texts, by content hash, to which the batches of a run brought no usable reply."""
        rest = """FROM heal.llm_batch_row JOIN heal.llm_batch b USING (batch_key)
            WHERE outcome IS NOT NULL AND b.counted_run = %s AND b.model = %s AND b.prompt_hash = %s"""
        rows = select(self._conn, Tried, rest, (run_id, model, prompt_hash))
        return {row.content_hash: row for row in rows}

    def begin_collecting(self, batch: Batch, run_id: str, shard: int) -> dict[str, int]:
        """Add a batch to the counts of a task; chunk by content hash of its texts that have no reply yet."""
        self._conn.execute(
            "UPDATE heal.llm_batch SET counted_run = %s, counted_shard = %s WHERE batch_key = %s",
            (run_id, shard, batch.batch_key),
        )
        rows = self._conn.execute(
            "SELECT content_hash, chunk_id FROM heal.llm_batch_row WHERE batch_key = %s AND outcome IS NULL",
            (batch.batch_key,),
        )
        return dict(rows.fetchall())

    def live(self, texts: dict[str, int]) -> dict[str, LiveChunk]:
        """Find a live chunk for each text that still has one: the one that was asked about, or else a copy."""
        asked = live_chunks(self._conn, sql.SQL("c.chunk_id = ANY(%s)"), (list(texts.values()),))
        found = {chunk.content_hash: chunk for chunk in asked}
        if missing := [text for text in texts if text not in found]:
            for chunk in live_chunks(self._conn, sql.SQL("c.content_hash = ANY(%s)"), (missing,)):
                found.setdefault(chunk.content_hash, chunk)
        return found

    def settle(self, batch: Batch, answered: Sequence[str], tried: Sequence[Tried], counts: dict[str, float]) -> None:
        """Record the outcome of texts, with or without a usable reply, in the transaction that stores the replies."""
        self._release(batch, [*answered, *(item.content_hash for item in tried)])
        self._conn.execute(
            "DELETE FROM heal.llm_batch_row WHERE batch_key = %s AND content_hash = ANY(%s)",
            (batch.batch_key, list(answered)),
        )
        with self._conn.cursor() as cursor:
            cursor.executemany(
                "UPDATE heal.llm_batch_row SET outcome = %s, problem = %s WHERE batch_key = %s AND content_hash = %s",
                [(item.outcome, storable(item.problem), batch.batch_key, item.content_hash) for item in tried],
            )
        query = "UPDATE heal.llm_batch SET counts = %s WHERE batch_key = %s"
        self._conn.execute(query, (counts, batch.batch_key))

    def close(self, batch: Batch, state: Literal["collected", "lost"], note: str) -> None:
        """Record the end of a batch, and the endpoint's complaint: texts without a reply are unanswered, unreserved."""
        with self._conn.transaction():
            self._release(batch, None)
            self._conn.execute(
                "UPDATE heal.llm_batch_row SET outcome = 'unanswered' WHERE batch_key = %s AND outcome IS NULL",
                (batch.batch_key,),
            )
            self._conn.execute(
                "UPDATE heal.llm_batch SET state = %s, note = %s, ended_at = clock_timestamp() WHERE batch_key = %s",
                (state, storable(note), batch.batch_key),
            )

    def _select(self, condition: LiteralString, *values: object) -> list[Batch]:
        return select(self._conn, Batch, _BATCHES + "WHERE " + condition + " ORDER BY created_at, batch_key", values)

    def _release(self, batch: Batch, texts: Sequence[str] | None) -> None:
        self._conn.execute(
            "DELETE FROM heal.llm_reservation WHERE run_id = %(run)s AND chunk_id IN (SELECT chunk_id "
            "FROM heal.llm_batch_row WHERE batch_key = %(key)s AND outcome IS NULL "
            "AND (%(texts)s::text[] IS NULL OR content_hash = ANY(%(texts)s)))",
            {"run": batch.run_id, "key": batch.batch_key, "texts": None if texts is None else list(texts)},
        )
