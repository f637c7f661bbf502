"""A DAG of two tasks, one of them mapped, for the test of the local stack."""

from datetime import UTC, datetime

from airflow.sdk import dag, task


@dag(
    dag_id="tiny", schedule="0 2 * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False,
    is_paused_upon_creation=True, max_active_runs=1, params={"seconds": 0},
)  # fmt: skip
def tiny() -> None:
    """Sleep twice, then say so."""

    @task
    def shard(number: int, params: dict[str, int] | None = None) -> int:
        import time

        time.sleep((params or {}).get("seconds", 0))
        return number

    @task
    def report(numbers: list[int]) -> int:
        return sum(numbers)

    report(shard.expand(number=[1, 2]))


tiny()
