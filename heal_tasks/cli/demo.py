"""The whole road on one machine, for a first look: ``demo`` realigns, ``demo_nudge`` brings what a night would."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from heal_tasks.cli.console import plain_or_live_console, print_line
from heal_tasks.cli.examples import print_examples
from heal_tasks.cli.run_summary import print_report
from heal_tasks.cli.watch import watch
from heal_tasks.core.errors import AirflowError
from heal_tasks.core.settings import Settings
from heal_tasks.local import inbox, stack
from heal_tasks.local.airflow_client import FINISHED
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import GenerationRepository

DAG_ID = "heal_realign"
DAG_TIMEOUT_S = 120.0
INTERRUPTED = 130


def demo(settings: Settings, console: Console | None = None) -> int:
    """Start everything, fill the inbox, run the DAG, show it live, and report.

    Args:
        settings: all settings.
        console: where to show it; standard output by default.

    Returns:
        Exit code: 0 if the run succeeded and a generation is active, 130 after Ctrl-C, else 1.

    Raises:
        HealError: something could not be started; the message says what to do.
    """
    console = console or plain_or_live_console()
    say = sayer(console)
    running = stack.up(settings, say)
    # The inbox is filled after that: Airflow starts last night's run by itself when a DAG is first unpaused, and
    # over an empty inbox it takes seconds.
    _settle(settings, running, console, say)
    folder = settings.var_dir / "inbox"
    if f"file:{folder}" not in settings.sources:
        say(f"HEAL_SOURCES is {' '.join(settings.sources)}; the demo adds no documents of its own")
    else:
        say("collecting reference documentation of installed packages (some seconds)")
        written = inbox.fill(settings)
        say(f"{written} documents written into {folder}" if written else f"{folder} holds the demo's documents already")
    return _run(settings, running, console, say)


def demo_nudge(settings: Settings, console: Console | None = None) -> int:
    """Drop twenty new documents, a changed and a deleted one into the inbox, run the DAG, and report.

    Args:
        settings: all settings.
        console: where to show it; standard output by default.

    Returns:
        Exit code, as of ``demo``.

    Raises:
        InputError: ``demo`` has not run here.
        HealError: something could not be started; the message says what to do.
    """
    console = console or plain_or_live_console()
    say = sayer(console)
    running = stack.up(settings, say)
    _settle(settings, running, console, say)
    with connect(running.database_url, autocommit=True) as conn:
        if GenerationRepository(conn).active() is None:
            raise AirflowError("no generation is active yet, so there is nothing to nudge; run `make demo` first")
    arrival = inbox.drop_more(settings)
    say(f"{len(arrival.new)} new documents in {arrival.file}, from {arrival.new[0]} to {arrival.new[-1]}")
    say(f"changed: {arrival.changed}")
    say(f"deleted: {arrival.deleted}")
    return _run(settings, running, console, say)


def watch_run(settings: Settings, run_id: str | None = None, console: Console | None = None) -> int:
    """Show a run of what ``make up`` has started, and its report when it has ended.

    Args:
        settings: all settings.
        run_id: which; None takes the one that is going on, or else the last.
        console: where to show it; standard output by default.

    Returns:
        Exit code, as of ``demo``.

    Raises:
        AirflowError: Airflow does not run here, or there is no such run.
    """
    console = console or plain_or_live_console()
    running = stack.running(settings)
    client = running.client()
    chosen = run_id or next(iter(client.active_runs(DAG_ID)), None) or client.last_run(DAG_ID)
    if chosen is None:
        raise AirflowError(f"{DAG_ID} has never run here; trigger it in the UI, or run `make demo`")
    return _follow(settings, running, chosen, console, sayer(console))


def _settle(settings: Settings, running: stack.Running, console: Console, say: stack.Say) -> None:
    """Unpause the DAG and wait until no run of it is left that is not ours."""
    client = running.client()
    client.wait_for_dag(DAG_ID, DAG_TIMEOUT_S, say)
    client.unpause(DAG_ID)
    client.wait_for_schedule(DAG_ID, timeout_s=30)
    for other in client.active_runs(DAG_ID):
        say(f"run {other} is going on; waiting for it")
        _watch(settings, running, other, console, say)


def _run(settings: Settings, running: stack.Running, console: Console, say: stack.Say) -> int:
    run_id = running.client().trigger(DAG_ID, {})
    say(f"triggered {DAG_ID}: {run_id}")
    return _follow(settings, running, run_id, console, say)


def _follow(settings: Settings, running: stack.Running, run_id: str, console: Console, say: stack.Say) -> int:
    state = _watch(settings, running, run_id, console, say)
    if state not in FINISHED:
        return INTERRUPTED
    with connect(running.database_url, autocommit=True) as conn:
        print_report(conn, run_id, console)
        generation = GenerationRepository(conn).active()
        if generation is not None:
            psql, prefix = _psql(settings, running.embedded)
            print_examples(conn, running.database_url, psql, prefix, console)
    console.rule()
    if state != "success" or generation is None:
        console.print(f"[red]run {escape(run_id)}: {state}[/]; its tasks' logs are in the UI", highlight=False)
    print_access(running, console)
    return 0 if state == "success" and generation is not None else 1


def print_access(running: stack.Running, console: Console) -> None:
    """Print where the UI is, how to log in, and how to stop."""
    console.print(
        f"Airflow: {running.base_url}  user: {running.user}  password: {running.password}\n"
        "`make down` stops everything, `make up` brings it back with all data.",
        markup=False,
        highlight=False,
    )


def _watch(settings: Settings, running: stack.Running, run_id: str, console: Console, say: stack.Say) -> str:
    def check() -> None:
        # A run can hang for ever behind a component that died; bringing it back is what an operator would do.
        if not all(stack.status(settings).components.values()):
            stack.up(settings, say, only_revive=True)

    return watch(running.client(), DAG_ID, run_id, running.database_url, console, check)


def _psql(settings: Settings, embedded: bool) -> tuple[str, str]:
    """The program as it is to be typed, and what sets HEAL_DATABASE_URL before it."""
    if not embedded:
        return "psql", ""
    return _short(EmbeddedPostgres.bin("psql")), f". {_short(settings.var_dir / 'local.env')}; "


def _short(path: Path) -> str:
    """Relative to the working folder where that is shorter."""
    here = Path.cwd()
    # A bare name would be looked for in PATH, so the folder stays.
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)


def sayer(console: Console) -> stack.Say:
    """What prints one line per message, with the seconds since now before it."""
    start = time.monotonic()

    def say(message: str) -> None:
        print_line(console, f"{time.monotonic() - start:6.1f}s  {message}")

    return say
