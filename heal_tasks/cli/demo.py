"""The demo on one machine: ``demo`` realigns a first corpus, ``demo_nudge`` brings the changes of a night."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from heal_tasks.cli.base import print_line
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


def demo(settings: Settings, console: Console) -> int:
    """Start everything, fill the inbox, run the DAG, show it live, and report.

    Returns:
        Exit code: 0 if the run succeeded and a generation is active, 130 after Ctrl-C, else 1.
    """
    demo_run = _DemoRun(settings, console, stack.up(settings, say := sayer(console)), say)
    # The inbox is filled after this: Airflow starts last night's run by itself when a DAG is first unpaused, and with
    # an empty inbox that run takes seconds.
    demo_run.settle()
    folder = settings.var_dir / "inbox"
    if f"file:{folder}" not in settings.sources:
        say(f"HEAL_SOURCES is {' '.join(settings.sources)}; the demo adds no documents of its own")
    else:
        say("collecting reference documentation of installed packages (some seconds)")
        written = inbox.fill(settings)
        say(f"{written} documents written into {folder}" if written else f"{folder} holds the demo's documents already")
    return demo_run.trigger()


def demo_nudge(settings: Settings, console: Console) -> int:
    """Put twenty new documents, a changed and a deleted one into the inbox, run the DAG, and report; as ``demo``."""
    running = stack.up(settings, say := sayer(console))
    demo_run = _DemoRun(settings, console, running, say)
    demo_run.settle()
    with connect(running.database_url, autocommit=True) as conn:
        if GenerationRepository(conn).active() is None:
            raise AirflowError("no generation is active yet, so there is nothing to nudge; run `make demo` first")
    arrival = inbox.drop_more(settings)
    say(f"{len(arrival.new)} new documents in {arrival.file}, from {arrival.new[0]} to {arrival.new[-1]}")
    say(f"changed: {arrival.changed}")
    say(f"deleted: {arrival.deleted}")
    return demo_run.trigger()


def watch_run(settings: Settings, run_id: str, console: Console) -> int:
    """Show a run, or the active or last one if none is named, and its report when it has ended; as ``demo``."""
    running = stack.running(settings)
    client = running.client()
    chosen = run_id or next(iter(client.active_runs(DAG_ID)), None) or client.last_run(DAG_ID)
    if chosen is None:
        raise AirflowError(f"{DAG_ID} has never run here; trigger it in the UI, or run `make demo`")
    return _DemoRun(settings, console, running, sayer(console)).follow(chosen)


def print_access(running: stack.Running, console: Console) -> None:
    """Print the UI's address and login, and how to stop."""
    print_line(console, f"Airflow: {running.base_url}  user: {running.user}  password: {running.password}")
    print_line(console, "`make down` stops everything, `make up` brings it back with all data.")


def sayer(console: Console) -> stack.Say:
    """A function that prints a message with the seconds since now before it."""
    start = time.monotonic()

    def say(message: str) -> None:
        print_line(console, f"{time.monotonic() - start:6.1f}s  {message}")

    return say


class _DemoRun:
    """Runs of the DAG on a running stack."""

    def __init__(self, settings: Settings, console: Console, running: stack.Running, say: stack.Say) -> None:
        self._settings, self._console, self._running, self._say = settings, console, running, say
        self._client = running.client()

    def settle(self) -> None:
        """Unpause the DAG and wait for every run of it that is not ours."""
        self._client.wait_for_dag(DAG_ID, timeout_s=120, say=self._say)
        self._client.unpause(DAG_ID)
        self._client.wait_for_schedule(DAG_ID, timeout_s=30)
        for other in self._client.active_runs(DAG_ID):
            self._say(f"run {other} is going on; waiting for it")
            self._watch(other)

    def trigger(self) -> int:
        """Start a run and follow it."""
        run_id = self._client.trigger(DAG_ID, {})
        self._say(f"triggered {DAG_ID}: {run_id}")
        return self.follow(run_id)

    def follow(self, run_id: str) -> int:
        """Show a run until it ends, then its report, SQL examples and the UI's address."""
        state, console = self._watch(run_id), self._console
        if state not in FINISHED:
            return 130  # as a shell does after Ctrl-C
        psql, prefix = "psql", ""
        if self._running.embedded:
            psql = _short(EmbeddedPostgres.bin("psql"))
            prefix = f". {_short(self._settings.var_dir / 'local.env')}; "  # sets HEAL_DATABASE_URL
        with connect(self._running.database_url, autocommit=True) as conn:
            print_report(conn, run_id, console)
            print_examples(conn, self._running.database_url, psql, prefix, console)
            good = state == "success" and GenerationRepository(conn).active() is not None
        console.rule()
        if not good:
            console.print(f"[red]run {escape(run_id)}: {state}[/]; its tasks' logs are in the UI", highlight=False)
        print_access(self._running, console)
        return 0 if good else 1

    def _watch(self, run_id: str) -> str:
        def check() -> None:
            # A run can wait for ever for a component that died; restarting it is what an operator would do.
            if not all(stack.status(self._settings).components.values()):
                stack.up(self._settings, self._say, only_revive=True)

        return watch(self._client, DAG_ID, run_id, self._running.database_url, self._console, check)


def _short(path: Path) -> str:
    """The path relative to the working folder if it is inside, with ./, as a shell looks up a bare name in PATH."""
    here = Path.cwd()
    return f"./{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
