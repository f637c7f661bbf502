"""One run at a time: the lock that a whole run holds alone, and that single steps hold together.

It is held in a transaction that does nothing else, on a connection of its own: without a snapshot, so that it keeps no
vacuum back, and gone with its process, so that a killed run does not block the next one. The connection's
``application_name`` says who holds it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.store.db import Connection, connect

_POLL_S = 10
LONGEST_WAIT_S = 6 * 3600.0
"""Of a step for a run: longer than any takes. A task of a scheduler then fails and says why, and frees its slot."""

# Servers may end idle transactions, and networks forget idle connections. Older servers lack one of the names.
_KEEP = """
SELECT set_config(v.name, v.value, false) FROM (VALUES
    ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'), ('statement_timeout', '0'),
    ('tcp_keepalives_idle', '60'), ('tcp_keepalives_interval', '20'), ('tcp_keepalives_count', '5')
) v (name, value) JOIN pg_settings USING (name)
"""
_HOLDER = """
SELECT substr(h.application_name, length('heal: ') + 1), s.run_id, s.step, s.started_at
FROM heal.run_lock_holder h LEFT JOIN LATERAL (
    SELECT r.run_id, r.step, r.started_at FROM heal.step_result r
    WHERE r.finished_at IS NULL AND h.application_name = left('heal: ' || r.run_id, 63)
    ORDER BY r.started_at DESC LIMIT 1) s ON true
ORDER BY s.started_at DESC NULLS LAST LIMIT 1
"""


@contextmanager
def whole_run(url: str, run_id: str) -> Iterator[Callable[[], None]]:
    """Keep every other run and step out; yield a check that raises RetryableError if the lock was lost.

    Raises:
        StoreError: another run or a step is under way.
    """
    with _connection(url, run_id) as conn:
        try:
            conn.execute("LOCK TABLE heal.run_lock IN EXCLUSIVE MODE NOWAIT")
        except psycopg.errors.LockNotAvailable:
            conn.rollback()
            raise StoreError(
                f"{_holder(conn)} is under way, so run {run_id!r} was not started: wait for its end, or stop it, and "
                "start this one again"
            ) from None

        def check() -> None:
            try:
                conn.execute("SELECT 1")
            except psycopg.OperationalError as error:
                raise RetryableError(
                    f"run {run_id!r} has lost the connection that keeps other runs out ({error}); continue it with "
                    f"`python -m heal_tasks run --run-id {run_id}`"
                ) from error

        yield check


@contextmanager
def one_step(url: str, run_id: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep whole runs out; where one is under way, say so with ``tell`` and wait for its end.

    RetryableError if it has not ended in six hours.
    """
    with _connection(url, run_id) as conn:
        told, until_s = "", time.monotonic() + LONGEST_WAIT_S
        while True:
            conn.execute(f"SET LOCAL lock_timeout = '{_POLL_S}s'" if told else "SET LOCAL lock_timeout = '100ms'")
            try:
                conn.execute("LOCK TABLE heal.run_lock IN SHARE MODE")
                break
            except psycopg.errors.LockNotAvailable:
                conn.rollback()
                holder = _holder(conn)
                conn.rollback()
                if time.monotonic() >= until_s:
                    raise RetryableError(
                        f"{holder} has not ended in {LONGEST_WAIT_S / 3600:g} hours; look at it, or stop it, then run "
                        "this step again"
                    ) from None
                if holder != told:
                    tell(f"waiting until {holder} has ended")
                told = holder
        yield


@contextmanager
def _connection(url: str, run_id: str) -> Iterator[Connection]:
    with connect(url) as conn:
        try:
            conn.execute(_KEEP)
            conn.execute("SELECT set_config('application_name', %s, false)", (f"heal: {run_id}",))
            conn.commit()  # so that no snapshot is kept
            yield conn
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            if "run_lock" not in str(error):
                raise
            raise StoreError(
                "schema heal is missing or older than this version; run `python -m heal_tasks migrate`"
            ) from error


def _holder(conn: Connection) -> str:
    """The run that holds the lock, as a phrase."""
    found = conn.execute(_HOLDER).fetchone()
    if found is None:
        return "another run"
    name, run_id, step, since = found
    where = f" (step {step} since {since:%Y-%m-%d %H:%M %Z})" if step else ""
    return f"run {run_id or name!r}{where}"
