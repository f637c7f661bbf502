"""The display of a run: plain lines, the table, the order of tasks, progress from heal.step_result."""

import ast
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from heal_tasks.cli.base import console
from heal_tasks.cli.progress import Snapshot, StepProgress, TaskLine, observe, read_steps, step_name, task_order
from heal_tasks.cli.watch import PLAIN_PROGRESS_EVERY_S, PlainDisplay, render, watch
from heal_tasks.core.errors import AirflowUnreachableError, RetryableError
from heal_tasks.local.airflow_client import TaskInstance
from heal_tasks.steps.engine.road import ROUTES, STEPS
from heal_tasks.store.db import Connection, connect

ROOT = Path(__file__).parents[2]


class FakeClient:
    """The part of AirflowClient that watch calls; it returns the run's states one by one."""

    base_url = "http://127.0.0.1:1"

    def __init__(self, *states: str | Exception, instances: list[TaskInstance] | None = None) -> None:
        self.states = list(states)
        self.instances = instances or []

    def downstream(self, dag_id: str) -> dict[str, list[str]]:
        return {"ingest": ["ask"], "ask": []}

    def run_state(self, dag_id: str, run_id: str) -> str:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, BaseException):
            raise state
        return state

    def active_runs(self, dag_id: str) -> list[str]:
        return ["r", "other"]

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        return self.instances


@pytest.fixture(scope="module")
def shared(module_database_url: str) -> Iterator[Connection]:
    """A connection for tests that find nothing in the database and leave nothing there."""
    with connect(module_database_url, autocommit=True) as conn:
        yield conn


def instance(task: str, state: str | None, index: int = -1, start: float = 0, end: float | None = None) -> TaskInstance:
    now = datetime.now(UTC)
    started = now - timedelta(seconds=start) if start else None
    ended = now - timedelta(seconds=end) if end is not None else None
    return TaskInstance(task_id=task, map_index=index, state=state, start_date=started, end_date=ended, try_number=1)


def line(task: str, state: str, **values: object) -> TaskLine:
    return replace(TaskLine(task, state, 0, 1, 0.0, 1, None), **values)  # type: ignore[arg-type]


def snapshot(*lines: TaskLine, state: str = "running", behind: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot("r", state, behind, lines)


def record(conn: Connection, step: str, shard: int, done: int, total: int, note: str | None = None) -> None:
    conn.execute(
        """INSERT INTO heal.step_result (step, fingerprint, shard, run_id, done, total, message, result, finished_at)
           VALUES (%s, 'f', %s, 'r', %s, %s, '3/s', jsonb_build_object('note', %s::text),
                   CASE WHEN %s::text IS NULL THEN NULL ELSE now() END)""",
        (step, shard, done, total, note, note),
    )


def test_order_follows_the_road_and_keeps_groups_together() -> None:
    downstream = {
        "report": [], "nudge.ask": ["nudge.embed_new"], "nudge.embed_new": ["report"], "realign.train": ["report"],
        "follow": ["realign.label", "nudge.ask", "nothing"], "realign.label": ["realign.ask"], "nothing": ["report"],
        "realign.ask": ["realign.train"], "ingest": ["follow"],
    }  # fmt: skip
    order = task_order(downstream)
    assert order[:2] == ["ingest", "follow"]
    assert order[-1] == "report"
    realign = order.index("realign.label")
    assert order[realign : realign + 3] == ["realign.label", "realign.ask", "realign.train"]
    nudge = order.index("nudge.ask")
    assert order[nudge : nudge + 2] == ["nudge.ask", "nudge.embed_new"]


def test_every_task_of_the_dag_has_the_name_of_its_step() -> None:
    tree = ast.parse((ROOT / "dags" / "heal_realign.py").read_text())
    tasks = {"ingest"}  # of the DAG: decorated functions, and operators with a task id
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            re.match(r"task\b(?!_group|\.)", ast.unparse(item)) for item in node.decorator_list
        ):
            tasks.add(node.name)
        if isinstance(node, ast.keyword) and node.arg == "task_id":
            tasks.add(ast.literal_eval(node.value))
    assert {step_name(f"group.{task}") for task in tasks} == tasks
    assert tasks - {"nothing", "approve"} == {"ingest", "route", "report", *ROUTES["nudge"], *ROUTES["realign"]}
    assert tasks - {"nothing", "approve"} <= STEPS.keys()


def test_progress_is_summed_over_shards(auto: Connection) -> None:
    record(auto, "ask", 0, 10, 40)
    record(auto, "ask", 1, 5, 40)
    record(auto, "ingest", 0, 9, 9, note="9 new")
    assert read_steps(auto, "r") == {
        "ask": StepProgress(15, 80, "3/s", ""),
        "ingest": StepProgress(9, 9, "3/s", "9 new"),
    }
    assert read_steps(auto, "another run") == {}


def test_progress_of_outdated_inputs_is_left_out(auto: Connection) -> None:
    record(auto, "train", 0, 20, 60)
    auto.execute("UPDATE heal.step_result SET fingerprint = 'old', started_at = now() - interval '1 minute'")
    record(auto, "train", 0, 1, 4)
    assert read_steps(auto, "r") == {"train": StepProgress(1, 4, "3/s", "")}


