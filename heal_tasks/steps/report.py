"""Step report: close the run's row and write its page; always last, whatever happened before."""

from dataclasses import replace

from heal_tasks.core.errors import StepError
from heal_tasks.core.settings import Settings
from heal_tasks.report.page import render, store_page
from heal_tasks.report.store_map import write_map
from heal_tasks.report.summary import Summary, summarise
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.runs.runs import NOT_FINISHED, RunRepository


def report(context: Context) -> Outcome:
    """Close the run's row; write its page, ref ``report_uri``, and the map of documents, ref ``map_uri`` (or empty)."""
    runs = RunRepository(context.conn)
    runs.open_run(context.run_id)
    summary = summarise(context.conn, context.run_id)
    if summary is None:
        raise StepError(f"run {context.run_id!r} is not in heal.run; run `python -m heal_tasks ingest` first")
    from heal_tasks.report.pictures import draw  # loads matplotlib

    verdict = "\n".join([_verdict(summary, context.settings), *summary.undone()])
    pictures = draw(context.conn, context.artifacts, summary, context.settings.model_uri)
    page = render(replace(summary, run=replace(summary.run, verdict=verdict)), pictures)
    uri = store_page(context.artifacts, context.run_id, page)
    active_id = summary.active.generation_id if summary.active else None
    runs.finish_run(context.run_id, verdict, active_id, uri, summary.state(), summary.ended_at)
    map_uri = write_map(context.artifacts, context.run_id, pictures.projection)
    return Outcome(refs={"report_uri": uri, "map_uri": map_uri}, note=verdict.split("\n")[0])


def _verdict(summary: Summary, settings: Settings) -> str:
    """The outcome of the run: what is unfinished, or the verdict of ``publish`` or ``nudge_live``."""
    unfinished = [row for row in summary.steps if row.finished_at is None and row.step != "report"]
    if unfinished:
        return f"{NOT_FINISHED}: " + "; ".join(f"{row.step}: {row.message}" for row in unfinished)
    results = {row.step: row.result for row in summary.steps if row.result}
    if "choose" in results and "publish" not in results:
        return f"{NOT_FINISHED}: choose has ended, but publish has not begun; run the realign route again."
    for name in ("publish", "nudge_live"):
        if name in results:
            return str(results[name]["refs"].get("verdict") or results[name]["note"])
    if "ingest" not in results:
        return f"{NOT_FINISHED}: the sources were not read; the log of step ingest says why."
    if "route" not in results:
        return f"{NOT_FINISHED}: ingest has ended, but route has not begun; run it again."
    if dry_run := results["ingest"]["refs"].get("dry_run"):
        return f"Nothing was stored: {dry_run}"
    if not summary.documents["documents"]:
        return f"No documents: the sources gave none, and none were in the store. Look at {' '.join(settings.sources)}"
    if (summary.run.route_facts or {}).get("forced") == "nothing":
        return f"No vector was written. {summary.run.route_reason}"
    return "Nothing to align; no vector was written."


REPORT = Step("report", report, None, repeats=True)
