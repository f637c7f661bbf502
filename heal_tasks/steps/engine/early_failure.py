"""The record of a task that failed before its step could begin, for the list of runs and the run's page."""

import logging
from collections.abc import Callable

import psycopg

from heal_tasks.core.errors import HealError
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import STEPS
from heal_tasks.steps.engine.runner import step_key
from heal_tasks.store.db import connect
from heal_tasks.store.runs.runs import FAILED, RunRepository

_OF_NO_RUN = ("maintain", "activate")


def record_failure(
    load: Callable[[], Settings], step: str, run_id: str, reason: str, shard: int = 0, shards: int = 1
) -> None:
    """Open the row of the step's run, if it has one, and record that the step failed.

    Where the database cannot be reached, log that. ``load`` reads settings of which those of the database are right.
    """
    if step not in STEPS:
        return
    try:
        with connect(load().require_database_url(), autocommit=True) as conn:
            runs = RunRepository(conn)
            if step not in _OF_NO_RUN:
                runs.open_run(run_id)
            key = step, step_key(step, shards, run_id), shard, run_id
            if runs.finished(*key) is None:  # what a cleared task has done stays recorded
                runs.begin(*key)
                runs.progress(*key, 0, 0, f"{FAILED}{reason}")
    except (HealError, psycopg.Error) as error:
        logging.getLogger(__name__).warning(
            "heal.run has no row of run %r, because the database cannot be reached: %s", run_id, error
        )
