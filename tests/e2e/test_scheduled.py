"""The DAG in a real Airflow, task by task, on the deployment that the road's tests have left."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.store.db import connect
from tests.e2e.conftest import SMALL, Deployment

ROOT = Path(__file__).parents[2]
AIRFLOW = str(Path(sys.executable).parent / "airflow")


@pytest.fixture(scope="module")
def airflow(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an Airflow with its own small metadata database."""
    home = tmp_path_factory.mktemp("airflow")
    environment = child_environment(
        AIRFLOW_HOME=str(home),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        HEAL_VAR_DIR=str(deployment.settings.var_dir),
        HEAL_DATABASE_URL=deployment.settings.require_database_url(),
        HF_HUB_OFFLINE="1",
        **{f"HEAL_{name.upper()}": str(value) for name, value in SMALL.items()},
    )
    for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "one GPU"]):
        subprocess.run([AIRFLOW, *command], env=environment, check=True, capture_output=True)
    return environment


def trigger(environment: dict[str, str], *conf: str) -> subprocess.CompletedProcess[str]:
    command = [AIRFLOW, "dags", "test", "heal_realign", *conf]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_the_dag_runs_green_and_keeps_xcom_small(deployment: Deployment, airflow: dict[str, str]) -> None:
    row = deployment.read("first.jsonl")[0]
    deployment.write("scheduled.jsonl", [{**row, "id": "scheduled", "text": f"Seen by the schedule. {row['text']}"}])
    done = trigger(airflow)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with connect(deployment.settings.require_database_url()) as conn:
        last = conn.execute("SELECT run_id, route, verdict FROM heal.run ORDER BY started_at DESC LIMIT 1").fetchone()
        assert last is not None
        assert last[1] == "nudge"
        assert "rows added" in last[2]
        served = conn.execute(
            """SELECT count(*) FROM heal.embedding JOIN heal.document USING (document_id)
            WHERE external_id = 'scheduled'"""
        ).fetchone()
        assert served == (1,)
    with sqlite3.connect(f"{airflow['AIRFLOW_HOME']}/airflow.db") as metadata:
        sizes = metadata.execute("SELECT task_id, length(value) FROM xcom").fetchall()
        query = "SELECT a.uri, e.source_task_id, e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id"
        ((uri, task_id, extra),) = metadata.execute(query).fetchall()
    assert (uri, task_id) == ("heal://generation/active", "nudge.nudge_live")
    event = json.loads(extra)
    assert event["verdict"] == last[2].split("\n")[0]
    assert event["counts"]["rows_added"] == 1
    assert event["model"]
    assert len(sizes) >= 7
    assert max(size for _, size in sizes) < 4096


def test_a_forced_realignment_finds_topics_anew(deployment: Deployment, airflow: dict[str, str]) -> None:
    done = trigger(airflow, "--conf", '{"force_route": "realign"}')
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with connect(deployment.settings.require_database_url()) as conn:
        rows = conn.execute(
            """SELECT r.route, s.result ->> 'note' FROM heal.run r JOIN heal.step_result s USING (run_id)
            WHERE r.run_id = (SELECT run_id FROM heal.run ORDER BY started_at DESC LIMIT 1) AND s.step = 'label'"""
        ).fetchall()
    assert [route for route, _ in rows] == ["realign"]
    assert "churn to the previous run" in rows[0][1]


@pytest.mark.parametrize(
    ("below_roots", "verdict"),
    [(True, "Not finished: ingest: failed: "), (False, "Not finished: ingest: failed: settings are wrong: source")],
)
def test_a_failing_task_fails_the_run_and_is_reported(
    deployment: Deployment, airflow: dict[str, str], below_roots: bool, verdict: str
) -> None:
    source = f"file:{deployment.settings.var_dir}/inbox/gone" if below_roots else "file:/nowhere/at/all"
    done = trigger(airflow, "--conf", json.dumps({"sources": source}))
    assert done.returncode == 1
    with connect(deployment.settings.require_database_url()) as conn:
        last = conn.execute("SELECT verdict, report_uri FROM heal.run ORDER BY started_at DESC LIMIT 1").fetchone()
    assert last is not None
    assert last[0].startswith(verdict)
    assert Path(last[1], "report.html").exists()


def test_a_wrong_parameter_is_refused_before_anything_runs(airflow: dict[str, str]) -> None:
    done = trigger(airflow, "--conf", '{"force_route": "sideways"}')
    assert done.returncode == 1
    assert "sideways" in done.stdout + done.stderr
