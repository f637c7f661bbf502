"""Progress of a run: task states from Airflow, units done of each step from ``heal.step_result``."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from itertools import groupby

from heal_tasks.local.airflow_client import AirflowClient, TaskInstance
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository

# The state of a task with several instances: the first of these that any of them has; None before it is scheduled.
PRECEDENCE = (
    "failed", "upstream_failed", "running", "up_for_retry", "restarting", "queued", "scheduled", "deferred", None,
    "success",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress of a step, summed over its shards: units done, rate and time left, and at the end the result."""

    done: int
    total: int  # 0 where not known
    message: str
    note: str


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task of a run, its mapped instances taken together."""

    task_id: str  # with its group, as realign.ask
    state: str  # Airflow's; "waiting" before it is scheduled
    ended: int  # instances that have ended
    instances: int
    elapsed_s: float  # from the first start to the last end, or until now; 0 before the start
    attempt: int
    step: StepProgress | None  # None where the step has reported nothing


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment: its state, the active runs it waits for, its tasks in the order of the road."""

    run_id: str
    state: str
    behind: tuple[str, ...]
    tasks: tuple[TaskLine, ...]


def observe(client: AirflowClient, conn: Connection, dag_id: str, run_id: str, order: Iterable[str]) -> Snapshot:
    """Take a snapshot of a run, with its tasks in the given order; ``conn`` is in autocommit mode."""
    # The state before the tasks: a run that has ended is then shown with its last task's end.
    state = client.run_state(dag_id, run_id)
    behind = tuple(other for other in client.active_runs(dag_id) if other != run_id) if state == "queued" else ()
    by_task = defaultdict[str, list[TaskInstance]](list)
    for instance in client.task_instances(dag_id, run_id):
        by_task[instance.task_id].append(instance)
    steps, now = read_steps(conn, run_id), datetime.now(UTC)
    lines = [
        _line(task_id, by_task[task_id], steps.get(step_name(task_id)), now) for task_id in order if task_id in by_task
    ]
    return Snapshot(run_id, state, behind, tuple(lines))


def step_name(task_id: str) -> str:
    """Name of a task's step in ``heal.step_result``: its id without the group."""
    return task_id.rpartition(".")[2]


def group_name(task_id: str) -> str:
    """The group in a task's id; empty outside a group."""
    return task_id.rpartition(".")[0]


def task_order(downstream: Mapping[str, Iterable[str]]) -> list[str]:
    """Sort task ids, given with those directly after each, as they run; groups are kept together."""
    sorter = TopologicalSorter[str]()
    for task_id in sorted(downstream):
        sorter.add(task_id)
        for after in downstream[task_id]:
            sorter.add(after, task_id)
    order = list(sorter.static_order())
    # A group has the place of its last task: whatever comes after the group comes after all of it.
    last = {group_name(task_id) or task_id: position for position, task_id in enumerate(order)}
    return sorted(order, key=lambda task_id: last[group_name(task_id) or task_id])


def read_steps(conn: Connection, run_id: str) -> dict[str, StepProgress]:
    """Progress of every step that this run has begun; of its latest inputs, if they changed on the way."""
    found: dict[str, StepProgress] = {}
    for step, shards in groupby(RunRepository(conn).steps_of(run_id), key=lambda row: row.step):
        rows = list(shards)
        unfinished = [row for row in rows if row.finished_at is None]
        notes = dict.fromkeys(str(row.result["note"]) for row in rows if row.result and row.result.get("note"))
        done, total = sum(row.done for row in rows), sum(row.total for row in rows)
        found[step] = StepProgress(done, total, (unfinished or rows)[0].message, "; ".join(notes))
    return found


def _line(task_id: str, instances: list[TaskInstance], step: StepProgress | None, now: datetime) -> TaskLine:
    starts = [item.start_date for item in instances if item.start_date]
    ends = [item.end_date for item in instances if item.end_date]
    end = max(ends) if len(ends) == len(instances) else now
    elapsed_s = (end - min(starts)).total_seconds() if starts else 0.0
    attempt = max(instance.try_number for instance in instances)
    states = [instance.state for instance in instances]
    state = next((state for state in PRECEDENCE if state in states), states[0])
    if state is None:
        state = "running" if any(states) else "waiting"
    return TaskLine(task_id, state, len(ends), len(instances), elapsed_s, attempt, step)
