"""The runner of steps: errors of the database."""

from pathlib import Path

import psycopg
import pytest

from heal_tasks.core.errors import RetryableError, StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository


def run(database_url: str, var_dir: Path, query: str) -> None:
    def body(context: Context) -> Outcome:
        context.conn.execute(query.encode())
        return Outcome()

    settings = load_settings(database_url=database_url, var_dir=var_dir)
    Step("probe", body, None).run(settings, Manifest(run_id="r"))


def test_a_killed_connection_is_retryable(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="step probe: lost the database"):
        run(database_url, tmp_path, "SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_mistake_is_not_retryable(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        run(database_url, tmp_path, "SELECT * FROM nothing")


def step(name: str, said: list[str] | None = None, **options: bool) -> Step:
    """A step whose result is the same for every run."""

    def body(context: Context) -> Outcome:
        if said is not None:
            said.append(context.run_id)
        return Outcome(refs={f"{name}_id": 1}, note=f"{name} of {context.run_id}")

    return Step(name, body, lambda context: "equal", **options)


def test_a_result_that_is_taken_over_is_a_step_of_both_runs(auto: Connection, settings: Settings) -> None:
    runs, label = RunRepository(auto), step("label")
    for run_id in ("first", "second", "second", "third"):
        made = label.run(settings, Manifest(run_id=run_id))
    assert made.refs == {"label_id": 1}
    reused = "label of first (unchanged, reused from run first)"
    notes = {name: [(row.result or {})["note"] for row in runs.steps_of(name)] for name in ("first", "second", "third")}
    assert notes == {"first": ["label of first"], "second": [reused], "third": [reused]}


def test_inputs_of_a_run_are_not_those_of_another(auto: Connection, settings: Settings) -> None:
    said = list[str]()
    ask = step("ask", said, of_run=True)
    for run_id in ("first", "first", "second"):
        ask.run(settings, Manifest(run_id=run_id))
    assert said == ["first", "second"]


def test_a_step_that_repeats_is_done_again(settings: Settings, auto: Connection) -> None:
    said = list[str]()
    for _ in range(2):
        step("report", said, repeats=True).run(settings, Manifest(run_id="r"))
    assert said == ["r", "r"]
    assert len(RunRepository(auto).steps_of("r")) == 1


@pytest.mark.parametrize("later", ["publish", "nudge_live"])
def test_a_run_whose_topics_are_older_than_what_is_served_does_not_go_on(
    auto: Connection, settings: Settings, later: str
) -> None:
    """As a task of an old run that somebody clears: its topics would replace newer ones."""
    said = list[str]()
    refused = rf"step choose of run 'old' was not done: run 'new' has changed what is served \({later}, 20.*new run"
    step("ingest").run(settings, Manifest(run_id="old"))
    step("label").run(settings, Manifest(run_id="old"))
    step("choose", said).run(settings, Manifest(run_id="old"))
    before = RunRepository(auto).steps_of("old")
    Step(later, lambda context: Outcome(), None).run(settings, Manifest(run_id="new"))
    with pytest.raises(StepError, match=refused):
        step("choose", said).run(settings, Manifest(run_id="old"))
    assert RunRepository(auto).steps_of("old") == before, "what the old run has done stays recorded"
    step("report", said, repeats=True).run(settings, Manifest(run_id="old"))
    Step("label", lambda context: Outcome(), lambda context: "new documents").run(settings, Manifest(run_id="other"))
    step("choose", said, of_run=True).run(settings, Manifest(run_id="other"))
    assert said == ["old", "old", "other"]
