"""A real stack: Postgres and Airflow's four components, a run, a component that dies, up and down again."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from heal_tasks.cli.watch import watch
from heal_tasks.core.errors import AirflowError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local import components, stack
from heal_tasks.local.components import COMPONENTS, read_state
from heal_tasks.store.db import connect

TINY = Path(__file__).parents[1] / "dags" / "tiny"


@pytest.fixture
def settings() -> Iterator[Settings]:
    # Not below pytest's own folder: its mode 700 would keep out the account that serves root in containers.
    folder = Path(tempfile.mkdtemp(prefix="heal stack "))
    folder.chmod(0o711)
    settings = load_settings(var_dir=folder, airflow_port=0, airflow_parallelism=2)
    try:
        yield settings
    finally:
        stack.down(settings)
        shutil.rmtree(folder, ignore_errors=True)


def sessions(pids: set[int]) -> list[str]:
    """Live processes in the sessions of those that were started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) in pids and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
    return found


def recorded_pids(settings: Settings) -> set[int]:
    return {recorded.pid for recorded in read_state(settings.var_dir).components.values()}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 180  # a busy machine takes a minute to start a task
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def running(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> stack.Running:
    """A stack that was started a moment ago."""
    # What `up` writes must be enough for the command line.
    monkeypatch.delenv("HEAL_DATABASE_URL", raising=False)
    # A new scheduler takes up what an old one left when it holds that for dead: after 30 s by default, here sooner.
    monkeypatch.setenv("AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD", "15")
    return stack.up(settings, dags=TINY)


def begun(running: stack.Running) -> str:
    """A run, one of whose tasks has begun to sleep; they have no retries."""
    client = running.client
    client.wait_for_dag("tiny", 60)
    client.unpause("tiny")
    client.wait_for_schedule("tiny", timeout_s=30)
    run_id = client.trigger("tiny", {"seconds": 6})
    wait_until(
        lambda: any(task.state == "running" for task in client.task_instances("tiny", run_id)), "no task has started"
    )
    return run_id


def assert_ends_well(running: stack.Running, run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert watch(running.client, "tiny", run_id, running.database_url) == "success"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "success" in line] == ["shard", "report"]


def assert_down(settings: Settings, pids: set[int]) -> None:
    """Nothing runs, and nothing is started by who only brings back what has died."""
    assert sessions(pids) == []
    found = stack.status(settings)
    assert not found.postgres
    assert set(found.components.values()) == {"down"}
    with pytest.raises(AirflowError, match="stopped meanwhile"):
        stack.up(settings, dags=TINY, only_revive=True)
    assert not stack.status(settings).postgres


def test_up_kill_up_down(
    running: stack.Running,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(read_state(settings.var_dir).components) == set(COMPONENTS)
    assert stack.status(settings).healthy
    read_back = load_settings(var_dir=settings.var_dir, airflow_port=0, airflow_parallelism=2)
    assert read_back.require_database_url() == running.database_url
    with connect(running.database_url, autocommit=True) as conn:
        assert conn.execute("SELECT count(*) FROM heal.run").fetchone() == (0,)

    # Dead components are brought back, the others are left alone. The embedded server's URL, read back from local.env,
    # is not taken for a server of the user's own. A run that is interrupted ends well afterwards.
    run_id, pids = begun(running), recorded_pids(settings)
    state = read_state(settings.var_dir)
    psutil.Process(state.components["dag-processor"].pid).kill()
    monkeypatch.setattr("heal_tasks.local.components.STOP_TIMEOUT_S", 1.0)
    components.end(settings.var_dir, state, ["scheduler"])
    wait_until(lambda: stack.status(settings).components["dag-processor"] == "down", "a killed process counts as alive")
    again = stack.up(read_back, dags=TINY, only_revive=True)
    assert (again.embedded, again.database_url) == (True, running.database_url)
    assert len(pids & recorded_pids(settings)) == 2
    pids |= recorded_pids(settings)
    assert_ends_well(again, run_id, capsys)
    stack.down(settings)
    assert_down(settings, pids)


@pytest.mark.usefixtures("soaking")
def test_a_run_that_down_interrupts_ends_well_after_up(
    running: stack.Running,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id, pids = begun(running), recorded_pids(settings)
    monkeypatch.setattr("heal_tasks.local.components.STOP_TIMEOUT_S", 1.0)
    stack.down(settings)
    assert_down(settings, pids)
    back = stack.up(settings, dags=TINY)
    pids |= recorded_pids(settings)
    assert (back.client.base_url, back.password) == (running.client.base_url, running.password)
    assert_ends_well(back, run_id, capsys)
    stack.down(settings)
    assert sessions(pids) == []