def test_observe_joins_mapped_instances(auto: Connection) -> None:
    record(auto, "ask", 0, 10, 40)
    instances = [
        instance("ask", "success", 0, start=50, end=10), instance("ask", "running", 1, start=30),
        instance("ingest", "success", start=60, end=55),
    ]  # fmt: skip
    client = FakeClient("running", instances=instances)
    seen = observe(client, auto, "d", "r", ["ingest", "ask", "unknown"])  # type: ignore[arg-type]
    ingest, ask = seen.tasks
    assert (ingest.state, ingest.elapsed_s, ingest.step) == ("success", pytest.approx(5, abs=0.1), None)
    assert (ask.state, ask.ended, ask.instances) == ("running", 1, 2)
    assert 50 <= ask.elapsed_s < 60
    assert ask.step == StepProgress(10, 40, "3/s", "")


@pytest.mark.parametrize(
    ("states", "joint"),
    [
        (["success", "failed"], "failed"), (["success", None], "running"), ([None, None], "waiting"),
        (["skipped", "skipped"], "skipped"), (["success", "success"], "success"), (["success", "queued"], "queued"),
        (["up_for_retry", "running"], "running"),
    ],
)  # fmt: skip
def test_joint_state(shared: Connection, states: list[str | None], joint: str) -> None:
    client = FakeClient("running", instances=[instance("ask", state, index) for index, state in enumerate(states)])
    assert observe(client, shared, "d", "r", ["ask"]).tasks[0].state == joint  # type: ignore[arg-type]


def test_plain_lines_show_each_change_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 40)
    display = PlainDisplay(lambda: 0.0)
    display.show(snapshot(line("ingest", "waiting"), state="queued", behind=("other",)))
    display.show(snapshot(line("ingest", "queued"), state="queued", behind=("other",)))
    for _ in range(3):
        display.show(snapshot(line("ingest", "running", step=StepProgress(3, 9, "1/s", ""))))
    done = line("ingest", "success", elapsed_s=75.0, step=StepProgress(9, 9, "", "9 new, a note longer than the line"))
    display.show(snapshot(done))
    assert capsys.readouterr().out.splitlines() == [
        "queued behind other",
        "ingest                 running: 3/9 1/s",
        "ingest                 success after 1m15s: 9 new, a note longer than the line",
    ]


def test_plain_progress_comes_every_15_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    display = PlainDisplay(lambda: clock[0])
    for second in range(0, 61):
        clock[0] = float(second)
        display.show(snapshot(line("ask", "running", instances=2, ended=1, step=StepProgress(second, 60, "", ""))))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ask                    running 1/2: 0/60"
    assert lines[1:] == [f"ask                    running 1/2: {n}/60" for n in (15, 30, 45, 60)]
    assert PLAIN_PROGRESS_EVERY_S == 15


def test_plain_progress_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    display = PlainDisplay(lambda: clock[0])
    for second in range(0, 61):
        clock[0] = float(second)
        display.show(snapshot(line("train", "running", step=StepProgress(2, 60, "evaluating", ""))))
    assert capsys.readouterr().out.splitlines() == ["train                  running: 2/60 evaluating"]


def test_table_hides_the_route_that_was_not_taken_and_escapes_markup() -> None:
    recorder = Console(file=io.StringIO(), width=120, record=True)
    failed = line("ingest", "failed", step=StepProgress(0, 0, "failed: [bold]bad[/] input", ""))
    recorder.print(render(snapshot(failed, line("nudge.ask", "skipped"), line("nudge.nudge_live", "skipped"))))
    text = recorder.export_text()
    assert "failed: [bold]bad[/] input" in text
    assert text.count("nudge.*") == 1
    assert "nudge.ask" not in text


def test_watch_returns_the_final_state(module_database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient("queued", "running", "failed", instances=[instance("ingest", "failed", start=9, end=4)])
    assert watch(client, "d", "r", module_database_url, poll_s=0.01) == "failed"  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == ["queued behind other", "ingest                 failed after 5.0s"]


def test_watch_survives_a_restart_of_the_api_server(module_database_url: str) -> None:
    client = FakeClient("running", AirflowUnreachableError("gone"), AirflowUnreachableError("gone"), "success")
    assert watch(client, "d", "r", module_database_url, poll_s=0.01) == "success"  # type: ignore[arg-type]


def test_watch_does_not_wait_for_ever(module_database_url: str) -> None:
    client = FakeClient("running", AirflowUnreachableError("gone"))
    with pytest.raises(RetryableError, match="gone"):
        watch(client, "d", "r", module_database_url, poll_s=0.01, patience_s=0.1)  # type: ignore[arg-type]


def test_watch_checks_the_components_between_snapshots(module_database_url: str) -> None:
    checks: list[int] = []
    client = FakeClient("running", "running", "success")
    watch(client, "d", "r", module_database_url, lambda: checks.append(1), poll_s=0.01)  # type: ignore[arg-type]
    assert len(checks) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_leaves_the_run_and_prints_how_to_watch_it_again(
    module_database_url: str, terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.cli.watch.console", Console(width=200, force_terminal=terminal))
    client = FakeClient("running", KeyboardInterrupt())  # type: ignore[arg-type]
    assert watch(client, "d", "r", module_database_url) == "running"  # type: ignore[arg-type]
    assert "The run r goes on. `python -m heal_tasks watch` shows it again" in capsys.readouterr().out
