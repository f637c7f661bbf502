"""A server whose clock jumps by a day, in either direction: no run loses what it needs or is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.environment import child_environment
from heal_tasks.core.log import format_duration
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.report.events import staleness
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.clock import mend_times
from heal_tasks.store.runs.run_lock import one_step
from heal_tasks.store.runs.runs import RunRepository
from tests.e2e.scarcity import jump, row
from tests.steps.planted_store import build, fill, publish
from tests.steps.test_maintain import finish_step, maintain, write

TOPIC_RUN = b"""INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual)
VALUES ('f', 'u', 1, 1, 1, 1, 0)"""


@pytest.mark.parametrize("hours", [25, -25])
@pytest.mark.parametrize("working", [True, False])
def test_nothing_of_a_living_run_is_deleted(
    hours: float, working: bool, auto: Connection, settings: Settings, table: Callable[[str], None]
) -> None:
    """It works at a step, or stands still between two, as a run of Airflow's does."""
    artifacts, generations, runs = artifact_store(settings), GenerationRepository(auto), RunRepository(auto)
    fill(auto, 20)
    runs.open_run("before")
    publish(auto, "models/live", 1, run_id="before")
    runs.finish_run("before", "promoted")
    runs.open_run("living")
    finish_step(auto, "mine", "living", training_set_uri=write(artifacts, "training_sets/t"))
    finish_step(auto, "train", "living", answers_model_uri=write(artifacts, "models/m"))
    made = build(auto, artifacts.uri("models/m"), 2, "living")
    generations.create_tables(made)
    build(auto, "models/other", 3, "living")
    generations.set_state(3, "failed")  # its space has no generation any more
    jump(auto, hours)
    if working:
        auto.execute("UPDATE heal.run SET started_at = started_at + interval '2 days' WHERE run_id = 'before'")
        with one_step(settings.require_database_url(), "living", print):
            counts = maintain(settings).counts
    else:
        counts = maintain(settings).counts
    assert {name: value for name, value in counts.items() if "d" in name.rsplit("_", 1)[-1] and value} == {
        name: value for name, value in counts.items() if name.startswith("dead_rows") and value
    }
    assert generations.get(made.generation_id).state == "building"
    assert [artifacts.exists(artifacts.uri(key)) for key in ("models/m", "training_sets/t")] == [True, True]
    assert auto.execute("SELECT to_regclass('heal.base_s000003') IS NOT NULL").fetchone() == (True,)

    runs.finish_run("living", "Not finished: killed")
    jump(auto, 51)
    made_by = maintain(settings, "later").counts
    kinds = ("abandoned_generations_dropped", "spaces_dropped", "models_deleted", "training_sets_deleted")
    assert [made_by[kind] for kind in kinds] == [1, 2, 1, 1]
    table(row("clock", "maintain", f"{hours:+} h in a living run", "(went through)", "its things stay until it ends"))


def ended(conn: Connection, step: str, run_id: str, **refs: Any) -> None:
    RunRepository(conn).open_run(run_id)
    finish_step(conn, step, run_id, **refs)


@pytest.mark.parametrize("hours", [25, -25])
def test_only_what_came_later_overtakes_a_run(hours: float, auto: Connection) -> None:
    runs = RunRepository(auto)
    ended(auto, "publish", "earlier", generation_id=1)
    jump(auto, hours)
    ended(auto, "label", "now")
    assert runs.overtaken_by("now") is None
    jump(auto, hours)
    ended(auto, "nudge_live", "later")
    by = runs.overtaken_by("now")
    assert by
    assert (by.run_id, by.step) == ("later", "nudge_live")


def test_the_last_realignment_is_the_last_one_and_is_never_to_come(auto: Connection) -> None:
    runs = RunRepository(auto)
    ended(auto, "choose", "one", generation_id=1, best_id=1, best_system="answers model")
    ended(auto, "publish", "one", generation_id=1)
    jump(auto, -25)
    ended(auto, "choose", "two", generation_id=2, best_id=3, best_system="answers model")
    ended(auto, "publish", "two", generation_id=2)
    last = runs.last_realignment()
    assert last
    assert last.promoted is False
    jump(auto, -25)
    last = runs.last_realignment()
    assert last
    assert runs.age_s(last.ended_at) == 0
    assert "had times to come, which count as now" in mend_times(auto)
    assert mend_times(auto) == ""
    last = runs.last_realignment()
    assert last
    assert 0 < runs.age_s(last.ended_at) < 3600
    assert auto.execute("SELECT count(*) FROM heal.step_result WHERE finished_at > now()").fetchone() == (0,)


