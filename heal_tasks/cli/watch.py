"""Shows a run while it goes: a table that renews itself in a terminal, plain lines anywhere else."""

import time
from collections.abc import Callable
from typing import Protocol

import psycopg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heal_tasks.cli.console import print_line
from heal_tasks.cli.progress import Snapshot, TaskLine, observe, task_order
from heal_tasks.core.errors import RetryableError
from heal_tasks.core.log import format_duration
from heal_tasks.local.airflow_client import FINISHED, AirflowClient
from heal_tasks.store.db import Connection, connect

POLL_S = 1.0
CHECK_EVERY_S = 5.0
PLAIN_PROGRESS_EVERY_S = 15.0
# Airflow's API server may be restarted under a running run; its tasks wait for it, so does the display.
PATIENCE_S = 90.0

MARKS = {
    "success": "[green]✓[/]", "running": "[cyan]▶[/]", "failed": "[red]✗[/]", "upstream_failed": "[red]✗[/]",
    "up_for_retry": "[yellow]↻[/]", "skipped": "[dim]–[/]",
}  # fmt: skip


class _Display(Protocol):
    def show(self, snapshot: Snapshot) -> None: ...


def watch(
    client: AirflowClient,
    dag_id: str,
    run_id: str,
    database_url: str,
    console: Console,
    check: Callable[[], None] | None = None,
) -> str:
    """Show a run until it ends.

    Args:
        client: of Airflow's REST API.
        dag_id: the DAG.
        run_id: the run.
        database_url: the vector database, which holds the steps' progress.
        console: where to show it; decides between table and lines by whether it is a terminal.
        check: called every few seconds, to bring back a component that died.

    Returns:
        The run's last known state: success or failed; queued or running if Ctrl-C ended the display.

    Raises:
        RetryableError: Airflow or the database stayed away for longer than ``PATIENCE_S``.
    """
    order = task_order(client.downstream(dag_id))
    state = "queued"

    def follow(display: _Display) -> str:
        nonlocal state
        reader, seen, checked = _Reader(database_url), time.monotonic(), time.monotonic()
        try:
            while True:
                try:
                    snapshot = observe(client, reader.connection(), dag_id, run_id, order)
                    seen, state = time.monotonic(), snapshot.state
                    display.show(snapshot)
                except (RetryableError, psycopg.OperationalError):
                    reader.close()
                    if time.monotonic() - seen > PATIENCE_S:
                        raise
                if state in FINISHED:
                    return state
                if check is not None and time.monotonic() - checked > CHECK_EVERY_S:
                    check()
                    checked = time.monotonic()
                time.sleep(POLL_S)
        finally:
            reader.close()

    try:
        if not console.is_terminal:
            return follow(PlainDisplay(console))
        with Live(console=console, refresh_per_second=4) as live:
            return follow(_LiveDisplay(live))
    except KeyboardInterrupt:
        console.print(
            f"\nThe run {run_id} goes on. `python -m heal_tasks watch` shows it again; so does {client.base_url}.",
            highlight=False,
            markup=False,
        )
        return state


class PlainDisplay:
    """One line per change of a task's state, and now and then one for what is running.

    Args:
        console: where the lines go.
        clock: seconds that only grow.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._states: dict[str, str] = {}
        self._progress: dict[str, str] = {}
        self._last_progress = clock()
        self._behind: tuple[str, ...] = ()

    def show(self, snapshot: Snapshot) -> None:
        """Print what has changed since the last call."""
        if snapshot.behind and snapshot.behind != self._behind:
            self._print(f"queued behind {', '.join(snapshot.behind)}")
        self._behind = snapshot.behind
        for line in snapshot.tasks:
            before = self._states.get(line.task_id, "waiting")
            # Between waiting and running nothing happens that anybody can act on.
            if line.state != before and line.state not in {"waiting", "scheduled", "queued", "skipped"}:
                self._print(_describe(line))
            self._states[line.task_id] = line.state
        if self._clock() - self._last_progress >= PLAIN_PROGRESS_EVERY_S:
            self._last_progress = self._clock()
            for line in snapshot.tasks:
                text = _describe(line)
                if line.state == "running" and line.step is not None and text != self._progress.get(line.task_id):
                    self._print(text)
                    self._progress[line.task_id] = text

    def _print(self, text: str) -> None:
        print_line(self._console, text)


class _LiveDisplay:
    """The same as a table that is drawn anew every second."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, snapshot: Snapshot) -> None:
        """Draw the run as it is now."""
        self._live.update(render(snapshot))


class _Reader:
    """A database connection that is opened again after it was lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._conn: Connection | None = None

    def connection(self) -> Connection:
        """The open connection."""
        if self._conn is None:
            self._conn = connect(self._url, autocommit=True)
        return self._conn

    def close(self) -> None:
        """Close it, if it is open."""
        if self._conn is not None:
            self._conn.close()
        self._conn = None


def render(snapshot: Snapshot) -> RenderableType:
    """A run as a table: one line per task; the tasks of a route that was not taken share one."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(min_width=22, no_wrap=True)
    table.add_column(justify="right", min_width=7, no_wrap=True)
    table.add_column(width=20)
    table.add_column(overflow="ellipsis", no_wrap=True)
    skipped = {group for group in {_group(line) for line in snapshot.tasks} if group and _all_skipped(snapshot, group)}
    shown: set[str] = set()
    for line in snapshot.tasks:
        group = _group(line)
        if group in skipped:
            if group not in shown:
                table.add_row(MARKS["skipped"], Text(f"{group}.*", style="dim"), "", "", Text("not this route", "dim"))
            shown.add(group)
            continue
        step, bar = line.step, None
        if step is not None and step.total and line.state == "running":
            bar = ProgressBar(total=step.total, completed=min(step.done, step.total), width=20)
        elapsed = format_duration(line.elapsed_s) if line.elapsed_s and line.state != "skipped" else ""
        style = "dim" if line.state in {"waiting", "skipped", "scheduled", "queued"} else ""
        mark = MARKS.get(line.state, "[dim]·[/]")
        table.add_row(
            mark, Text(line.task_id, style=style), elapsed, bar or Text(_state(line), style=style), _detail(line)
        )
    behind = f", behind {', '.join(snapshot.behind)}" if snapshot.behind else ""
    return Group(Text(f"run {snapshot.run_id}: {snapshot.state}{behind}", style="bold"), table)


def _describe(line: TaskLine) -> str:
    took = f" after {format_duration(line.elapsed_s)}" if line.elapsed_s and line.state != "running" else ""
    detail = _detail(line).plain
    return f"{line.task_id:<22} {_state(line)}{took}" + (f": {detail}" if detail else "")


def _state(line: TaskLine) -> str:
    words = "waits for a retry" if line.state == "up_for_retry" else line.state.replace("_", " ")
    attempt = f", attempt {line.attempt}" if line.attempt > 1 else ""
    shards = f" {line.ended}/{line.instances}" if line.instances > 1 and line.state == "running" else ""
    return f"{words}{shards}{attempt}"


def _detail(line: TaskLine) -> Text:
    step = line.step
    if step is None or line.state in {"waiting", "skipped"}:
        return Text("")
    if line.state == "running" and step.total:
        return Text(f"{step.done}/{step.total}" + (f" {step.message}" if step.message else ""))
    return Text(step.note or (step.message if line.state in {"failed", "up_for_retry", "running"} else ""))


def _group(line: TaskLine) -> str:
    return line.task_id.rpartition(".")[0]


def _all_skipped(snapshot: Snapshot, group: str) -> bool:
    return all(line.state == "skipped" for line in snapshot.tasks if _group(line) == group)
