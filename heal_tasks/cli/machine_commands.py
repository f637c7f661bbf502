"""Commands for one machine: start and stop everything, the demo, and a run's progress."""

import typer

from heal_tasks.cli.base import RunId, app, console, settings_for_command
from heal_tasks.core.settings import load_settings

PANEL = "One machine"


@app.command(rich_help_panel=PANEL)
def up() -> None:
    """Start the embedded Postgres and Airflow, or those parts of them that do not run."""
    from heal_tasks.cli.demo import print_access, sayer
    from heal_tasks.local.stack import up as start

    print_access(start(settings_for_command(), sayer(console)), console)


@app.command(rich_help_panel=PANEL)
def down() -> None:
    """Stop Airflow and the embedded Postgres; all data stays."""
    from heal_tasks.cli.demo import sayer
    from heal_tasks.local.stack import down as stop

    stop(settings_for_command(), sayer(console))


@app.command(rich_help_panel=PANEL)
def demo() -> None:
    """Start everything, fill the inbox with real documents, run the nightly DAG and show its report."""
    from heal_tasks.cli.demo import demo as run_demo

    raise typer.Exit(run_demo(load_settings(), console))


@app.command(rich_help_panel=PANEL)
def demo_nudge() -> None:
    """Put twenty new documents, a changed and a deleted one into the inbox, and run the DAG."""
    from heal_tasks.cli.demo import demo_nudge as run_demo

    raise typer.Exit(run_demo(load_settings(), console))


@app.command(rich_help_panel=PANEL)
def watch(run_id: RunId = "") -> None:
    """Follow a run in the terminal and show its report."""
    from heal_tasks.cli.demo import watch_run

    raise typer.Exit(watch_run(load_settings(), run_id, console))
