"""heal_activate: promote a ready generation, or roll back to the previous one, by hand."""

from typing import Any

from airflow.sdk import Param, dag, task
from heal_airflow import active_asset, announce, dag_arguments, for_each_corpus, run_step

from heal_tasks.core.settings import Settings


def make(settings: Settings) -> None:
    """Make the DAG of the deployment or of a corpus."""

    @dag(
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
        **dag_arguments(settings, __file__, "HEAL activate"),
    )
    def heal_activate() -> None:
        """Switch the live generation."""

        @task(
            outlets=[active_asset(settings.corpus)],
            doc_md="Switches in one transaction, with a lock timeout. "
            "Output: `heal.generation`, view `heal.embedding`.",
        )
        def activate(params: dict[str, Any] | None = None) -> Any:
            return announce(run_step("activate", refs={"generation_id": (params or {})["generation"]}))

        activate()

    heal_activate()


for_each_corpus(make)
