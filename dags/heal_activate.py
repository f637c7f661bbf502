"""heal_activate: promote a ready generation, or roll back to the previous one, by hand."""

from typing import Any

from airflow.sdk import Param, dag, task
from heal_airflow import DAG_ARGUMENTS, run_step


@dag(
    dag_id="heal_activate",
    schedule=None,
    is_paused_upon_creation=False,
    params={
        "generation": Param(
            0,
            type="integer",
            minimum=0,
            title="Generation",
            description="Id from heal.generation_status; 0 rolls back to the previous generation.",
        )
    },
    doc_md=__doc__,
    **DAG_ARGUMENTS,
)
def heal_activate() -> None:
    """Switch the live generation."""

    @task(doc_md="Switches in one transaction, with a lock timeout. Output: `heal.generation`, view `heal.embedding`.")
    def activate(params: dict[str, Any] | None = None) -> Any:
        return run_step("activate", refs={"generation_id": (params or {})["generation"]})

    activate()


heal_activate()
