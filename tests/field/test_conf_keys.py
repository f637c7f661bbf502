"""Names that nobody knows are refused or named, in a trigger's configuration and in the environment."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.core.environment import child_environment
from heal_tasks.core.settings import Settings, unknown_variables
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.planted_store import fill, publish

ROOT = Path(__file__).parents[2]
AIRFLOW = (sys.executable, "-m", "airflow")


@pytest.fixture
def home(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """The environment of an Airflow with the product's DAGs."""
    environment = child_environment(
        AIRFLOW_HOME=str(tmp_path / "airflow"),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{tmp_path}/airflow.db",
        HEAL_VAR_DIR=str(settings.var_dir),
        HEAL_DATABASE_URL=settings.require_database_url(),
    )
    subprocess.run([*AIRFLOW, "db", "migrate"], env=environment, check=True, capture_output=True)
    return environment


def run_dag(environment: dict[str, str], dag_id: str, conf: str) -> str:
    """The log of a run with a configuration."""
    command = [*AIRFLOW, "dags", "test", dag_id, "--conf", conf]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr


def test_a_field_that_the_dag_lacks_is_refused(auto: Connection, settings: Settings, home: dict[str, str]) -> None:
    fill(auto)
    publish(auto, "one", 1)
    live = publish(auto, "two", 2)
    (settings.var_dir / "inbox").mkdir(parents=True)
    (settings.var_dir / "inbox" / "one.txt").write_text("Basalt comes from volcanoes.")
    documents = auto.execute("SELECT count(*) FROM heal.document").fetchone()

    log = run_dag(home, "heal_realign", '{"dryrun": true}')
    assert "has 'dryrun', which heal_realign does not know; did you mean 'dry_run'?" in log
    assert auto.execute("SELECT count(*) FROM heal.document").fetchone() == documents
    (run,) = RunRepository(auto).recent_runs()
    assert run.verdict is not None
    assert run.verdict.startswith("Not finished: ingest: failed: the run's configuration has 'dryrun'")

    log = run_dag(home, "heal_activate", '{"gen": 1}')
    assert "has 'gen', which heal_activate does not know; did you mean 'generation'?" in log
    active = GenerationRepository(auto).active()
    assert active is not None
    assert active.generation_id == live.generation_id, "nobody rolled back"


def test_variables_that_are_no_settings_are_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAL_SORUCES", "file:/x")
    (tmp_path / ".env").write_text("HEAL_QUX=1\nOTHER=2\nHEAL_SEED=3\n")
    assert unknown_variables(tmp_path) == [
        "HEAL_QUX is set, and is no setting; docs/settings.md lists them",
        "HEAL_SORUCES is set, and is no setting; did you mean HEAL_SOURCES?",
    ]
    found = [(level, text) for level, name, text in examine(settings) if name == "settings"]
    assert found == [("note", sentence) for sentence in unknown_variables(tmp_path)]


def test_a_command_names_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from heal_tasks.cli.base import settings_for_command

    monkeypatch.setenv("HEAL_FORCE_RUOTE", "nothing")
    with caplog.at_level(logging.WARNING):
        settings_for_command()
    assert "did you mean HEAL_FORCE_ROUTE?" in caplog.text
