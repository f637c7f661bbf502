"""The DAG in a real Airflow, task by task: the first run, a night, a failure."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.store.db import connect
from tests.e2e.conftest import SMALL, Deployment

ROOT = Path(__file__).parents[2]
AIRFLOW = str(Path(sys.executable).parent / "airflow")


@pytest.fixture(scope="module")
def airflow(unaligned: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an Airflow with its own small metadata database."""
    home = tmp_path_factory.mktemp("airflow")
    environment = child_environment(
        AIRFLOW_HOME=str(home),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        HEAL_VAR_DIR=str(unaligned.settings.var_dir),
        HEAL_DATABASE_URL=unaligned.settings.require_database_url(),
        HF_HUB_OFFLINE="1",
        **{f"HEAL_{name.upper()}": str(value) for name, value in SMALL.items()},
    )
    for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "one GPU"]):
        subprocess.run([AIRFLOW, *command], env=environment, check=True, capture_output=True)
    return environment


def trigger(environment: dict[str, str], *conf: str) -> subprocess.CompletedProcess[str]:
    command = [AIRFLOW, "dags", "test", "heal_realign", *conf]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def last_run(deployment: Deployment) -> tuple[str, str, str]:
    """Route, verdict and report of the newest run."""
    with connect(deployment.settings.require_database_url()) as conn:
        query = "SELECT route, verdict, report_uri FROM heal.run ORDER BY started_at DESC LIMIT 1"
        (row,) = conn.execute(query).fetchall()
    return row


def published(environment: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """The tasks that announced a generation, each with what it said, in order."""
    with sqlite3.connect(f"{environment['AIRFLOW_HOME']}/airflow.db") as metadata:
        rows = metadata.execute(
            "SELECT a.uri, e.source_task_id, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id ORDER BY e.id"
        ).fetchall()
    assert {uri for uri, *_ in rows} == {"heal://generation/active"}
    return [(task_id, json.loads(extra)) for _, task_id, extra in rows]


def test_the_first_run_realigns(unaligned: Deployment, airflow: dict[str, str]) -> None:
    done = trigger(airflow)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    route, verdict, report = last_run(unaligned)
    assert (route, Path(report, "report.html").exists()) == ("realign", True)
    first, (task_id, event) = published(airflow)
    assert (first[0].rpartition(".")[2], task_id.rpartition(".")[2]) == ("first_light", "publish")
    assert event["verdict"] == verdict.split("\n")[0]
    assert event["generation"] > first[1]["generation"]


def test_the_dag_nudges_and_keeps_xcom_small(unaligned: Deployment, airflow: dict[str, str]) -> None:
    row = unaligned.read("first.jsonl")[0]
    unaligned.write("scheduled.jsonl", [{**row, "id": "scheduled", "text": f"Seen by the schedule. {row['text']}"}])
    done = trigger(airflow)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
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
    with sqlite3.connect(f"{airflow['AIRFLOW_HOME']}/airflow.db") as metadata:
        sizes = metadata.execute("SELECT task_id, length(value) FROM xcom").fetchall()
    assert len(sizes) >= 7
    assert max(size for _, size in sizes) < 4096


def test_a_failing_task_fails_the_run_and_is_reported(unaligned: Deployment, airflow: dict[str, str]) -> None:
    source = f"file:{unaligned.settings.var_dir}/inbox/gone"
    done = trigger(airflow, "--conf", json.dumps({"sources": source}))
    assert done.returncode == 1
    _, verdict, report = last_run(unaligned)
    assert verdict.startswith("Not finished: ingest: failed: ")
    assert Path(report, "report.html").exists()


def test_a_wrong_parameter_is_refused_before_anything_runs(airflow: dict[str, str]) -> None:
    done = trigger(airflow, "--conf", '{"force_route": "sideways"}')
    assert done.returncode == 1
    assert "sideways" in done.stdout + done.stderr
