"""The DAG in a real Airflow, task by task: the first run, a night, a failure; no secret is left in it."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.store.db import connect
from tests.e2e.conftest import SMALL, Deployment
from tests.fake_openai import FakeOpenAI

ROOT = Path(__file__).parents[2]
AIRFLOW = str(Path(sys.executable).parent / "airflow")
SECRETS = [f"Pl4nted-{place}" for place in ("llm-url", "llm-key", "openai-key", "serve-token", "embed-connection")]


@pytest.fixture(scope="module")
def airflow(unaligned: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of an Airflow with its own small metadata database, and of a language model; with secrets."""
    with FakeOpenAI() as llm:
        yield _airflow(unaligned, tmp_path_factory.mktemp("airflow"), llm.base_url)


def _airflow(unaligned: Deployment, home: Path, llm_url: str) -> dict[str, str]:
    in_url, llm_key, openai_key, token, in_connection = SECRETS
    environment = child_environment(
        AIRFLOW_HOME=str(home),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        HEAL_VAR_DIR=str(unaligned.settings.var_dir),
        HEAL_DATABASE_URL=unaligned.settings.require_database_url(),
        HEAL_LLM_BASE_URL=llm_url.replace("//", f"//somebody:{in_url}@"),
        HEAL_LLM_MODEL="fake",
        HEAL_LLM_API_KEY=llm_key,
        HEAL_SERVE_TOKEN=token,
        OPENAI_API_KEY=openai_key,
        AIRFLOW_CONN_HEAL_EMBED=json.dumps({"conn_type": "openai", "password": in_connection}),
        HF_HUB_OFFLINE="1",
        **{f"HEAL_{name.upper()}": str(value) for name, value in SMALL.items()},
    )
    for command in (["db", "migrate"], ["pools", "set", "gpu", "1", "one GPU"]):
        subprocess.run([AIRFLOW, *command], env=environment, check=True, capture_output=True)
    return environment


def trigger(environment: dict[str, str], *conf: str) -> subprocess.CompletedProcess[str]:
    """Run the DAG, and keep what was said beside Airflow's logs."""
    command = [AIRFLOW, "dags", "test", "heal_realign", *conf]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    said = Path(environment["AIRFLOW_HOME"]) / "said"
    said.mkdir(exist_ok=True)
    (said / f"{len(list(said.iterdir()))}.txt").write_text(done.stdout + done.stderr)
    return done


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


def test_no_secret_is_in_airflows_database_logs_or_output(unaligned: Deployment, airflow: dict[str, str]) -> None:
    """After the runs above: XCom, rendered fields, events, logs, what the commands said, and the folder of state."""
    found = dict[str, str]()
    with sqlite3.connect(f"{airflow['AIRFLOW_HOME']}/airflow.db") as metadata:
        for (table,) in metadata.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            found[table] = str(metadata.execute(f'SELECT * FROM "{table}"').fetchall())
    for folder in (airflow["AIRFLOW_HOME"], unaligned.settings.var_dir):
        for path in Path(folder).rglob("*"):
            if path.is_file():
                found[str(path)] = path.read_bytes().decode("latin-1")
    assert "heal_realign" in found["xcom"]
    assert "heal_realign" in found["rendered_task_instance_fields"]
    password = urlsplit(unaligned.settings.require_database_url()).password
    assert password
    leaks = [(secret, place) for secret in (*SECRETS, password) for place, text in found.items() if secret in text]
    assert leaks == []
