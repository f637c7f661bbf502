"""Settings of a task: a field of the trigger form overrides a setting only if it differs from the form's default."""

import logging
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.specs import check_spec, split_specs
from heal_tasks.report.events import what_failed
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.planted_store import fill
from tests.steps.planted_store import publish as published


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("realign", ("file:/set",), 7, True)),
        ({"sources": None}, ("realign", ("file:/set",), 7, True)),
        (
            {"force_route": "nudge", "sources": "file:/set/a", "sample_documents": 3},
            ("nudge", ("file:/set/a",), 3, True),
        ),
    ],
)
def test_a_field_left_at_its_default_leaves_the_setting(
    given: dict[str, Any], expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import heal_airflow

    used: list[Settings] = []

    def run(settings: Settings, manifest: Manifest, shard: int, shards: int) -> Manifest:
        used.append(settings)
        return manifest

    for name, value in {
        "FORCE_ROUTE": "realign", "SOURCES": "file:/set", "SAMPLE_DOCUMENTS": "7", "DRY_RUN": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"HEAL_{name}", value)
    form = {name: param.value for name, param in heal_airflow.PARAMS.items()} | given
    dag, run_of_dag = SimpleNamespace(dag_id="heal_realign", params=form), SimpleNamespace(conf=given)
    context = {"params": form, "run_id": "night", "dag": dag, "dag_run": run_of_dag}
    monkeypatch.setattr(heal_airflow, "get_current_context", lambda: context)
    monkeypatch.setattr("heal_tasks.steps.engine.road.load_step", lambda name: SimpleNamespace(run=run))
    heal_airflow.run_step("ingest")
    (found,) = used
    assert (found.force_route, found.sources, found.sample_documents, found.dry_run) == expected


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("spec", ["file:/etc", "file:/set/../etc", "file:/settle", "s3://bucket"])
def test_the_form_names_no_source_outside_the_roots(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import heal_airflow

    monkeypatch.setenv("HEAL_SOURCES", "file:/set")
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://heal@127.0.0.1:1/heal")  # not that of a stack in this folder
    form = {name: param.value for name, param in heal_airflow.PARAMS.items()} | {"sources": spec}
    run, dag = SimpleNamespace(conf=None), SimpleNamespace(dag_id="heal_realign", params=form)
    context = {"params": form, "run_id": "night", "dag_run": run, "dag": dag}
    monkeypatch.setattr(heal_airflow, "get_current_context", lambda: context)
    with pytest.raises(SettingsError, match=f"source '{spec}' lies in none of HEAL_SOURCE_ROOTS \\(file:/set "):
        heal_airflow.run_step("ingest")


@pytest.mark.parametrize(
    ("conf", "fields", "params", "words"),
    [
        ({"generation": 1}, {}, {"generation": 1}, "has 'generation', which d does not know; it has no fields"),
        (
            {"x": 1},
            {"dry_run": False},
            {"dry_run": False, "x": 1},
            "has 'x', which d does not know; its fields are dry_run",
        ),
        ({"dry_run": True}, {"dry_run": False}, {"dry_run": False}, "'dry_run' would be ignored, because .* is off"),
        ({"dry_run": True}, {"dry_run": False}, {"dry_run": True}, ""),
        (None, {"dry_run": False}, {"dry_run": False}, ""),
    ],
)
def test_fields_that_would_be_ignored_are_refused(
    conf: dict[str, Any] | None, fields: dict[str, Any], params: dict[str, Any], words: str
) -> None:
    import heal_airflow
    from airflow.sdk.exceptions import AirflowFailException

    dag = SimpleNamespace(dag_id="d", params=fields)
    context: Any = {"params": params, "dag": dag, "dag_run": SimpleNamespace(conf=conf)}
    with pytest.raises(AirflowFailException, match=words) if words else nullcontext():
        heal_airflow.check_conf(context)


@pytest.mark.usefixtures("plugins")
def test_manifests_of_mapped_tasks_join() -> None:
    import heal_airflow

    shards = [{"run_id": "r", "refs": {"mined": 1, ref: "uri"}, "note": ref} for ref in ("a_model_uri", "b_model_uri")]
    assert heal_airflow.join(iter(shards)) == {
        "run_id": "r", "refs": {"mined": 1, "a_model_uri": "uri", "b_model_uri": "uri"}, "note": "b_model_uri",
    }  # fmt: skip


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("text", ["docs", "/data", " C:\\data", "http://host/a", "fil:/a", "'file:/a'", "ftp://host/a"])
def test_the_form_refuses_what_is_no_source(text: str) -> None:
    import heal_airflow
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError, match=r"does not match .*file:.s3://.pydocs:"):
        heal_airflow.PARAMS["sources"].resolve(text)


@pytest.mark.usefixtures("plugins")
@drawn(
    st.text(alphabet='file:s3/pydocaureD "\t\n\u00e9.', max_size=30).map(
        lambda text: text + " file:/a" * (len(text) % 2)
    )
)
def test_the_form_takes_whatever_a_run_takes(text: str) -> None:
    import heal_airflow

    try:
        for spec in split_specs(text):
            check_spec(spec)
    except ValueError:
        return
    assert heal_airflow.PARAMS["sources"].resolve(text) == text


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    "text",
    [" ", "source:crm", 'file:"/my folder"/a', '"file:/my folder" s3://b', 'f"ile:/"a', '""file:/a', "\npydocs:a"],
)
def test_the_form_takes_quotes_wherever_a_run_does(text: str) -> None:
    import heal_airflow

    for spec in split_specs(text):
        check_spec(spec)
    assert heal_airflow.PARAMS["sources"].resolve(text) == text


