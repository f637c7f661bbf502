"""heal_maintain: every night after the realignment, drop old generations and files, and measure the live generation."""

from typing import Any

from airflow.sdk import dag, get_current_context, task
from heal_airflow import ACTIVE, dag_arguments, run_step, timetable
from heal_alerts import stale_alert

from heal_tasks.core.settings import load_settings

SETTINGS = load_settings()


@dag(
    dag_id="heal_maintain",
    dag_display_name="HEAL maintenance",
    description="Drop old generations and files, vacuum, and measure the live generation.",
    schedule=timetable(SETTINGS.maintain_schedule),
    is_paused_upon_creation=True,
    **dag_arguments(SETTINGS, __file__),
)
def heal_maintain() -> None:
    """Clean up and measure."""

    @task(
        inlets=[ACTIVE],
        doc_md="Drops drained generations and unused files, vacuums, measures recall; red if something is wrong. "
        "Output: `heal.generation_status`.",
    )
    def maintain() -> Any:
        if SETTINGS.stale_hours:
            stale_alert(get_current_context(), SETTINGS.stale_hours)
        return run_step("maintain")

    maintain()


heal_maintain()
