"""The page of a run: one HTML file without scripts or outside resources.

The report step stores the page without any text of documents or questions; ``read_page`` adds the sample questions
that the database still has.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.log import format_duration
from heal_tasks.report.pictures import Pictures
from heal_tasks.report.samples import read_samples
from heal_tasks.report.summary import Summary
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository

PAGE = "report.html"
SAMPLES = Markup(
    '<p class="quiet">Sample questions are read from the database when the page is opened under Browse › HEAL runs in '
    "Airflow, or written by <code>python -m heal_tasks report --page FILE</code>.</p>"
)
"""The place of the sample questions in a stored page. No text of a run can equal it, because texts are escaped."""


def render(summary: Summary, pictures: Pictures) -> str:
    """Render the HTML of a page without sample questions; every text is escaped."""
    return _environment().get_template("page.html.jinja").render(summary=summary, pictures=pictures, samples=SAMPLES)


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
        StepError: the page's file is gone.
    """
    run = RunRepository(conn).get_run(run_id)
    if run is None or run.report_uri is None:
        return None
    page = (artifacts.local(run.report_uri) / PAGE).read_text(encoding="utf-8")
    samples = _environment().get_template("samples.html.jinja").render(samples=read_samples(conn, run))
    return page.replace(SAMPLES, samples)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["duration"] = format_duration
    return environment
