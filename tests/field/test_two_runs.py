"""Two runs at once: one goes on, the other is refused with a sentence or waits; a killed one leaves nothing behind."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.core.errors import RetryableError, StepError, StoreError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import Connection, connect, scalar
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.run_lock import one_step, whole_run
from heal_tasks.store.runs.runs import RunRepository
from tests.cli.in_process import run_main
from tests.steps.planted_store import build, fill
from tests.steps.planted_store import publish as published

ROOT = Path(__file__).parents[2]
HELD = "SELECT count(*) FROM pg_locks WHERE relation = 'heal.run_lock'::regclass AND granted"


@contextmanager
def shell(settings: Settings, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command of ``python -m heal_tasks`` in a process of its own."""
    environment = child_environment(
        HEAL_VAR_DIR=str(settings.var_dir), HEAL_DATABASE_URL=settings.require_database_url(), **variables
    )
    command = [sys.executable, "-m", "heal_tasks", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def here(settings: Settings, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command in this process; its status, and what it wrote to standard error."""
    places = {"HEAL_VAR_DIR": str(settings.var_dir), "HEAL_DATABASE_URL": settings.require_database_url()}
    status, _, errors = run_main(*arguments, **places, **variables)
    return status, errors


def wait_until(conn: Connection, query: LiteralString, wanted: object, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while scalar(conn, query) != wanted:
        assert time.monotonic() < deadline, f"{query} is not {wanted}"
        time.sleep(0.05)


@pytest.fixture
def inbox(settings: Settings) -> Path:
    folder = settings.var_dir / "inbox"
    folder.mkdir(parents=True)
    (folder / "one.txt").write_text("Basalt is a rock that comes from volcanoes.")
    return folder


@pytest.mark.usefixtures("inbox")
def test_the_second_run_of_the_command_line_is_refused_and_names_the_first(
    auto: Connection, settings: Settings
) -> None:
    route = {"HEAL_FORCE_ROUTE": "nothing"}
    with connect(settings.require_database_url()) as blocker:
        blocker.execute("LOCK TABLE heal.document IN ACCESS EXCLUSIVE MODE")
        with shell(settings, "run", "--run-id", "first", **route) as first:
            wait_until(auto, "SELECT count(*) FROM heal.step_result WHERE run_id = 'first'", 1)
            for command in ("run", "run --run-id first"):
                status, errors = here(settings, *command.split(), **route)
                assert status == 1
                assert "error: run 'first' (step ingest since 20" in errors, errors
                assert "is under way" in errors
                assert "Traceback" not in errors
            blocker.rollback()
            _, errors = first.communicate(timeout=60)
            assert first.returncode == 0, errors
    assert [run.run_id for run in RunRepository(auto).recent_runs()] == ["first"]


@pytest.mark.usefixtures("inbox")
def test_a_killed_run_does_not_block_the_next(auto: Connection, settings: Settings) -> None:
    with connect(settings.require_database_url()) as blocker:
        blocker.execute("LOCK TABLE heal.document IN ACCESS EXCLUSIVE MODE")
        with shell(settings, "run", "--run-id", "killed") as killed:
            wait_until(auto, HELD, 1)
            killed.send_signal(signal.SIGKILL)
            killed.wait(timeout=30)
        wait_until(auto, HELD, 0)
    status, errors = here(settings, "run", HEAL_FORCE_ROUTE="nothing")
    assert status == 0, errors


def test_a_step_waits_for_a_run_and_says_for_which(settings: Settings) -> None:
    url, told, ended = settings.require_database_url(), list[str](), threading.Event()

    def step() -> None:
        with one_step(url, "night", told.append):
            assert ended.is_set(), "the step began beside the run"

    with whole_run(url, "by hand"):
        waiting = threading.Thread(target=step)
        waiting.start()
        deadline = time.monotonic() + 30
        while not told and time.monotonic() < deadline:
            time.sleep(0.05)
        assert told == ["waiting until run 'by hand' has ended"]
        ended.set()
    waiting.join(timeout=30)
    assert not waiting.is_alive()


def test_a_step_does_not_wait_for_ever(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heal_tasks.store.runs.run_lock.LONGEST_WAIT_S", 0.0)
    url = settings.require_database_url()
    late = pytest.raises(RetryableError, match="run 'stuck' has not ended in 0 hours")
    with whole_run(url, "stuck"), late, one_step(url, "night", print):
        pass


def test_steps_run_beside_each_other_and_keep_runs_out(settings: Settings) -> None:
    url = settings.require_database_url()
    with one_step(url, "night", print), one_step(url, "night", print):
        refused = pytest.raises(StoreError, match="run 'night' is under way, so run 'by hand' was not started")
        with refused, whole_run(url, "by hand"):
            pass
    with whole_run(url, "by hand") as check:
        check()


def test_the_lock_keeps_no_vacuum_back_and_outlives_the_servers_timeouts(auto: Connection, settings: Settings) -> None:
    ((name,),) = auto.execute("SELECT current_database()").fetchall()
    auto.execute(f'ALTER DATABASE "{name}" SET idle_in_transaction_session_timeout = 200'.encode())
    with whole_run(settings.require_database_url(), "long") as check:
        found = auto.execute(
            "SELECT state, backend_xmin, backend_xid FROM pg_stat_activity WHERE application_name = 'heal: long'"
        ).fetchall()
        assert found == [("idle in transaction", None, None)]
        auto.execute("VACUUM")  # would wait for a table that is locked
        time.sleep(0.5)
        check()


def test_a_run_that_has_lost_its_lock_ends(auto: Connection, settings: Settings) -> None:
    with (
        pytest.raises(RetryableError, match="--run-id long"),
        whole_run(settings.require_database_url(), "long") as check,
    ):
        auto.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'heal: long'")
        time.sleep(0.2)
        check()


def test_a_reader_cannot_take_the_lock(auto: Connection) -> None:
    auto.execute("SET ROLE heal_reader")
    for mode in ("ACCESS SHARE", "SHARE", "EXCLUSIVE"):
        with pytest.raises(Exception, match="permission denied"), auto.transaction():
            auto.execute(f"LOCK TABLE heal.run_lock IN {mode} MODE".encode())


def test_a_database_without_the_lock_names_the_cure(auto: Connection, settings: Settings) -> None:
    auto.execute("DROP VIEW heal.run_lock CASCADE")
    with (
        pytest.raises(StoreError, match="python -m heal_tasks migrate"),
        whole_run(settings.require_database_url(), "r"),
    ):
        pass


def test_shared_work_is_done_once(settings: Settings) -> None:
    """Two processes that train on the same set shared its checkpoints, and the later one found them gone."""
    began, go_on, bodies = threading.Event(), threading.Event(), list[str]()

    def body(context: Context) -> Outcome:
        bodies.append(context.run_id)
        began.set()
        assert go_on.wait(30)
        return Outcome(note="done")

    step, made = Step("shared", body, lambda context: "the same inputs"), dict[str, Manifest]()

    def run(run_id: str) -> None:
        made[run_id] = step.run(settings, Manifest(run_id=run_id))

    first, second = (threading.Thread(target=run, args=(name,)) for name in ("one", "two"))
    first.start()
    assert began.wait(30)
    second.start()
    time.sleep(0.5)
    go_on.set()
    for thread in (first, second):
        thread.join(30)
    assert bodies == ["one"]
    assert made["two"].note == "done (unchanged, reused from run one)"


def test_a_generation_is_not_published_over_one_that_it_was_not_compared_with(
    auto: Connection, settings: Settings
) -> None:
    """A rollback by hand, or another run, after ``choose``: the kept rows would be of another space."""
    fill(auto)
    first, second = published(auto, "one", 1), published(auto, "two", 2)
    made, generations = build(auto, "two", 3), GenerationRepository(auto)
    refs: dict[str, int | str] = {
        "generation_id": made.generation_id, "keep_rows": 1, "verdict": "kept", "live_id": second.generation_id,
    }  # fmt: skip
    load_step("activate").run(settings, Manifest(run_id="by hand", refs={"generation_id": 0}))
    ended = load_step("publish").run(settings, Manifest(run_id="r", refs=refs))
    assert ended.refs["generation_id"] == first.generation_id
    assert ended.refs["verdict"] == (
        "Not published: generation 1 went live after generation 3 had been compared with generation 2; the next "
        "realignment compares again."
    )
    assert generations.get(made.generation_id).state == "failed"


def test_a_switch_waits_for_no_run(auto: Connection, settings: Settings) -> None:
    fill(auto)
    published(auto, "one", 1)
    published(auto, "two", 2)
    with whole_run(settings.require_database_url(), "long"):
        done = load_step("activate").run(settings, Manifest(run_id="by hand", refs={"generation_id": 0}))
    assert done.note == "generation 1 is active"


def test_a_nudge_of_a_generation_without_topics_is_a_sentence(auto: Connection, settings: Settings) -> None:
    """As after a rollback to the first generation, while a run nudges."""
    fill(auto)
    published(auto, "one", 1)
    with pytest.raises(StepError, match="generation 1, which is live now, has no topics, so it cannot be nudged"):
        load_step("assign_labels").run(settings, Manifest(run_id="night"))
