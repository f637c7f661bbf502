"""What runs leave behind: route and verdict, step results and progress, quarantine, evaluations."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from heal_tasks.core.types import JsonObject, Rejected
from heal_tasks.store.db import Connection, storable


@dataclass(frozen=True, slots=True)
class Run:
    """One pipeline run, as in ``heal.run``."""

    run_id: str
    started_at: datetime
    finished_at: datetime | None
    route: str | None
    route_reason: str | None
    route_facts: JsonObject | None
    verdict: str | None
    generation_id: int | None
    report_uri: str | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a run, finished or not, as in ``heal.step_result``."""

    step: str
    fingerprint: str
    shard: int
    run_id: str
    result: JsonObject | None
    started_at: datetime
    finished_at: datetime | None
    done: int
    total: int
    message: str


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One measured value with its 95 % interval, and the paired difference to a rival, as in ``heal.evaluation``."""

    generation_id: int | None
    system: str
    question_set: str
    metric: str
    value: float
    low: float | None
    high: float | None
    rival: str | None
    difference: float | None
    diff_low: float | None
    diff_high: float | None
    questions: int


def _columns(record: type) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(field.name) for field in fields(record))


class RunRepository:
    """Runs and their steps.

    Args:
        conn: an autocommit connection, so that progress is seen at once and survives a failing step.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def open_run(self, run_id: str) -> None:
        """Record a run; nothing happens if it is known (a retry)."""
        self._conn.execute("INSERT INTO heal.run (run_id) VALUES (%s) ON CONFLICT DO NOTHING", (run_id,))

    def set_route(self, run_id: str, route: str, reason: str, facts: JsonObject) -> None:
        """Record which route a run takes, why, and the numbers that decided it."""
        self._conn.execute(
            "UPDATE heal.run SET route = %s, route_reason = %s, route_facts = %s WHERE run_id = %s",
            (route, reason, Jsonb(facts), run_id),
        )

    def finish_run(
        self, run_id: str, verdict: str, generation_id: int | None = None, report_uri: str | None = None
    ) -> None:
        """Record how a run ended."""
        self._conn.execute(
            "UPDATE heal.run SET finished_at = now(), verdict = %s, generation_id = %s, report_uri = %s "
            "WHERE run_id = %s",
            (verdict, generation_id, report_uri, run_id),
        )

    def get_run(self, run_id: str) -> Run | None:
        """A run, or None."""
        query = sql.SQL("SELECT {} FROM heal.run WHERE run_id = %s").format(_columns(Run))
        return self._conn.cursor(row_factory=class_row(Run)).execute(query, (run_id,)).fetchone()

    def recent_runs(self, limit: int = 20) -> list[Run]:
        """The last runs, newest first."""
        query = sql.SQL("SELECT {} FROM heal.run ORDER BY started_at DESC LIMIT %s").format(_columns(Run))
        return self._conn.cursor(row_factory=class_row(Run)).execute(query, (limit,)).fetchall()

    def last_realigned_at(self) -> datetime | None:
        """When the last realignment ended, whether or not its candidate was promoted; None if there was none."""
        row = self._conn.execute("SELECT max(finished_at) FROM heal.step_result WHERE step = 'promote'").fetchone()
        return row[0] if row else None

    def finished(self, step: str, fingerprint: str, shard: int) -> JsonObject | None:
        """The stored result of a step with these inputs, or None if it has never finished."""
        row = self._conn.execute(
            "SELECT result FROM heal.step_result "
            "WHERE step = %s AND fingerprint = %s AND shard = %s AND finished_at IS NOT NULL",
            (step, fingerprint, shard),
        ).fetchone()
        return None if row is None else row[0]

    def begin(self, step: str, fingerprint: str, shard: int, run_id: str) -> None:
        """Record that a step starts, or starts again: an earlier result and progress are forgotten."""
        self._conn.execute(
            "INSERT INTO heal.step_result (step, fingerprint, shard, run_id) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (step, fingerprint, shard) DO UPDATE SET run_id = EXCLUDED.run_id, result = NULL, "
            "started_at = now(), finished_at = NULL, done = 0, total = 0, message = ''",
            (step, fingerprint, shard, run_id),
        )

    def progress(self, step: str, fingerprint: str, shard: int, done: int, total: int, message: str = "") -> None:
        """Record how far a running step has come."""
        self._conn.execute(
            "UPDATE heal.step_result SET done = %s, total = %s, message = %s "
            "WHERE step = %s AND fingerprint = %s AND shard = %s",
            (done, total, storable(message), step, fingerprint, shard),
        )

    def finish(self, step: str, fingerprint: str, shard: int, result: JsonObject) -> None:
        """Store a step's result, which ``finished`` returns from now on."""
        self._conn.execute(
            "UPDATE heal.step_result SET result = %s, finished_at = now(), message = '' "
            "WHERE step = %s AND fingerprint = %s AND shard = %s",
            (Jsonb(result), step, fingerprint, shard),
        )

    def steps_of(self, run_id: str) -> list[StepRow]:
        """Steps that a run began, in the order of their start; of its latest inputs, if they changed on the way."""
        query = sql.SQL(
            """SELECT {} FROM heal.step_result r WHERE run_id = %s AND fingerprint = (
                SELECT fingerprint FROM heal.step_result l
                WHERE l.run_id = r.run_id AND l.step = r.step ORDER BY started_at DESC LIMIT 1)
            ORDER BY min(started_at) OVER (PARTITION BY step), shard"""
        )
        cursor = self._conn.cursor(row_factory=class_row(StepRow))
        return cursor.execute(query.format(_columns(StepRow)), (run_id,)).fetchall()

    def quarantine(self, run_id: str, source: str, rejected: Iterable[Rejected]) -> int:
        """Record refused input; the same refusal again only moves to this run.

        Args:
            run_id: the run that refused it.
            source: the source it came from.
            rejected: what was refused.

        Returns:
            How many refusals were given.
        """
        rows = [(run_id, source, item.path, item.line, item.reason, item.raw) for item in rejected]
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (source, path, line, reason) "
                "DO UPDATE SET run_id = EXCLUDED.run_id, raw = EXCLUDED.raw",
                [tuple(storable(value) if isinstance(value, str) else value for value in row) for row in rows],
            )
        return len(rows)

    def quarantined(self, run_id: str) -> list[tuple[str, str, int, str]]:
        """What a run refused: source, path, line, reason."""
        return self._conn.execute(
            "SELECT source, path, line, reason FROM heal.quarantine WHERE run_id = %s ORDER BY source, path, line",
            (run_id,),
        ).fetchall()

    def record_evaluations(self, run_id: str, rows: Sequence[EvaluationRow]) -> None:
        """Store measured values; a repeated step replaces its own."""
        columns = _columns(EvaluationRow)
        values = sql.SQL(", ").join(sql.Placeholder() * len(fields(EvaluationRow)))
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(
                "DELETE FROM heal.evaluation WHERE run_id = %s AND generation_id IS NOT DISTINCT FROM %s "
                "AND system = %s AND question_set = %s AND metric = %s AND rival IS NOT DISTINCT FROM %s",
                [(run_id, row.generation_id, row.system, row.question_set, row.metric, row.rival) for row in rows],
            )
            cursor.executemany(
                sql.SQL("INSERT INTO heal.evaluation (run_id, {}) VALUES (%s, {})").format(columns, values),
                [(run_id, *astuple(row)) for row in rows],
            )

    def evaluations(self, run_id: str) -> list[EvaluationRow]:
        """What a run measured, in the order it was stored."""
        query = sql.SQL("SELECT {} FROM heal.evaluation WHERE run_id = %s ORDER BY evaluation_id")
        cursor = self._conn.cursor(row_factory=class_row(EvaluationRow))
        return cursor.execute(query.format(_columns(EvaluationRow)), (run_id,)).fetchall()
