"""heal_activate: promote a ready generation, or roll back to the previous one, by hand."""

from typing import Any

from airflow.sdk import Param, dag, task
from heal_airflow import ACTIVE, announce, dag_arguments, run_step

from heal_tasks.core.settings import load_settings


@dag(
    dag_id="heal_activate",
    dag_display_name="HEAL activate",
    description="Promote a ready generation, or roll back to the previous one, by hand.",
    schedule=None,
    is_paused_upon_creation=False,
    params={
        "generation": Param(
            0,
            type="integer",
            minimum=0,
            maximum=2**63 - 1,  # of bigint; a larger number does not even reach the task
            title="Generation",
            description="Id from heal.generation_status; 0 rolls back to the previous generation.",
        )
    },
    **dag_arguments(load_settings(), __file__),
)
def heal_activate() -> None:
    """Switch the live generation."""

    @task(
        outlets=[ACTIVE],
        doc_md="Switches in one transaction, with a lock timeout. Output: `heal.generation`, view `heal.embedding`.",
    )
    def activate(params: dict[str, Any] | None = None) -> Any:
        return announce(run_step("activate", refs={"generation_id": (params or {})["generation"]}))

    activate()


heal_activate()
