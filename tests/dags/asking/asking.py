"""A DAG of the operator that writes questions, mapped over two shards, for the test of its deferral."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import dag, get_current_context, task
from heal_airflow import RETRIES
from heal_batches import StepOperator

from heal_tasks.steps.writing import batch_sending

batch_sending.BATCH_POLL_S = 0.2  # every task reads this file before it runs


@dag(
    dag_id="asking", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, default_args=RETRIES,
)  # fmt: skip
def asking() -> None:
    """Ask, then add up."""

    @task(multiple_outputs=False)
    def routed() -> Any:
        return {"run_id": get_current_context()["run_id"], "refs": {"route": "realign"}}

    @task
    def total(manifests: list[Any]) -> int:
        return sum(manifest["counts"]["asked"] for manifest in manifests)

    asked = StepOperator.partial(task_id="ask", step="ask", manifest=routed(), shards=2).expand(shard=[0, 1])
    total(asked.output)


asking()
