"""A realigned store of version 0.1.0, migrated: everything is kept, a night works, and the dump leads back.

And a step at work while another process migrates. ``make soak`` runs it.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.road import load_step, run_pipeline, steps_of
from heal_tasks.store.db import connect, scalar
from heal_tasks.store.migrate import migrate
from tests.conftest import TEMPLATE
from tests.e2e.conftest import SMALL, Deployment, short
from tests.e2e.kill_points import Snapshots, start, step_until, wait
from tests.e2e.store_state import differences, state_of, unsound
from tests.field.older import older_copy, program

DOCUMENTS = 48
PLACES = (1, 8, 20, 40)
"""Statements of a step before which somebody migrates."""


@pytest.fixture
def realigned(soaking: None, postgres: EmbeddedPostgres, tmp_path: Path) -> Any:
    """A deployment after its first run, with new documents in its inbox, and its snapshots."""
    var_dir = tmp_path / "var"
    var_dir.mkdir()
    snapshots = Snapshots(postgres, "upgraded", var_dir, tmp_path)
    values = {**SMALL, "var_dir": var_dir, "database_url": snapshots.begin(TEMPLATE), "topic_min_documents": 20}
    made = Deployment(load_settings(**values), {})
    rows = short(sample(("networkx",), DOCUMENTS + 4, seed=3))
    made.write("first.jsonl", rows[:DOCUMENTS])
    made.run("first")
    made.write("second.jsonl", rows[DOCUMENTS:])
    yield made, values, snapshots
    snapshots.end()


def test_a_realigned_store_of_the_first_version(realigned: Any, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    deployment, values, _ = realigned
    url = deployment.settings.require_database_url()
    with connect(url, autocommit=True) as conn:
        wanted = state_of(conn)
    with older_copy(postgres, url, "older", tmp_path) as older:
        dump = tmp_path / "before.dump"
        program(postgres, "pg_dump", "--format=custom", "--schema=heal", "--file", str(dump), older)
        with connect(older, autocommit=True) as conn:
            assert migrate(conn)[0].startswith("009")
            assert differences(state_of(conn), wanted) == []
        settings = load_settings(**{**values, "database_url": older})
        run_pipeline(settings, "night")
        run_pipeline(settings.model_copy(update={"force_route": "realign"}), "again")
        with connect(older, autocommit=True) as conn:
            assert unsound(conn) == []
            assert scalar(conn, "SELECT route FROM heal.run WHERE run_id = 'night'") == "nudge"
            assert scalar(conn, "SELECT count(*) FROM heal.document") == DOCUMENTS + 4
        back = postgres.ensure_database("back")
        try:
            with psycopg.connect(back, autocommit=True) as admin:
                admin.execute("CREATE EXTENSION vector")
            program(postgres, "pg_restore", "--no-owner", "--no-privileges", "--dbname", back, str(dump))
            with connect(back, autocommit=True) as conn:
                assert scalar(conn, "SELECT max(name) FROM heal.schema_migration").startswith("008")
                migrate(conn)
                assert differences(state_of(conn), wanted) == [], "the dump has what was before"
        finally:
            with psycopg.connect(postgres.url(), autocommit=True) as admin:
                admin.execute("DROP DATABASE back WITH (FORCE)")


def test_a_step_at_work_while_another_process_migrates(
    realigned: Any, tmp_path: Path, table: Callable[[str], None]
) -> None:
    """All functions and rights are made again, as by a new version, between two statements of a step."""
    deployment, values, snapshots = realigned
    tried, manifest = 0, Manifest(run_id="night")
    for step in ("ingest", "route", *steps_of(deployment.settings, "nudge")):
        snapshots.save("before")
        for place in PLACES if step in ("ingest", "nudge_live") else PLACES[1:2]:
            snapshots.restore("before")
            reached, release = tmp_path / f"reached-{step}-{place}", tmp_path / f"release-{step}-{place}"
            child = start(tmp_path, step_until, values, manifest, step, place, wait, reached, release)
            while not reached.exists() and child.process.is_alive():
                time.sleep(0.02)
            migration = threading.Thread(target=_migrate, args=(values["database_url"],))
            migration.start()
            migration.join(2)  # it may wait for locks of the step
            release.touch()
            assert child.join(120), f"{step} does not end"
            migration.join(60)
            assert not migration.is_alive()
            said = child.sentence()
            assert not said.startswith("UNNAMED"), said
            tried += 1
            table(f"{step:14} {place:3}  {said[:90] or 'went on'}")
        snapshots.restore("before")
        snapshots.drop("before")
        manifest = load_step(step).run_to_end(deployment.settings, manifest)
    with connect(values["database_url"], autocommit=True) as conn:
        assert unsound(conn) == []
    assert tried >= 8


def _migrate(url: str) -> None:
    with connect(url, autocommit=True) as conn:
        conn.execute("UPDATE heal.schema_migration SET sha256 = 'older' WHERE name LIKE 'api%'")
        migrate(conn)
