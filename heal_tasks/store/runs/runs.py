"""Runs and their results: route and verdict, steps and their progress, quarantine, evaluations."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from heal_tasks.core.redaction import redacted
from heal_tasks.core.text import storable
from heal_tasks.core.types import JsonObject, Rejected
from heal_tasks.store.db import Repository, find, insert, scalar, select

TRAINED = "^(answers|topics|paper|trained) model"
"""Systems whose model a run has trained; earlier versions had one, the "trained model"."""

NOT_FINISHED = "Not finished"
"""The beginning of the verdict of a run that failed."""

FAILED = "failed: "
"""The beginning of the message of a step that failed."""


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
    generation_id: int | None  # the one that was live at its end
    report_uri: str | None
    state: JsonObject | None  # of the store at its end; None before

    @property
    def failed(self) -> bool:
        """The run has ended and left something unfinished."""
        return bool(self.verdict and self.verdict.startswith(NOT_FINISHED))


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

    @property
    def reused_from(self) -> str:
        """The run whose result this run has taken over; empty where it is its own."""
        made_by = str((self.result or {}).get("run_id", self.run_id))
        return "" if made_by == self.run_id else made_by

    @property
    def failed(self) -> bool:
        """It ended with an error and has not been tried again."""
        return self.finished_at is None and self.message.startswith(FAILED)


@dataclass(frozen=True, slots=True)
class Realignment:
    """The end of a realignment."""

    ended_at: datetime
    cause: str | None  # ``nudge.route.Cause``; None where the run did not record it
    model: str | None  # the base model of the settings; None where the run did not record it
    promoted: bool  # the gate's best candidate went live


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


class RunRepository(Repository):
    """Runs and their steps; progress is seen at once and survives a failing step."""

    def open_run(self, run_id: str) -> None:
        """Record a run; nothing happens if it is recorded already (a retry)."""
        self._conn.execute("INSERT INTO heal.run (run_id) VALUES (%s) ON CONFLICT DO NOTHING", (run_id,))

    def set_route(self, run_id: str, route: str, reason: str, facts: JsonObject) -> None:
        """Record the route of a run, the reason, and the numbers that decided it."""
        self._conn.execute(
            "UPDATE heal.run SET route = %s, route_reason = %s, route_facts = %s WHERE run_id = %s",
            (route, reason, facts, run_id),
        )

    def finish_run(
        self,
        run_id: str,
        verdict: str,
        generation_id: int | None = None,
        report_uri: str | None = None,
        state: JsonObject | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """Record the end of a run, now or at an earlier time, and the state that it left."""
        self._conn.execute(
            "UPDATE heal.run SET finished_at = coalesce(%s, now()), verdict = %s, generation_id = %s, report_uri = %s, "
            "state = %s WHERE run_id = %s",
            (ended_at, redacted(verdict), generation_id, report_uri, state, run_id),
        )

    def get_run(self, run_id: str) -> Run | None:
        """A run, or None."""
        return find(self._conn, Run, "FROM heal.run WHERE run_id = %s", (run_id,))

    def recent_runs(self, limit: int = 20, before: str | None = None) -> list[Run]:
        """The last runs, or the last ones before the run ``before``, newest first."""
        rest = """FROM heal.run WHERE %(before)s::text IS NULL
                OR (started_at, run_id) < (SELECT started_at, run_id FROM heal.run WHERE run_id = %(before)s)
            ORDER BY started_at DESC, run_id DESC LIMIT %(limit)s"""
        return select(self._conn, Run, rest, {"before": before, "limit": limit})

    def working_runs(self) -> set[str]:
        """Runs of which a process works at a step now."""
        found = self._conn.execute(
            "SELECT run_id FROM heal.run JOIN heal.run_lock_holder ON application_name = left('heal: ' || run_id, 63)"
        )
        return {run_id for (run_id,) in found}

    def age_s(self, time: datetime) -> float:
        """Seconds since a time that the database has given, by its own clock; 0 for a time to come."""
        return float(scalar(self._conn, "SELECT greatest(extract(epoch FROM now() - %s), 0)", (time,)))

    def living_runs(self) -> set[str]:
        """Runs that have not ended and may go on, whatever the clock says: the last one, and those that work now.

        A run of Airflow's may stand still for hours between two steps, without a process.
        """
        last = self._conn.execute(
            "SELECT run_id, finished_at FROM heal.run ORDER BY started_at DESC, run_id DESC LIMIT 1"
        )
        return self.working_runs() | {run_id for run_id, finished_at in last if finished_at is None}

    def last_realignment(self) -> Realignment | None:
        """The last realignment that ended, whether or not it published a generation; None if there was none."""
        rest = """FROM (
            SELECT p.finished_at AS ended_at, r.route_facts ->> 'cause' AS cause,
                nullif(r.route_facts ->> 'model', '') AS model,
                coalesce(p.result -> 'refs' ->> 'generation_id' = c.result -> 'refs' ->> 'best_id', true) AS promoted
            FROM heal.step_result p LEFT JOIN heal.run r USING (run_id)
                LEFT JOIN heal.step_result c ON c.run_id = p.run_id AND c.step = 'choose' AND c.finished_at IS NOT NULL
            WHERE p.step = 'publish' AND p.finished_at IS NOT NULL ORDER BY p.number DESC LIMIT 1) last"""
        return find(self._conn, Realignment, rest)

    def refused_trainings(self) -> tuple[int, datetime | None]:
        """The number of trained models since the last one that was promoted, and the time of the last."""
        row = self._conn.execute(
            """WITH trained AS (
                SELECT r.number, r.finished_at, r.result -> 'refs' ->> 'best_system' ~ %(trained)s
                    AND r.result -> 'refs' ->> 'generation_id' = r.result -> 'refs' ->> 'best_id' AS promoted
                FROM heal.step_result r WHERE r.step = 'choose' AND r.finished_at IS NOT NULL AND EXISTS
                    (SELECT FROM heal.evaluation e WHERE e.run_id = r.run_id AND e.system ~ %(trained)s))
            SELECT count(*) FILTER (WHERE number > coalesce((SELECT max(number) FROM trained WHERE promoted), 0)),
                (SELECT finished_at FROM trained ORDER BY number DESC LIMIT 1) FROM trained""",
            {"trained": TRAINED},
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def finished(self, step: str, fingerprint: str, shard: int, run_id: str) -> StepRow | None:
        """The finished step of a run with these inputs, or else of another run; None if it has never finished."""
        rest = """FROM heal.step_result WHERE step = %s AND fingerprint = %s AND shard = %s AND finished_at IS NOT NULL
            ORDER BY run_id <> %s, result ->> 'run_id' <> run_id NULLS FIRST, number DESC LIMIT 1"""
        return find(self._conn, StepRow, rest, (step, fingerprint, shard, run_id))

    def overtaken_by(self, run_id: str) -> StepRow | None:
        """The last step by which another run has changed what is served, since a run made its topics; None if none."""
        rest = """FROM heal.step_result WHERE run_id <> %(run)s AND step IN ('publish', 'nudge_live')
            AND finished_at IS NOT NULL AND number > (SELECT max(number) FROM heal.step_result
                WHERE run_id = %(run)s AND step = 'label' AND finished_at IS NOT NULL)
            ORDER BY number DESC LIMIT 1"""
        return find(self._conn, StepRow, rest, {"run": run_id})

    def begin(self, step: str, fingerprint: str, shard: int, run_id: str) -> None:
        """Record that a run starts a step, or starts it again: its earlier result and progress are deleted.

        What an attempt has kept that did not finish stays.
        """
        self._conn.execute(
            "INSERT INTO heal.step_result (step, fingerprint, shard, run_id) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (step, fingerprint, shard, run_id) DO UPDATE SET result = NULL, "
            "started_at = now(), finished_at = NULL, number = DEFAULT, done = 0, total = 0, message = '', "
            "kept = CASE WHEN step_result.finished_at IS NULL THEN step_result.kept END",
            (step, fingerprint, shard, run_id),
        )

    def keep(self, step: str, fingerprint: str, shard: int, run_id: str, value: JsonObject) -> None:
        """Store what the next attempt at a step has to know if this one is killed."""
        self._conn.execute(
            "UPDATE heal.step_result SET kept = %s WHERE step = %s AND fingerprint = %s AND shard = %s AND run_id = %s",
            (value, step, fingerprint, shard, run_id),
        )

    def kept(self, step: str, fingerprint: str, shard: int, run_id: str) -> JsonObject | None:
        """The value that the last attempt at a step has kept; None if there is none."""
        rows = self._conn.execute(
            "SELECT kept FROM heal.step_result WHERE step = %s AND fingerprint = %s AND shard = %s AND run_id = %s",
            (step, fingerprint, shard, run_id),
        ).fetchall()
        return rows[0][0] if rows else None

    def progress(
        self, step: str, fingerprint: str, shard: int, run_id: str, done: int, total: int, message: str = ""
    ) -> None:
        """Record the progress of a running step."""
        self._conn.execute(
            "UPDATE heal.step_result SET done = %s, total = %s, message = %s "
            "WHERE step = %s AND fingerprint = %s AND shard = %s AND run_id = %s",
            (done, total, storable(redacted(message)), step, fingerprint, shard, run_id),
        )

    def finish(self, step: str, fingerprint: str, shard: int, run_id: str, result: JsonObject) -> None:
        """Store a step's result, which ``finished`` returns afterwards."""
        self._conn.execute(
            "UPDATE heal.step_result SET result = %s, finished_at = now(), number = DEFAULT, message = '' "
            "WHERE step = %s AND fingerprint = %s AND shard = %s AND run_id = %s",
            (result, step, fingerprint, shard, run_id),
        )

    def steps_of(self, run_id: str) -> list[StepRow]:
        """Steps that a run began, in the order of their start; of its latest inputs, if they changed during the run."""
        rest = """FROM heal.step_result r WHERE run_id = %s AND fingerprint = (
                SELECT fingerprint FROM heal.step_result l
                WHERE l.run_id = r.run_id AND l.step = r.step ORDER BY number DESC LIMIT 1)
            ORDER BY min(started_at) OVER (PARTITION BY step), shard"""
        return select(self._conn, StepRow, rest, (run_id,))

    def quarantine(self, run_id: str, source: str, rejected: Sequence[Rejected], seen: Collection[str] = ()) -> None:
        """Record rejected input of a source; a rejection recorded before moves to this run.

        Earlier rejections in the files ``seen``, which were read anew or are gone, are marked as mended.
        """
        replace = (
            "ON CONFLICT (source, path, line, left(reason, 100)) DO UPDATE SET run_id = EXCLUDED.run_id, "
            "reason = EXCLUDED.reason, raw = EXCLUDED.raw, records = EXCLUDED.records, mended_at = NULL"
        )
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.execute(
                "UPDATE heal.quarantine SET mended_at = now() "
                "WHERE source = %s AND path = ANY(%s) AND mended_at IS NULL",
                (source, list(seen)),
            )
            hidden = [dataclasses.replace(item, reason=redacted(item.reason)) for item in rejected]
            insert(cursor, "quarantine", hidden, replace, run_id=run_id, source=source)

    def quarantined(self, run_id: str) -> list[tuple[str, str, int, str]]:
        """The input that a run rejected: source, path, line, reason."""
        return self._conn.execute(
            "SELECT source, path, line, reason FROM heal.quarantine WHERE run_id = %s ORDER BY source, path, line",
            (run_id,),
        ).fetchall()

    def record_evaluations(self, run_id: str, rows: Sequence[EvaluationRow]) -> None:
        """Store measured values; a repeated step replaces its own."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(
                "DELETE FROM heal.evaluation WHERE run_id = %s AND generation_id IS NOT DISTINCT FROM %s "
                "AND system = %s AND question_set = %s AND metric = %s AND rival IS NOT DISTINCT FROM %s",
                [(run_id, row.generation_id, row.system, row.question_set, row.metric, row.rival) for row in rows],
            )
            insert(cursor, "evaluation", rows, run_id=run_id)

    def evaluations(self, run_id: str) -> list[EvaluationRow]:
        """The measured values of a run, in the order they were stored."""
        rest = "FROM heal.evaluation WHERE run_id = %s ORDER BY evaluation_id"
        return select(self._conn, EvaluationRow, rest, (run_id,))
