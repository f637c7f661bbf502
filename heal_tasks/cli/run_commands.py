"""Commands for runs: every step by hand, the whole road, what a run would do, and a run's report."""

import json
from pathlib import Path
from typing import Annotated

import typer

from heal_tasks.cli.base import RunId, app, console, manifest_of_run, new_run_id, settings_for_command
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine import road

_COMMANDS_OF_THEIR_OWN = ("activate", "maintain", "report")


def _add_step_command(name: str, entry: road.Entry) -> None:
    hidden = not entry.shards

    @app.command(name.replace("_", "-"), help=entry.about, rich_help_panel="Steps, in the order of the road")
    def command(
        run_id: RunId = "",
        shard: Annotated[int, typer.Option(min=0, help="Number of this shard.", hidden=hidden)] = 0,
        shards: Annotated[int, typer.Option(min=1, help="How many shards there are.", hidden=hidden)] = 1,
    ) -> None:
        settings = settings_for_command()
        if name == "ingest":
            manifest = Manifest(run_id=run_id or new_run_id("manual"))
        else:
            manifest = manifest_of_run(settings, run_id)
        result = road.load_step(name).run_to_end(settings, manifest, shard, shards)
        console.print_json(json.dumps(result.to_json()))


for _name, _entry in road.STEPS.items():
    if _name not in _COMMANDS_OF_THEIR_OWN:
        _add_step_command(_name, _entry)


@app.command()
def run(run_id: RunId = "") -> None:
    """Run the whole road in this process, without Airflow: ingest, route, the chosen route, report."""
    from heal_tasks.steps.engine.pipeline import run_pipeline

    settings = settings_for_command()
    result = run_pipeline(
        settings,
        run_id or new_run_id("manual"),
        lambda manifest: console.print(f"{manifest.step}: {manifest.note}", markup=False),
    )
    _print_report(settings, result.run_id)


@app.command()
def plan() -> None:
    """Print what a run would do now: documents, route, questions to pay for. Changes nothing."""
    from heal_tasks.steps.engine.dry_run import make_plan

    for line in make_plan(settings_for_command()).lines():
        console.print(line, markup=False, highlight=False)


@app.command()
def report(
    run_id: RunId = "",
    page: Annotated[Path | None, typer.Option(help="Write the run's page to this HTML file instead.")] = None,
) -> None:
    """Print a run's report again, or write its page with pictures to a file."""
    from heal_tasks.cli.run_summary import write_page

    settings = settings_for_command()
    run_id = run_id or manifest_of_run(settings, "").run_id
    if page is None:
        _print_report(settings, run_id)
    else:
        write_page(settings, run_id, page)


def _print_report(settings: Settings, run_id: str) -> None:
    from heal_tasks.cli.run_summary import print_report
    from heal_tasks.store.db import connect

    with connect(settings.require_database_url(), autocommit=True) as conn:
        print_report(conn, run_id, console)
