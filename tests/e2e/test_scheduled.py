"""The DAG in a real Airflow, task by task: the first run, a night, a failure; no secret is left in it."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from heal_tasks.store.db import connect
from tests.dags.airflow_commands import ROOT, Airflow, started
from tests.e2e.conftest import BRIEF, Deployment
from tests.fake_openai import FakeOpenAI

SECRETS = [f"Pl4nted-{place}" for place in ("llm-url", "llm-key", "openai-key", "serve-token", "embed-connection")]


@pytest.fixture(scope="module")
def airflow(unaligned: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """An Airflow with its own small metadata database, and with secrets of a language model and others."""
    in_url, llm_key, openai_key, token, in_connection = SECRETS
    with FakeOpenAI() as llm:
        variables = {
            "HEAL_VAR_DIR": str(unaligned.settings.var_dir),
            "HEAL_DATABASE_URL": unaligned.settings.require_database_url(),
            "HEAL_LLM_BASE_URL": llm.base_url.replace("//", f"//somebody:{in_url}@"),
            "HEAL_LLM_MODEL": "fake",
            "HEAL_LLM_API_KEY": llm_key,
            "HEAL_SERVE_TOKEN": token,
            "OPENAI_API_KEY": openai_key,
            "AIRFLOW_CONN_HEAL_EMBED": json.dumps({"conn_type": "openai", "password": in_connection}),
            "HF_HUB_OFFLINE": "1",
            **{f"HEAL_{name.upper()}": str(value) for name, value in BRIEF.items()},
        }
        with started(tmp_path_factory.mktemp("airflow"), ROOT / "dags", **variables) as made:
            status, said = made.run("pools", "set", "gpu", "1", "one GPU")
            assert status == 0, said
            yield made


def last_run(deployment: Deployment) -> tuple[str, str, str]:
    """Route, verdict and report of the newest run."""
    with connect(deployment.settings.require_database_url()) as conn:
        query = "SELECT route, verdict, report_uri FROM heal.run ORDER BY started_at DESC LIMIT 1"
        (row,) = conn.execute(query).fetchall()
    return row


def published(airflow: Airflow) -> list[tuple[str, dict[str, Any]]]:
    """The tasks that announced a generation, each with what it said, in order."""
    with sqlite3.connect(airflow.database) as metadata:
        rows = metadata.execute(
            "SELECT a.uri, e.source_task_id, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id ORDER BY e.id"
        ).fetchall()
    assert {uri for uri, *_ in rows} == {"heal://generation/active"}
    return [(task_id, json.loads(extra)) for _, task_id, extra in rows]


def test_the_first_run_realigns(unaligned: Deployment, airflow: Airflow) -> None:
    status, said = airflow.test("heal_realign")
    assert status == 0, said[-6000:]
    route, verdict, report = last_run(unaligned)
    assert (route, Path(report, "report.html").exists()) == ("realign", True)
    first, (task_id, event) = published(airflow)
    assert (first[0].rpartition(".")[2], task_id.rpartition(".")[2]) == ("first_light", "publish")
    assert event["verdict"] == verdict.split("\n")[0]
    assert event["generation"] > first[1]["generation"]


def test_the_dag_nudges_and_keeps_xcom_small(unaligned: Deployment, airflow: Airflow) -> None:
    row = unaligned.read("first.jsonl")[0]
    unaligned.write("scheduled.jsonl", [{**row, "id": "scheduled", "text": f"Seen by the schedule. {row['text']}"}])
    status, said = airflow.test("heal_realign")
    assert status == 0, said[-6000:]
    route, verdict, _ = last_run(unaligned)
    assert route == "nudge"
    assert "rows added" in verdict
    with connect(unaligned.settings.require_database_url()) as conn:
        served = conn.execute(
            """SELECT count(*) FROM heal.embedding JOIN heal.document USING (document_id)
            WHERE external_id = 'scheduled'"""
        ).fetchone()
        assert served == (1,)
    *_, (task_id, event) = published(airflow)
    assert task_id == "nudge.nudge_live"
    assert event["verdict"] == verdict.split("\n")[0]
    assert event["counts"]["rows_added"] == 1
    assert event["model"]
    with sqlite3.connect(airflow.database) as metadata:
        sizes = metadata.execute("SELECT task_id, length(value) FROM xcom").fetchall()
    assert len(sizes) >= 7
    assert max(size for _, size in sizes) < 4096


def test_a_failing_task_fails_the_run_and_is_reported(unaligned: Deployment, airflow: Airflow) -> None:
    source = f"file:{unaligned.settings.var_dir}/inbox/gone"
    status, _ = airflow.test("heal_realign", {"sources": source})
    assert status == 1
    _, verdict, report = last_run(unaligned)
    assert verdict.startswith("Not finished: ingest: failed: ")
    assert Path(report, "report.html").exists()


def test_a_wrong_parameter_is_refused_before_anything_runs(airflow: Airflow) -> None:
    status, said = airflow.test("heal_realign", {"force_route": "sideways"})
    assert status == 1
    assert "sideways" in said


def test_a_field_that_the_dag_lacks_is_refused(unaligned: Deployment, airflow: Airflow) -> None:
    counts = "SELECT (SELECT count(*) FROM heal.document), generation_id FROM heal.generation WHERE state = 'active'"
    new = unaligned.inbox("unread.jsonl")
    new.write_text(json.dumps({"id": "unread", "title": "Unread", "text": "Basalt comes from volcanoes."}))
    with connect(unaligned.settings.require_database_url(), autocommit=True) as conn:
        before = conn.execute(counts).fetchall()
        status, said = airflow.test("heal_realign", {"dryrun": True})
        assert status == 1
        assert "has 'dryrun', which heal_realign does not know; did you mean 'dry_run'?" in said
        _, verdict, _ = last_run(unaligned)
        assert verdict.startswith("Not finished: ingest: failed: the run's configuration has 'dryrun'")
        status, said = airflow.test("heal_activate", {"gen": 1})
        assert status == 1
        assert "has 'gen', which heal_activate does not know; did you mean 'generation'?" in said
        assert conn.execute(counts).fetchall() == before, "nothing is read, and nobody rolled back"
    new.unlink()


def test_no_secret_is_in_airflows_database_logs_or_output(unaligned: Deployment, airflow: Airflow) -> None:
    """After the runs above: XCom, rendered fields, events, logs, what the commands said, and the folder of state."""
    found = dict[str, str]()
    with sqlite3.connect(airflow.database) as metadata:
        for (table,) in metadata.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            found[table] = str(metadata.execute(f'SELECT * FROM "{table}"').fetchall())
    for folder in (airflow.home, unaligned.settings.var_dir):
        for path in folder.rglob("*"):
            if path.is_file():
                found[str(path)] = path.read_bytes().decode("latin-1")
    assert "heal_realign" in found["xcom"]
    assert "heal_realign" in found["rendered_task_instance_fields"]
    password = urlsplit(unaligned.settings.require_database_url()).password
    assert password
    leaks = [(secret, place) for secret in (*SECRETS, password) for place, text in found.items() if secret in text]
    assert leaks == []