def test_a_run_goes_on_from_a_time_to_come(auto: Connection, settings: Settings, caplog: Any) -> None:
    inbox = settings.var_dir / "inbox"
    inbox.mkdir()
    (inbox / "a.txt").write_text("A text about whales and what they eat.")

    def night(run_id: str) -> str:
        manifest = load_step("ingest").run(settings, Manifest(run_id=run_id))
        return load_step("route").run(settings, manifest).text("route")

    assert night("first") == "realign"
    publish(auto, "m", 1, run_id="first")
    auto.execute(TOPIC_RUN)
    auto.execute("UPDATE heal.generation SET topic_run_id = (SELECT max(topic_run_id) FROM heal.topic_run)")
    ended(auto, "publish", "first", generation_id=1)
    jump(auto, -24 * 365)
    caplog.clear()
    assert night("second") == "nothing"
    assert "had times to come" in caplog.text
    (facts,) = auto.execute("SELECT route_facts FROM heal.run WHERE run_id = 'second'").fetchall()
    assert 0 <= facts[0]["generation_age_days"] < 1
    jump(auto, 24 * 31)
    assert night("third") == "realign", "it is due by its age, as if the clock had been right"


def test_a_training_set_that_may_quote_a_deleted_document_goes(auto: Connection, settings: Settings) -> None:
    artifacts, runs = artifact_store(settings), RunRepository(auto)
    fill(auto, 5)
    ended(auto, "mine", "r", training_set_uri=write(artifacts, "training_sets/t"))
    publish(auto, "m", 1, run_id="r")
    runs.finish_run("r", "promoted")
    jump(auto, -25)
    auto.execute("SELECT heal.delete_document(min(document_id)) FROM heal.document")
    mend_times(auto)  # as step ingest does
    assert maintain(settings).counts["training_sets_deleted"] == 1


def test_words_of_documents_restricted_under_another_clock_count_as_restricted(auto: Connection) -> None:
    fill(auto, 5)
    active = publish(auto, "m", 1)
    assert not Corpus(auto).restricted_since(active.created_at)
    jump(auto, -25)
    auto.execute("UPDATE heal.document SET acl = '{hr}', acl_changed_at = now() WHERE external_id = 'd1'")
    assert Corpus(auto).restricted_since(GenerationRepository(auto).get(active.generation_id).created_at)


def test_texts_that_change_after_the_clock_was_ahead_are_labelled_anew(auto: Connection) -> None:
    fill(auto, 2)
    auto.execute(TOPIC_RUN)
    auto.execute(
        "INSERT INTO heal.document_topic (topic_run_id, document_id, leaf, path, membership, residual, projected) "
        "SELECT t.topic_run_id, d.document_id, 0, '{}', 1, 0, false FROM heal.topic_run t, heal.document d"
    )
    jump(auto, -25)
    mend_times(auto)
    assert Corpus(auto).texts(unlabelled_in=1) == ([], [])
    auto.execute("UPDATE heal.document SET changed_at = now() WHERE external_id = 'd1'")
    assert len(Corpus(auto).texts(unlabelled_in=1)[0]) == 1


def test_no_age_is_negative(auto: Connection) -> None:
    runs = RunRepository(auto)
    runs.open_run("r")
    runs.finish_run("r", "promoted")
    jump(auto, -25)
    assert staleness(auto, 1) == ""
    jump(auto, 27)
    assert "No run has ended well since" in staleness(auto, 1)
    assert format_duration(-90_000.0) == "0.0s"


@pytest.mark.usefixtures("soaking")
def test_the_clock_of_the_worker_does_not_matter(auto: Connection, settings: Settings) -> None:
    """What is old is told by the server's clock alone."""
    libraries = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    if not libraries:
        pytest.skip("libfaketime is not installed (Debian package libfaketime)")
    fill(auto, 5)
    publish(auto, "models/live", 1)
    build(auto, "models/being filled", 2, "elsewhere")
    GenerationRepository(auto).set_state(2, "failed")
    for jumped in ("+25h", "-25h"):
        environment = child_environment(
            HEAL_VAR_DIR=str(settings.var_dir), HEAL_DATABASE_URL=settings.require_database_url(),
            LD_PRELOAD=str(libraries[0]), FAKETIME=jumped, FAKETIME_DONT_FAKE_MONOTONIC="1",
        )  # fmt: skip
        command = [sys.executable, "-m", "heal_tasks", "maintain"]
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert auto.execute("SELECT to_regclass('heal.base_s000002') IS NOT NULL").fetchone() == (True,)


def test_the_pipelines_role_counts_steps(login: dict[str, str]) -> None:
    with connect(login["heal_pipeline"], autocommit=True) as conn:
        for run_id in ("one", "two"):
            ended(conn, "label", run_id)
        numbers = conn.execute("SELECT run_id, number FROM heal.step_result ORDER BY number").fetchall()
        assert [run_id for run_id, _ in numbers] == ["one", "two"]
        ended(conn, "label", "one")
        assert conn.execute("SELECT run_id FROM heal.step_result ORDER BY number DESC LIMIT 1").fetchone() == ("one",)
        assert mend_times(conn) == ""
