"""Commands for runs: every step by hand, the whole road, what a run would do, and a run's report."""

import json
from pathlib import Path
from typing import Annotated

import typer

from heal_tasks.cli.base import RunId, app, console, new_run_id, print_line, settings_for_command
from heal_tasks.cli.run_summary import print_report
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.manifest import READ_AGAIN, Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.report.page import read_page
from heal_tasks.steps.engine import road
from heal_tasks.store.db import connect
from heal_tasks.store.runs.runs import RunRepository

STEPS_PANEL = "Steps, in the order of the road"


@app.command(help=road.STEPS["ingest"].about, rich_help_panel=STEPS_PANEL)
def ingest(
    run_id: RunId = "",
    again: Annotated[
        bool, typer.Option("--again", help="Read every file of HEAL_SOURCES again, whether it has changed or not.")
    ] = False,
) -> None:
    """Run the first step, which begins a run."""
    manifest = Manifest(run_id=run_id or new_run_id("manual"), refs={READ_AGAIN: 1} if again else {})
    result = road.load_step("ingest").run_to_end(settings_for_command(), manifest)
    console.print_json(json.dumps(result.to_json()))


def _add_step_command(name: str, entry: road.Entry) -> None:
    def run_step(run_id: RunId = "", shard: int = 0, shards: int = 1) -> None:
        if shard >= shards:
            raise InputError(f"--shard {shard} is none of --shards {shards}, whose numbers are 0 to {shards - 1}")
        settings = settings_for_command()
        result = road.load_step(name).run_to_end(settings, _manifest_of(settings, run_id), shard, shards)
        console.print_json(json.dumps(result.to_json()))

    def whole(run_id: RunId = "") -> None:
        run_step(run_id)

    def sharded(
        run_id: RunId = "",
        shard: Annotated[int, typer.Option(min=0, help="Number of this shard.")] = 0,
        shards: Annotated[int, typer.Option(min=1, help="How many shards there are.")] = 1,
    ) -> None:
        run_step(run_id, shard, shards)

    app.command(name, help=entry.about, rich_help_panel=STEPS_PANEL)(sharded if entry.shards else whole)


for _name, _entry in road.STEPS.items():
    if _name not in ("ingest", "activate", "maintain", "report"):  # commands of their own
        _add_step_command(_name, _entry)


@app.command()
def run(run_id: RunId = "") -> None:
    """Run the whole road in this process, without Airflow: ingest, route, the chosen route, report."""
    settings, name = settings_for_command(), run_id or new_run_id("manual")
    road.run_pipeline(settings, name)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        print_report(conn, name)


@app.command()
def plan() -> None:
    """Print what a run would do now: documents, route, questions to pay for. Changes nothing."""
    from heal_tasks.steps.engine.dry_run import make_plan

    for line in make_plan(settings_for_command()).lines():
        print_line(line)


@app.command()
def report(
    run_id: RunId = "",
    page: Annotated[Path | None, typer.Option(help="Write the run's page to this HTML file instead.")] = None,
) -> None:
    """Print a run's report again, or write its page with pictures to a file."""
    settings = settings_for_command()
    with connect(settings.require_database_url(), autocommit=True) as conn:
        run_id = _existing_run(RunRepository(conn), run_id)
        if not run_id:
            raise StepError("there is no run yet; start one by the DAG heal_realign, or `python -m heal_tasks run`")
        if page is None:
            print_report(conn, run_id)
        elif text := read_page(conn, artifact_store(settings), run_id):
            try:
                page.write_text(text, encoding="utf-8")
            except OSError as error:
                raise InputError(f"{page} cannot be written ({error.strerror}); name another file") from None
        else:
            raise StepError(
                f"run {run_id!r} has no page; SELECT run_id FROM heal.run WHERE report_uri IS NOT NULL lists runs with "
                "one"
            )


def _manifest_of(settings: Settings, wanted: str) -> Manifest:
    """The refs of a run's finished steps, so that any step can run next; of the latest run if none is named."""
    with connect(settings.require_database_url(), autocommit=True) as conn:
        runs = RunRepository(conn)
        run_id = _existing_run(runs, wanted) or new_run_id("manual")
        refs: dict[str, int | str] = {}
        for row in runs.steps_of(run_id):
            if row.result:
                refs.update(row.result["refs"])
    return Manifest(run_id=run_id, refs=refs)


def _existing_run(runs: RunRepository, wanted: str) -> str:
    """The run that is named, or else the latest; empty where there is none."""
    if wanted and runs.get_run(wanted) is None:
        raise InputError(f"there is no run {wanted!r}; `python -m heal_tasks status` lists the latest")
    return wanted or next((row.run_id for row in runs.recent_runs(1)), "")
