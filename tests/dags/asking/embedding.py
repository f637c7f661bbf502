"""A DAG of the operator that embeds, after mapped tasks, for the test of its deferral."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import dag, get_current_context, task
from heal_airflow import RETRIES
from heal_batches import StepOperator

from heal_tasks.steps.writing import batch_sending

batch_sending.BATCH_POLL_S = 0.2  # every task reads this file before it runs


@dag(
    dag_id="embedding", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False,
    default_args=RETRIES,
)  # fmt: skip
def embedding() -> None:
    """Embed, then add up."""

    @task(multiple_outputs=False)
    def trained(objective: int) -> Any:
        return {"run_id": get_current_context()["run_id"], "refs": {"route": "realign", f"model_{objective}": ""}}

    @task
    def total(manifests: list[Any]) -> int:
        assert all(manifest["refs"].keys() >= {"model_0", "model_1"} for manifest in manifests)
        return sum(manifest["counts"]["chunks"] for manifest in manifests)

    embedded = StepOperator.partial(
        task_id="embed", step="embed", manifest=trained.expand(objective=[0, 1]), shards=2
    ).expand(shard=[0, 1])
    total(embedded.output)


embedding()
