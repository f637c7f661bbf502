"""The ledger of language-model calls, and spend limits kept across processes.

Money is reserved before a call; ``settle`` deletes the reservation in the transaction that writes the call. What a run
or a day has spent is the sum over ``heal.llm_call`` and open rows of ``heal.llm_reservation``. A lock serialises
reservations, so two processes never reserve the same money.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from psycopg import Cursor

from heal_tasks.store.db import Connection, insert, scalar, select

LEASE_S = 3600
"""Time after which the reservations of a killed process no longer count; fifty calls take far less."""

EMBEDDINGS = "embeddings"
"""Purpose of calls that embed; their prompt hash is the identity of the model."""

_SPENDING = """
SELECT coalesce(sum(cost_usd) FILTER (WHERE run_id = %(run)s), 0),
       coalesce(sum(cost_usd) FILTER (WHERE today), 0),
       coalesce(sum(reserved_usd) FILTER (WHERE run_id = %(run)s), 0),
       coalesce(sum(reserved_usd), 0)
FROM (SELECT run_id, cost_usd, created_at >= date_trunc('day', clock_timestamp(), 'UTC') AS today, 0 AS reserved_usd
      FROM heal.llm_call WHERE run_id = %(run)s OR created_at >= date_trunc('day', clock_timestamp(), 'UTC')
      UNION ALL
      SELECT run_id, 0, false, cost_usd FROM heal.llm_reservation WHERE expires_at > clock_timestamp()) entry
"""


@dataclass(frozen=True, slots=True)
class LlmCall:
    """A row of ``heal.llm_call``."""

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
    batch_id: str | None = None  # the endpoint's name of its batch; None for a single call
    guessed: bool = False  # the tokens were guessed by the sizes of prompt and reply


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


@dataclass(frozen=True, slots=True)
class Spending:
    """Money spent and reserved, in USD; a day begins at midnight UTC and counts all runs."""

    run_usd: float
    day_usd: float
    run_reserved_usd: float
    reserved_usd: float


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a reservation."""

    count: int  # number of chunks, from the first, that money is reserved for
    wait: bool = False  # the first chunk could follow, if calls under way cost less than was reserved for them


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


def ledger(conn: Connection, run_id: str) -> list[LedgerRow]:
    """Calls of a run to language models, added up by purpose, model and status."""
    return select(
        conn,
        LedgerRow,
        "FROM (SELECT purpose, model, status, count(*) AS calls, sum(input_tokens) AS input_tokens, "
        "sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd FROM heal.llm_call "
        "WHERE run_id = %s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3) l",
        (run_id,),
    )


def failed_before(conn: Connection, run_id: str, prompt_hash: str, model: str) -> dict[str, float]:
    """Texts that other runs have asked about in vain, by content hash the Unix time of the last try."""
    rows = conn.execute(
        "SELECT content_hash, extract(epoch FROM max(created_at))::float8 FROM heal.llm_call "
        "WHERE prompt_hash = %s AND model = %s AND status IN ('failed', 'invalid') AND run_id <> %s GROUP BY 1",
        (prompt_hash, model, run_id),
    )
    return dict(rows.fetchall())


def can_answer(conn: Connection, prompt_hash: str, model: str) -> bool:
    """True if the model has ever given this prompt a usable reply; probes, which are about no text, do not count."""
    query = (
        "SELECT EXISTS (SELECT FROM heal.llm_call WHERE prompt_hash = %s AND model = %s AND status = 'ok' "
        "AND content_hash <> '' AND coalesce(raw_reply, '') NOT LIKE 'capability probe%%')"
    )
    return bool(scalar(conn, query, (prompt_hash, model)))


def embedded_by(conn: Connection, run_id: str, prompt_hash: str) -> bool:
    """True if a run has had texts embedded by the model behind an API that has this identity."""
    query = (
        "SELECT EXISTS (SELECT FROM heal.llm_call "
        "WHERE run_id = %s AND purpose = %s AND prompt_hash = %s AND status = 'ok')"
    )
    return bool(scalar(conn, query, (run_id, EMBEDDINGS, prompt_hash)))


class SpendLimit:
    """The most money for a run and, per day (UTC), for all runs, over an autocommit connection; 0 sets no limit."""

    def __init__(self, conn: Connection, run_id: str, *, run_usd: float, day_usd: float) -> None:
        self._conn, self._run_id = conn, run_id
        self.run_usd, self.day_usd = run_usd, day_usd

    @property
    def limited(self) -> bool:
        """True if any limit is set."""
        return self.run_usd > 0 or self.day_usd > 0

    def spending(self) -> Spending:
        """Money spent and reserved so far."""
        return Spending(*map(float, self._conn.execute(_SPENDING, {"run": self._run_id}).fetchall()[0]))

    def left_usd(self, spending: Spending, *, reserved: bool = True) -> float:
        """Money left under the tighter limit, in USD; negative where a limit was lowered, infinite without one."""
        run = self.run_usd - spending.run_usd - (spending.run_reserved_usd if reserved else 0)
        day = self.day_usd - spending.day_usd - (spending.reserved_usd if reserved else 0)
        return min(run if self.run_usd > 0 else float("inf"), day if self.day_usd > 0 else float("inf"))

    def reserve(self, costs: Sequence[tuple[int, float]], lease_s: float = LEASE_S) -> Grant:
        """Reserve the most that calls can cost (chunk id, USD) for as many chunks as the limits allow, from the first.

        Reservations of an earlier attempt of the same run for these chunks are replaced: a retried task does not wait
        for the reservations of the one that was killed. After ``lease_s`` the money is free again.
        """
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.execute("LOCK TABLE heal.lock_spend_limit IN EXCLUSIVE MODE")
            cursor.execute("DELETE FROM heal.llm_reservation WHERE expires_at <= clock_timestamp()")
            self.release([chunk_id for chunk_id, _ in costs])
            spending = self.spending()
            granted = bisect_right(list(accumulate(cost for _, cost in costs)), self.left_usd(spending))
            cursor.executemany(
                "INSERT INTO heal.llm_reservation (run_id, chunk_id, cost_usd, expires_at) "
                "VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s))",
                [(self._run_id, chunk_id, cost, lease_s) for chunk_id, cost in costs[:granted]],
            )
        wait = not granted and bool(costs) and costs[0][1] <= self.left_usd(spending, reserved=False)
        return Grant(granted, wait)

    def release(self, chunk_ids: Collection[int]) -> None:
        """Delete the reservations for chunks that will not be asked about."""
        self._conn.execute(
            "DELETE FROM heal.llm_reservation WHERE run_id = %s AND chunk_id = ANY(%s)", (self._run_id, list(chunk_ids))
        )
