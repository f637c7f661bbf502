"""The page of a run: one HTML file without scripts or outside resources.

The report step stores the page without any text of documents or questions. ``read_page`` adds sample questions from the
database whenever a page is opened, so that a deleted text is in no page.
"""

from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup
from psycopg.rows import namedtuple_row

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.report.summary import Summary
from heal_tasks.report.templates import render_template
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import Run, RunRepository

if TYPE_CHECKING:
    from heal_tasks.report.pictures import Pictures  # loads matplotlib, which readers of a page do not need

PAGE = "report.html"
MAX_SAMPLES = 8
SAMPLES = Markup(
    '<p class="quiet">Sample questions are read from the database when the page is opened under Browse › HEAL runs in '
    "Airflow, or written by <code>python -m heal_tasks report --page FILE</code>.</p>"
)
"""The place of the sample questions in a stored page. No text of a run can equal it, because texts are escaped."""


def render(summary: Summary, pictures: "Pictures") -> str:
    """Render the HTML of a page without sample questions; every text is escaped."""
    return render_template("page.html.jinja", summary=summary, pictures=pictures, samples=SAMPLES)


def store_page(artifacts: ArtifactStore, run_id: str, page: str) -> str:
    """Write a page as an artifact and return its URI."""
    # Keyed by content, because a page that was fetched from S3 once is not fetched again.
    key = f"reports/{fingerprint([run_id, page])}"
    with artifacts.writing(key) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
    return artifacts.uri(key)


def read_page(conn: Connection, artifacts: ArtifactStore, run_id: str) -> str | None:
    """Read the stored page of a run with its sample questions; None if there is no such run or it has no page yet.

    Raises:
        StepError: the page is missing, or has been changed since it was written.
    """
    run = RunRepository(conn).get_run(run_id)
    if run is None or run.report_uri is None:
        return None
    page = read_stored(artifacts, run.report_uri, PAGE, run_id)
    kept, dropped = read_samples(conn, run)
    samples = render_template("samples.html.jinja", kept=kept, dropped=dropped)
    return page.replace(SAMPLES, samples)


def read_stored(artifacts: ArtifactStore, uri: str, name: str, run_id: str) -> str:
    """Read a text that was stored under its own fingerprint; StepError if it is not the one that was stored."""
    try:
        text = (artifacts.local(uri) / name).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StepError(f"{name} of run {run_id!r} in {uri} cannot be read ({error})") from error
    if not uri.endswith(f"/{fingerprint([run_id, text])}"):
        raise StepError(
            f"{name} of run {run_id!r} in {uri} has been changed since it was written, so it is not shown; clear the "
            "run's task report in Airflow, which writes it anew"
        )
    return text


def read_samples(conn: Connection, run: Run) -> tuple[list[NamedTuple], list[NamedTuple]]:
    """Read some of the newest questions at the end of a run, and some that its filters dropped.

    Those about documents that not everybody may read are left out. The rows have text, detail (the answer, or the
    filter that dropped it), kind, writer and title of the document.
    """
    values = {"run": run.run_id, "end": run.finished_at, "limit": MAX_SAMPLES}
    cursor = conn.cursor(row_factory=namedtuple_row)
    kept = cursor.execute(
        """SELECT q.text, q.answer AS detail, q.kind, q.writer, d.title
        FROM (SELECT * FROM heal.question
              WHERE dropped_by IS NULL AND created_at <= coalesce(%(end)s::timestamptz, now())
              ORDER BY created_at DESC, question_id LIMIT %(limit)s) q
        JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id) WHERE heal.may_read(d.document_id)
        ORDER BY q.created_at DESC, q.question_id""",
        values,
    ).fetchall()
    dropped = cursor.execute(
        """SELECT q.text, q.reason AS detail, q.kind, q.writer, d.title
        FROM (SELECT *, row_number() OVER (PARTITION BY reason ORDER BY dropped_id) AS place
              FROM heal.question_dropped WHERE run_id = %(run)s) q
        JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id) WHERE heal.may_read(d.document_id)
        ORDER BY q.place, q.reason LIMIT %(limit)s""",
        values,
    ).fetchall()
    return kept, dropped
