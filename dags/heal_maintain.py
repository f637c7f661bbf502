"""heal_maintain: every night after the realignment, drop old generations and files, and measure the live generation."""

from typing import Any

from airflow.sdk import dag, get_current_context, task
from heal_airflow import active_asset, dag_arguments, for_each_corpus, run_step, timetable
from heal_alerts import stale_alert

from heal_tasks.core.settings import Settings


def make(settings: Settings) -> None:
    """Make the DAG of the deployment or of a corpus."""

    @dag(
        description="Drop old generations and files, vacuum, and measure the live generation.",
        schedule=timetable(settings.maintain_schedule),
        is_paused_upon_creation=True,
        **dag_arguments(settings, __file__, "HEAL maintenance"),
    )
    def heal_maintain() -> None:
        """Clean up and measure."""

        @task(
            inlets=[active_asset(settings.corpus)],
            doc_md="Drops drained generations and unused files, vacuums, measures recall; red if something is wrong. "
            "Output: `heal.generation_status`.",
        )
        def maintain() -> Any:
            if settings.stale_hours:
                stale_alert(get_current_context(), settings.stale_hours)
            return run_step("maintain")

        maintain()

    heal_maintain()


for_each_corpus(make)
