"""Spend limits of language-model calls, kept across processes: money is reserved before a call and settled after it.

What a run or a day has spent is a sum over ``heal.llm_call`` and the open rows of ``heal.llm_reservation``. An advisory
lock serialises reservations, so two processes never reserve the same money. ``ledger.settle`` deletes a reservation in
the transaction that writes the calls.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

from heal_tasks.store.db import Connection

LEASE_S = 3600
"""Time after which the reservations of a killed process no longer count; fifty calls take far less."""

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
        """Reserve money for as many chunks as the limits allow, from the first.

        Reservations of an earlier attempt of the same run for these chunks are replaced: a retried task does not wait
        for the reservations of the one that was killed.

        Args:
            costs: chunk id and the most that its calls can cost in USD.
            lease_s: time after which the money is free again, in seconds.
        """
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('heal.llm_spend_limit'))")
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
