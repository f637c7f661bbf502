"""heal_maintain: every night after the realignment, drop old generations and files, and measure the live generation."""

from typing import Any

from airflow.sdk import dag, task
from heal_airflow import DAG_ARGUMENTS, run_step, timetable

from heal_tasks.core.settings import load_settings

SETTINGS = load_settings()


@dag(
    dag_id="heal_maintain",
    schedule=timetable(SETTINGS.maintain_schedule),
    is_paused_upon_creation=True,
    doc_md=__doc__,
    **DAG_ARGUMENTS,
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
