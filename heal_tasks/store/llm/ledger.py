"""The ledger of language-model calls: its rows, their sums, and the release of what was reserved for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from psycopg import Cursor

from heal_tasks.store.db import Connection
from heal_tasks.store.rows import insert, select


@dataclass(frozen=True, slots=True)
class LlmCall:
    """A row of ``heal.llm_call``; ``batch_id`` is the endpoint's name of its batch, None for a single call."""

    purpose: str
    model: str
    prompt_hash: str
    content_hash: str
    chunk_id: int | None
    status: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_s: float
    raw_reply: str | None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Calls with the same purpose, model and status, added up."""

    purpose: str
    model: str
    status: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


def settle(cursor: Cursor, run_id: str, calls: Sequence[LlmCall], chunk_ids: Iterable[int]) -> set[int]:
    """Write calls, failed ones included, and delete the reservations for their chunks and others that are answered.

    Returns:
        Those of all these chunks that still exist, locked against deletion until the caller's transaction ends. Nothing
        may be stored for the others; calls about them are stored without the reply.
    """
    wanted = list({*chunk_ids, *(call.chunk_id for call in calls if call.chunk_id is not None)})
    cursor.execute("SELECT chunk_id FROM heal.chunk WHERE chunk_id = ANY(%s) FOR KEY SHARE", (wanted,))
    live = {row[0] for row in cursor}
    cursor.execute("DELETE FROM heal.llm_reservation WHERE run_id = %s AND chunk_id = ANY(%s)", (run_id, wanted))
    ledger = [
        call if call.chunk_id is None or call.chunk_id in live else replace(call, raw_reply=None) for call in calls
    ]
    insert(cursor, "llm_call", ledger, run_id=run_id)
    return live


def ledger(conn: Connection, run_id: str | None = None) -> list[LedgerRow]:
    """Calls to language models, of one run or of all, added up by purpose, model and status."""
    return select(
        conn,
        LedgerRow,
        "FROM (SELECT purpose, model, status, count(*) AS calls, sum(input_tokens) AS input_tokens, "
        "sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd FROM heal.llm_call "
        "WHERE %(run)s::text IS NULL OR run_id = %(run)s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) l",
        {"run": run_id},
    )
