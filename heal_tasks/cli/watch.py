"""Display of a run: a table that is redrawn every second in a terminal, plain lines anywhere else."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby

import psycopg
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heal_tasks.cli.base import console, print_line
from heal_tasks.cli.progress import Snapshot, TaskLine, group_name, observe, task_order
from heal_tasks.core.errors import RetryableError
from heal_tasks.core.log import format_duration
from heal_tasks.local.airflow_client import FINISHED, AirflowClient
from heal_tasks.store.db import connect

PLAIN_PROGRESS_EVERY_S = 15.0
NOT_STARTED = frozenset({"waiting", "scheduled", "queued", "skipped"})  # states that call for no action
MARKS = {
    "success": Text("✓", "green"), "running": Text("▶", "cyan"), "failed": Text("✗", "red"),
    "upstream_failed": Text("✗", "red"), "up_for_retry": Text("↻", "yellow"), "skipped": Text("–", "dim"),
}  # fmt: skip


def watch(
    client: AirflowClient,
    dag_id: str,
    run_id: str,
    database_url: str,
    check: Callable[[], None] = lambda: None,
    *,
    poll_s: float = 1.0,
    patience_s: float = 90.0,
) -> str:
    """Show a run until it ends, as a table where the console is a terminal, else as lines; return its last state.

    The state is success or failed, or queued or running if Ctrl-C ended the display. ``check`` is called after every
    look, to restart a component that died. Airflow and the database may be silent for ``patience_s`` seconds, because
    the API server may be restarted during a run; then a RetryableError is raised.
    """
    order, plain = task_order(client.downstream(dag_id)), PlainDisplay()
    state, answered = "queued", time.monotonic()
    try:
        with Live(console=console, refresh_per_second=4) if console.is_terminal else nullcontext() as live:
            while True:
                try:
                    # A new connection each time: a lost one needs no care, and a second is long.
                    with connect(database_url, autocommit=True) as conn:
                        snapshot = observe(client, conn, dag_id, run_id, order)
                    answered, state = time.monotonic(), snapshot.state
                    if live:
                        live.update(render(snapshot))
                    else:
                        plain.show(snapshot)
                except (RetryableError, psycopg.OperationalError):
                    if time.monotonic() - answered > patience_s:
                        raise
                if state in FINISHED:
                    return state
                check()
                time.sleep(poll_s)
    except KeyboardInterrupt:
        print_line(
            f"\nThe run {run_id} goes on. `python -m heal_tasks watch` shows it again; so does {client.base_url}."
        )
        return state


class PlainDisplay:
    """One line per change of a task's state, and every 15 seconds one for each running task that has advanced."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last_progress = clock, clock()
        self._shown: dict[str, TaskLine] = {}
        self._behind: tuple[str, ...] = ()

    def show(self, snapshot: Snapshot) -> None:
        """Print the changes since the last call."""
        if snapshot.behind and snapshot.behind != self._behind:
            print_line(f"queued behind {', '.join(snapshot.behind)}")
        self._behind = snapshot.behind
        due = self._clock() - self._last_progress >= PLAIN_PROGRESS_EVERY_S
        if due:
            self._last_progress = self._clock()
        for line in snapshot.tasks:
            shown = self._shown.get(line.task_id)
            if shown is None or line.state != shown.state:
                news = line.state not in NOT_STARTED
            else:
                news = due and line.state == "running" and _describe(line) != _describe(shown)
            if news:
                print_line(_describe(line))
                self._shown[line.task_id] = line


def render(snapshot: Snapshot) -> Group:
    """A run as a table: one row per task; the tasks of a route that was not taken share one."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(min_width=22, no_wrap=True)
    table.add_column(justify="right", min_width=7, no_wrap=True)
    table.add_column(width=20)
    table.add_column(overflow="ellipsis", no_wrap=True)
    for group, members in groupby(snapshot.tasks, key=lambda line: group_name(line.task_id)):
        lines = list(members)
        if group and all(line.state == "skipped" for line in lines):
            table.add_row(MARKS["skipped"], Text(f"{group}.*", "dim"), "", "", Text("not this route", "dim"))
            continue
        for line in lines:
            style, step = "dim" if line.state in NOT_STARTED else "", line.step
            state: Text | ProgressBar = Text(_state(line), style)
            if step is not None and step.total and line.state == "running":
                state = ProgressBar(total=step.total, completed=min(step.done, step.total), width=20)
            elapsed = format_duration(line.elapsed_s) if line.elapsed_s and line.state != "skipped" else ""
            mark = MARKS.get(line.state, Text("·", "dim"))
            table.add_row(mark, Text(line.task_id, style), elapsed, state, Text(_detail(line)))
    behind = f", behind {', '.join(snapshot.behind)}" if snapshot.behind else ""
    return Group(Text(f"run {snapshot.run_id}: {snapshot.state}{behind}", style="bold"), table)


def _describe(line: TaskLine) -> str:
    took = f" after {format_duration(line.elapsed_s)}" if line.elapsed_s and line.state != "running" else ""
    detail = _detail(line)
    return f"{line.task_id:<22} {_state(line)}{took}" + (f": {detail}" if detail else "")


def _state(line: TaskLine) -> str:
    words = "waits for a retry" if line.state == "up_for_retry" else line.state.replace("_", " ")
    attempt = f", attempt {line.attempt}" if line.attempt > 1 else ""
    shards = f" {line.ended}/{line.instances}" if line.instances > 1 and line.state == "running" else ""
    return f"{words}{shards}{attempt}"


def _detail(line: TaskLine) -> str:
    step = line.step
    if step is None or line.state in {"waiting", "skipped"}:
        return ""
    if line.state == "running" and step.total:
        return f"{step.done}/{step.total}" + (f" {step.message}" if step.message else "")
    return step.note or (step.message if line.state in {"failed", "up_for_retry", "running"} else "")
