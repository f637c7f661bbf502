"""Whole runs at once, in processes of their own: one goes through, the other is refused, beside switch and deletion."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.db import connect, scalar
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import ServedRepository
from tests.conftest import fresh_database
from tests.e2e.conftest import SMALL, short

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("soaking")
def test_one_of_two_runs_goes_through_beside_a_switch_and_a_deletion(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    rows = short(sample(("networkx",), 70, seed=3))
    (inbox / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fresh_database(postgres) as url, connect(url, autocommit=True) as conn:
        environment = child_environment(
            HEAL_VAR_DIR=str(tmp_path), HEAL_DATABASE_URL=url, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1",
            **{f"HEAL_{name.upper()}": str(value) for name, value in SMALL.items()},
        )  # fmt: skip

        def start(run_id: str, route: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-m", "heal_tasks", "run", "--run-id", run_id]
            return subprocess.Popen(
                command, env={**environment, "HEAL_FORCE_ROUTE": route}, cwd=tmp_path, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

        def by_hand(*arguments: str) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-m", "heal_tasks", *arguments]
            return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

        # The first one makes something live, so that the second round can nudge, switch and delete.
        for first, second in (("realign", "realign"), ("realign", "nudge")):
            runs = {name: start(f"{first}-{second}-{name}", route) for name, route in (("a", first), ("b", second))}
            if second == "nudge":
                deadline = time.monotonic() + 120
                while not scalar(conn, "SELECT count(*) FROM heal.run WHERE starts_with(run_id, 'realign-nudge-')"):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                rolled_back = by_hand("activate")
                assert rolled_back.returncode == 0, rolled_back.stderr
                document = scalar(conn, "SELECT min(document_id) FROM heal.document WHERE deleted_at IS NULL")
                conn.execute("SELECT heal.delete_document(%s::bigint)", (document,))
            ended = {name: (*run.communicate(timeout=300), run.returncode) for name, run in runs.items()}
            errors = [text for _, text, code in ended.values() if code]
            assert sum("is under way, so run" in text for text in errors) == 1, ended
            for text in errors:  # a generation without topics, to which the rollback went, cannot be nudged
                assert "is under way, so run" in text or "has no topics, so it cannot be nudged" in text, text
                assert text.splitlines()[-1].startswith("error: ")
                assert "Traceback" not in text
            active = GenerationRepository(conn).active()
            assert active is not None
            health = ServedRepository(conn).health(active)
            assert health["orphans"] == 0
            assert health["served"] > 0
