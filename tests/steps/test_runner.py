"""The runner of steps: errors of the database."""

from pathlib import Path

import psycopg
import pytest

from heal_tasks.core.errors import RetryableError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.steps.engine.runner import Context, Outcome, Step


def run(database_url: str, var_dir: Path, query: str) -> None:
    def body(context: Context) -> Outcome:
        context.conn.execute(query.encode())
        return Outcome()

    settings = load_settings(database_url=database_url, var_dir=var_dir)
    Step("probe", body, None).run(settings, Manifest(run_id="r"))


def test_a_killed_connection_is_retryable(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="step probe: lost the database"):
        run(database_url, tmp_path, "SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_mistake_is_not_retryable(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        run(database_url, tmp_path, "SELECT * FROM nothing")
