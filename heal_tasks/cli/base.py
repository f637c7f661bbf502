"""The parts that every group of commands shares: the Typer app, the console, the settings, common options."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from heal_tasks.cli.console import plain_or_live_console
from heal_tasks.core.log import configure_logging
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings

app = typer.Typer(
    name="heal_tasks",
    help="Keeps a pgvector store aligned with its owner's documents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = plain_or_live_console()

RunId = Annotated[str, typer.Option("--run-id", help="Run to work in; the latest one if left out.")]


def settings_for_command() -> Settings:
    """The settings of the environment, with logging set up."""
    settings = load_settings()
    configure_logging(settings.log_level)
    return settings


def new_run_id(kind: str) -> str:
    """A run id of this moment, unique to the microsecond."""
    return f"{kind}__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"


def manifest_of_run(settings: Settings, run_id: str) -> Manifest:
    """The refs of a run's finished steps, so that any step can run next.

    Args:
        settings: database.
        run_id: the run; empty takes the latest, or a new one where there is none.

    Returns:
        A manifest without counts.
    """
    from heal_tasks.store.db import connect
    from heal_tasks.store.runs.runs import RunRepository

    with connect(settings.require_database_url(), autocommit=True) as conn:
        runs = RunRepository(conn)
        if not run_id:
            recent = runs.recent_runs(1)
            if not recent:
                return Manifest(run_id=new_run_id("manual"))
            run_id = recent[0].run_id
        refs: dict[str, int | str] = {}
        for row in runs.steps_of(run_id):
            if row.result:
                refs.update(row.result["refs"])
    return Manifest(run_id=run_id, refs=refs)
