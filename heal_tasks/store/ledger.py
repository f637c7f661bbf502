"""The ledger of language-model calls: its rows, and their sums."""

from dataclasses import dataclass

from psycopg.rows import class_row

from heal_tasks.store.db import Connection


@dataclass(frozen=True, slots=True)
class LlmCall:
    """One call to a language model, as in ``heal.llm_call``; status ``ok`` or what went wrong."""

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


def ledger(conn: Connection, run_id: str | None = None) -> list[LedgerRow]:
    """Calls to language models, of one run or of all, added up by purpose, model and status."""
    cursor = conn.cursor(row_factory=class_row(LedgerRow))
    return cursor.execute(
        "SELECT purpose, model, status, count(*) AS calls, sum(input_tokens) AS input_tokens, "
        "sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd FROM heal.llm_call "
        "WHERE %(run)s::text IS NULL OR run_id = %(run)s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {"run": run_id},
    ).fetchall()
