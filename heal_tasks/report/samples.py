"""Sample questions of a run, read from the database whenever a page is opened: a deleted text is in no page."""

from dataclasses import dataclass
from typing import Any

from psycopg.rows import class_row

from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import Run

MAX_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """A question with the title of its document; ``detail`` is its answer, or the filter that dropped it."""

    text: str
    detail: str
    kind: str
    writer: str
    title: str


@dataclass(frozen=True)
class Samples:
    """Some of the newest questions at the end of a run, and some that its filters dropped."""

    kept: list[Sample]
    dropped: list[Sample]


def read_samples(conn: Connection, run: Run) -> Samples:
    """Read the sample questions of a run that still exist."""
    values: dict[str, Any] = {"run": run.run_id, "end": run.finished_at, "limit": MAX_SAMPLES}
    cursor = conn.cursor(row_factory=class_row(Sample))
    kept = cursor.execute(
        """SELECT q.text, q.answer AS detail, q.kind, q.writer, d.title
        FROM (SELECT * FROM heal.question
              WHERE dropped_by IS NULL AND created_at <= coalesce(%(end)s::timestamptz, now())
              ORDER BY created_at DESC, question_id LIMIT %(limit)s) q
        JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
        ORDER BY q.created_at DESC, q.question_id""",
        values,
    ).fetchall()
    dropped = cursor.execute(
        """SELECT q.text, q.reason AS detail, q.kind, q.writer, d.title
        FROM (SELECT *, row_number() OVER (PARTITION BY reason ORDER BY dropped_id) AS place
              FROM heal.question_dropped WHERE run_id = %(run)s) q
        JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
        ORDER BY q.place, q.reason LIMIT %(limit)s""",
        values,
    ).fetchall()
    return Samples(kept, dropped)