@pytest.mark.usefixtures("plugins")
def test_only_what_changed_is_announced(auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import heal_airflow

    fill(auto)
    live = published(auto, "a-model", 1)
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    task, events = SimpleNamespace(outlets=[heal_airflow.active_asset()]), defaultdict(SimpleNamespace)
    monkeypatch.setattr(heal_airflow, "get_current_context", lambda: {"task": task, "outlet_events": events})
    manifest = {
        "refs": {"went_live": live.generation_id, "verdict": "m is promoted over live.\nm: better"}, "note": "",
        "counts": {"rows": 61},
    }  # fmt: skip
    assert heal_airflow.announce(manifest) == manifest
    assert events[heal_airflow.active_asset()].extra == {
        "generation": live.generation_id, "verdict": "m is promoted over live.", "model": "a-model",
        "counts": {"rows": 61},
    }  # fmt: skip
    assert task.outlets == [heal_airflow.active_asset()]
    for unchanged in ({"went_live": 0}, {}):
        task.outlets = [heal_airflow.active_asset()]
        heal_airflow.announce({"refs": unchanged, "note": "", "counts": {}})
        assert task.outlets == []


def task_of(monkeypatch: pytest.MonkeyPatch, conf: dict[str, Any]) -> Any:
    """The glue inside a task of the run ``night``, triggered with a configuration."""
    import heal_airflow

    form = {name: param.value for name, param in heal_airflow.PARAMS.items()}
    dag, run = SimpleNamespace(dag_id="heal_realign", params=form), SimpleNamespace(conf=conf)
    context = {"params": form | conf, "run_id": "night", "dag": dag, "dag_run": run}
    monkeypatch.setattr(heal_airflow, "get_current_context", lambda: context)
    return heal_airflow


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("conf", "steps", "words"),
    [
        ({}, "few", "settings are wrong: HEAL_TRAIN_MAX_STEPS='few'"),
        ({"dryrun": True}, "", "has 'dryrun', which heal_realign does not know; did you mean 'dry_run'?"),
    ],
)
def test_a_run_that_fails_before_its_first_step_has_a_row_and_a_page(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, conf: dict[str, Any], steps: str, words: str
) -> None:
    (settings.var_dir / "inbox").mkdir()
    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("HEAL_TRAIN_MAX_STEPS", steps)
    glue, runs = task_of(monkeypatch, conf), RunRepository(auto)
    with pytest.raises(Exception, match=words.partition("=")[0]):
        glue.run_step("ingest")
    uri = glue.run_step("report")["refs"]["report_uri"]
    (run,) = runs.recent_runs()
    assert (run.run_id, run.report_uri) == ("night", uri)
    assert run.finished_at is not None
    assert str(run.verdict).startswith("Not finished: ingest: failed: ")
    assert words in str(run.verdict)
    assert "Not finished: ingest: failed: " in (Path(uri) / "report.html").read_text()
    monkeypatch.setenv("HEAL_TRAIN_MAX_STEPS", "")
    glue = task_of(monkeypatch, {})
    glue.run_step("ingest")
    monkeypatch.setenv("HEAL_TRAIN_MAX_STEPS", "few")
    with pytest.raises(SettingsError):  # a cleared task keeps what it has done
        glue.run_step("ingest")
    (ingest,) = (row for row in runs.steps_of("night") if row.step == "ingest")
    assert (ingest.message, ingest.finished_at is None) == ("", False)


@pytest.mark.usefixtures("plugins")
def test_a_switch_that_fails_before_its_step_tells_the_alert_why_and_is_no_run(
    auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", database_url)
    with pytest.raises(Exception, match="has 'generatoin'"):
        task_of(monkeypatch, {"generatoin": 1}).run_step("activate")
    assert what_failed(auto, "night").startswith("activate: failed: the run's configuration has 'generatoin'")
    assert RunRepository(auto).recent_runs() == []


@pytest.mark.usefixtures("plugins")
def test_without_a_database_the_log_says_that_the_run_has_no_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://heal@127.0.0.1:1/heal")
    monkeypatch.setenv("HEAL_TRAIN_MAX_STEPS", "few")
    with caplog.at_level(logging.WARNING), pytest.raises(SettingsError, match="HEAL_TRAIN_MAX_STEPS='few'"):
        task_of(monkeypatch, {}).run_step("ingest")
    assert "heal.run has no row of run 'night', because the database cannot be reached" in caplog.text


@pytest.mark.usefixtures("plugins")
def test_a_task_after_one_that_has_no_result_says_so(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failed task that somebody marked as success."""
    from airflow.sdk.exceptions import AirflowFailException

    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    glue = task_of(monkeypatch, {})
    words = "has no result of the task before it to go on with: that task was marked as success or skipped"
    for step in ("route", "label", "ask", "train", "publish", "nudge_live"):
        with pytest.raises(AirflowFailException, match=f"step {step} {words}"):
            glue.run_step(step, None)
    for missing in ([], [None], iter([None, None])):
        with pytest.raises(AirflowFailException, match=f"this task {words}"):
            glue.join(missing)
    with pytest.raises(AirflowFailException, match=f"this task {words}"):
        glue.route_of(None)
    assert glue.join([None, {"refs": {"a": 1}}]) == {"refs": {"a": 1}}
    assert glue.route_of({"refs": {"route": "nudge"}}) == "nudge"
    (row, *_) = RunRepository(auto).steps_of("night")
    assert row.message.startswith("failed: step route has no result of the task before it")
