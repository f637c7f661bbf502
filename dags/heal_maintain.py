"""heal_maintain: every night after the realignment, old generations and files go, and what is served is measured."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task
from heal_airflow import RETRIES, run_step

from heal_tasks.core.settings import load_settings

SETTINGS = load_settings()


@dag(
    dag_id="heal_maintain",
    schedule=CronTriggerTimetable(SETTINGS.maintain_schedule, timezone="UTC") if SETTINGS.maintain_schedule else None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    default_args=RETRIES,
    doc_md=__doc__,
    tags=["heal"],
)
def heal_maintain() -> None:
    """Clean up and measure."""

    @task(
        doc_md="Drops drained generations and unused files, vacuums, measures recall; red if something is wrong. "
        "Output: `heal.generation_status`."
    )
    def maintain() -> Any:
        return run_step("maintain")

    maintain()


heal_maintain()
