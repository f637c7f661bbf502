"""Commands for one machine: start and stop everything, the demo, and a run's progress."""

import time
from pathlib import Path
from typing import Annotated

import typer

from heal_tasks.cli.base import RunId, app, console, print_line, settings_for_command
from heal_tasks.cli.examples import print_examples
from heal_tasks.cli.run_summary import print_report
from heal_tasks.cli.watch import watch as watch_run
from heal_tasks.core.errors import AirflowError, InputError
from heal_tasks.core.settings import Settings
from heal_tasks.local import inbox, stack
from heal_tasks.local.airflow_client import FINISHED
from heal_tasks.local.components import COMPONENTS, read_state
from heal_tasks.local.databases import prepare_vectors, stack_lock, start_server
from heal_tasks.local.environment import UI_USER
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository

PANEL = "One machine"
DAG_ID = "heal_realign"
STARTED = time.monotonic()


@app.command(rich_help_panel=PANEL)
def up(
    database_only: Annotated[
        bool, typer.Option("--database-only", help="Start Postgres alone, without Airflow.")
    ] = False,
) -> None:
    """Start the embedded Postgres and Airflow, or those parts of them that do not run."""
    settings = machine_settings()
    if not database_only:
        _print_access(stack.up(settings, say))
        return
    with stack_lock(settings, say):
        start_server(settings, say)
        embedded = prepare_vectors(settings, say)[1]
    local_env = short_path(settings.var_dir / "local.env")
    used = f"{local_env} has its URL for the command line" if embedded else "vectors stay in that of HEAL_DATABASE_URL"
    say(f"the embedded Postgres is up; {used}")


@app.command(rich_help_panel=PANEL)
def down() -> None:
    """Stop Airflow and the embedded Postgres; all data stays."""
    stack.down(machine_settings(), say)


@app.command(rich_help_panel=PANEL)
def demo() -> None:
    """Start everything, fill the inbox with real documents, run the nightly DAG and show its report."""
    settings = machine_settings()
    running = stack.up(settings, say)
    # The inbox is filled after this: Airflow starts last night's run by itself when a DAG is first unpaused, and with
    # an empty inbox that run takes seconds.
    _settle(settings, running)
    folder = settings.var_dir / "inbox"
    if f"file:{folder}" not in settings.sources:
        say(f"HEAL_SOURCES is {' '.join(settings.sources)}; the demo adds no documents of its own")
    else:
        say("collecting reference documentation of installed packages (some seconds)")
        written = inbox.fill(settings)
        say(f"{written} documents written into {folder}" if written else f"{folder} holds the demo's documents already")
    _trigger(settings, running)


@app.command(rich_help_panel=PANEL)
def demo_nudge() -> None:
    """Put twenty new documents, a changed and a deleted one into the inbox, and run the DAG."""
    settings = machine_settings()
    running = stack.up(settings, say)
    _settle(settings, running)
    with connect(running.database_url, autocommit=True) as conn:
        if GenerationRepository(conn).active() is None:
            raise AirflowError("no generation is active yet, so there is nothing to nudge; run `make demo` first")
    arrival = inbox.drop_more(settings)
    say(f"{len(arrival.new)} new documents in {arrival.file}, from {arrival.new[0]} to {arrival.new[-1]}")
    say(f"changed: {arrival.changed}")
    say(f"deleted: {arrival.deleted}")
    _trigger(settings, running)


@app.command(rich_help_panel=PANEL)
def watch(run_id: RunId = "") -> None:
    """Follow a run in the terminal and show its report."""
    settings = machine_settings()
    running = stack.running(settings)
    client = running.client
    for sentence in stack.paused(client):
        print_line(sentence)
    chosen = run_id or next(iter(client.active_runs(DAG_ID)), None) or client.last_run(DAG_ID)
    if chosen is None:
        raise AirflowError(f"{DAG_ID} has never run here; trigger it in the UI, or run `make demo`")
    _follow(settings, running, chosen)


def say(message: str) -> None:
    """Print a message with the seconds since the command began."""
    print_line(f"{time.monotonic() - STARTED:6.1f}s  {message}")


def machine_settings() -> Settings:
    """The settings of the deployment: a command for the whole machine is refused in a corpus."""
    settings = settings_for_command()
    if settings.corpus:
        raise InputError(f"one stack serves all corpora: leave out the corpus ({settings.corpus}) in this command")
    return settings


def _settle(settings: Settings, running: stack.Running) -> None:
    """Unpause the DAG and wait for every run of it that is not ours."""
    client = running.client
    say(f"waiting until Airflow has read the DAG {DAG_ID}")
    client.wait_for_dag(DAG_ID, timeout_s=120)
    client.unpause(DAG_ID)
    client.wait_for_schedule(DAG_ID, timeout_s=30)
    for other in client.active_runs(DAG_ID):
        say(f"run {other} is going on; waiting for it")
        _watch(settings, running, other)


def _trigger(settings: Settings, running: stack.Running) -> None:
    run_id = running.client.trigger(DAG_ID, {})
    say(f"triggered {DAG_ID}: {run_id}")
    _follow(settings, running, run_id)


def _follow(settings: Settings, running: stack.Running, run_id: str) -> None:
    """Show a run until it ends, then its report, SQL examples and the UI's address; exit with 0 if all is well."""
    state = _watch(settings, running, run_id)
    if state not in FINISHED:
        raise typer.Exit(130)  # as a shell does after Ctrl-C
    with connect(running.database_url, autocommit=True) as conn:
        print_report(conn, run_id)
        _print_examples(conn, settings, running)
        good = state == "success" and GenerationRepository(conn).active() is not None
    console.rule()
    if not good:
        console.print(f"run {run_id}: {state}; its tasks' logs are in the UI", style="red")
    _print_access(running)
    raise typer.Exit(0 if good else 1)


def _watch(settings: Settings, running: stack.Running, run_id: str) -> str:
    with connect(running.database_url, autocommit=True) as conn:
        answered = GenerationRepository(conn).active() is not None

    def check() -> None:
        nonlocal answered
        # A run can wait for ever for a component that died.
        if read_state(settings.var_dir).alive != COMPONENTS.keys():
            stack.up(settings, say, only_revive=True)
        answered = answered or _first_answer(settings, running)

    return watch_run(running.client, DAG_ID, run_id, running.database_url, check)


def _first_answer(settings: Settings, running: stack.Running) -> bool:
    """Show the answer to a question if a generation is live, and return whether one is."""
    with connect(running.database_url, autocommit=True) as conn:
        live = GenerationRepository(conn).active() is not None
        if live:
            say("the first generation is live, so the documents can be searched; the run goes on")
            _print_examples(conn, settings, running, count=1)
    return live


def _print_examples(conn: Connection, settings: Settings, running: stack.Running, count: int = 3) -> None:
    psql, prefix = "psql", ""
    if running.embedded:
        psql = short_path(EmbeddedPostgres.bin("psql"))
        prefix = f". {short_path(settings.var_dir / 'local.env')}; "  # sets HEAL_DATABASE_URL
    print_examples(conn, running.database_url, psql, prefix, count)


def _print_access(running: stack.Running) -> None:
    # The one password that is shown: its owner is at the terminal.
    console.print(f"Airflow: {running.client.base_url}  user: {UI_USER}  password: {running.password}", soft_wrap=True)
    print_line("`make down` stops everything, `make up` brings it back with all data.")


def short_path(path: Path) -> str:
    """The path relative to the working folder if it is inside, with ./, as a shell looks up a bare name in PATH."""
    here = Path.cwd()
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
