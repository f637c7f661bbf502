"""The list of runs with the state of each."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import Run, RunRepository

PAGE_ROWS = 50

SchedulerStates = Callable[[Collection[str]], Mapping[str, str]]
"""The states of runs by run id, for those that the scheduler knows."""


class ListedRun(NamedTuple):
    """A run with its state as a word and as a class of ``style.css.jinja``."""

    run: Run
    state: str
    tone: str
    scheduled: bool  # the scheduler knows it


class RunPage(NamedTuple):
    """One page of the list of runs, newest first."""

    runs: list[ListedRun]
    older: str | None  # the run after which the next page begins; None on the last


def list_runs(conn: Connection, states: SchedulerStates, before: str | None = None) -> RunPage:
    """Read a page of runs: the newest, or those before a run."""
    repository = RunRepository(conn)
    found = repository.recent_runs(PAGE_ROWS + 1, before)
    page, known = found[:PAGE_ROWS], states([run.run_id for run in found])
    working = repository.working_runs()
    listed = [ListedRun(run, *state_of(run, known.get(run.run_id), working), run.run_id in known) for run in page]
    return RunPage(listed, page[-1].run_id if len(found) > PAGE_ROWS else None)


def state_of(run: Run, scheduler_state: str | None, working: Collection[str]) -> tuple[str, str]:
    """State of a run and its tone; stopped is one that has not ended, but nothing works at it.

    Args:
        run: the run.
        scheduler_state: its state for the scheduler, which also knows of tasks that no step could report on; None if it
            was started on the command line.
        working: the runs of which a process works at a step.
    """
    if scheduler_state in ("queued", "running"):
        return scheduler_state, "busy"
    if run.run_id in working:
        return "running", "busy"
    if scheduler_state == "failed" or run.failed:
        return "failed", "bad"
    return ("finished", "good") if run.finished_at else ("stopped", "bad")
