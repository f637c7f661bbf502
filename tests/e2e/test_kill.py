"""kill -9 on the training process: the retry goes on from the checkpoint, and no finished step runs again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.db import Connection, connect
from tests.conftest import fresh_database
from tests.e2e.conftest import SMALL, short

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240


def step_times(conn: Connection) -> dict[str, tuple[object, ...]]:
    rows = conn.execute("SELECT step, started_at, finished_at FROM heal.step_result WHERE finished_at IS NOT NULL")
    return {step: times for step, *times in rows}


@pytest.mark.usefixtures("soaking")
def test_a_killed_training_is_resumed(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    rows = short(sample(("networkx",), 70, seed=3))
    (inbox / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fresh_database(postgres) as url, connect(url, autocommit=True) as conn:
        settings = {**SMALL, "train_max_steps": 6, "train_eval_steps": 3}
        environment = child_environment(
            HEAL_VAR_DIR=str(tmp_path), HEAL_DATABASE_URL=url, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1",
            **{f"HEAL_{name.upper()}": str(value) for name, value in settings.items()},
        )  # fmt: skip
        command = [sys.executable, "-m", "heal_tasks", "run", "--run-id", "killed"]
        with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + DEADLINE_S
            while not list(tmp_path.glob("training/*/checkpoint-3/trainer_state.json")):
                assert process.poll() is None, "the run ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
        before = step_times(conn)
        assert {"ingest", "route", "first_light", "label", "ask", "embed_base", "sift", "mine"} == before.keys()

        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

        assert done.returncode == 0, done.stderr[-3000:]
        after = step_times(conn)
        assert {step: after[step] for step in before} == before
        assert {"train", "choose", "publish", "report"} <= after.keys()
        ((steps, resumed),) = conn.execute(
            """SELECT (result #>> '{counts,answers_steps}')::int, (result #>> '{counts,answers_resumed_from_step}')::int
            FROM heal.step_result WHERE step = 'train'"""
        ).fetchall()
        assert steps == 6
        assert resumed >= 3
        assert not list(tmp_path.glob("training/*")), "checkpoints go once the model is published"
        assert len(list(tmp_path.glob("artifacts/models/*/model.safetensors"))) == 1
