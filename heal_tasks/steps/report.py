"""Step report: always last; the run's row is closed and its page written, whatever happened before."""

from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.log import format_duration
from heal_tasks.report.pictures import Pictures, draw
from heal_tasks.report.summary import Summary, summarise
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.runs.runs import RunRepository

PAGE = "report.html"


def render(summary: Summary, pictures: Pictures) -> str:
    """The run's page: one HTML file without scripts or outside resources.

    Args:
        summary: of the run.
        pictures: of the run; those that are None are left out.

    Returns:
        HTML; every text from documents or models is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["duration"] = format_duration
    return environment.get_template("report.html.jinja").render(summary=summary, pictures=pictures)


def report(context: Context) -> Outcome:
    """Close the run's row and write its page.

    Args:
        context: of the step.

    Returns:
        Ref ``report_uri``.
    """
    runs = RunRepository(context.conn)
    runs.open_run(context.run_id)
    summary = summarise(context.conn, context.run_id)
    if summary is None:
        raise StepError(f"run {context.run_id!r} is not in heal.run")
    verdict = _verdict(summary)
    page = render(replace(summary, run=replace(summary.run, verdict=verdict)), draw(context, summary))
    # By content, because a page that was fetched from S3 once is not fetched again.
    key = f"reports/{fingerprint([context.run_id, page])}"
    with context.artifacts.writing(key) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
    uri = context.artifacts.uri(key)
    active_id = summary.active.generation_id if summary.active else None
    runs.finish_run(context.run_id, verdict, generation_id=active_id, report_uri=uri)
    return Outcome(refs={"report_uri": uri}, note=verdict.split("\n")[0])


def _verdict(summary: Summary) -> str:
    """What came of the run: the last word of its last telling step."""
    unfinished = [row for row in summary.steps if row.finished_at is None and row.step != "report"]
    if unfinished:
        return "Not finished: " + "; ".join(f"{row.step}: {row.message}" for row in unfinished)
    for name in ("promote", "nudge_live"):
        for row in summary.steps:
            if row.step == name and row.result:
                told = next((other for other in summary.steps if other.step == "evaluate" and other.result), row)
                refs = {**(told.result or {}).get("refs", {}), **row.result["refs"]}
                return str(refs.get("verdict", row.result["note"]))
    return "Nothing to align; no vector was written."


REPORT = Step("report", report, None)
