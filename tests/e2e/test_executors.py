"""The same run by LocalExecutor, by Celery with a worker that is killed, and by an Edge worker: the same store.

For `make soak`: three deployments take some minutes, and Celery and Edge are no requirements of the project.
"""

from pathlib import Path

import pytest

from tests.e2e.cluster import (
    Table,
    assert_same,
    cluster,
    contents,
    redis,
    started_run,
    wait_until,
    what_is_missing,
)

pytestmark = [
    pytest.mark.skipif("not config.getoption('--soak')", reason="make soak runs it (--soak)"),
    pytest.mark.skipif(bool(what_is_missing()), reason=f"of requirements-scale.txt: {what_is_missing()}"),
]
CHECKPOINT = "training/*/checkpoint-2/trainer_state.json"


@pytest.fixture(scope="module")
def expected(inbox: str) -> dict[str, Table]:
    """The store of a run by LocalExecutor."""
    with cluster("local", inbox) as running:
        running.finish(started_run(running))
        return contents(running.up.database_url)


def test_celery_with_a_killed_worker_ends_in_the_same_store(
    inbox: str, expected: dict[str, Table], tmp_path: Path
) -> None:
    with (
        redis(tmp_path) as broker,
        cluster(
            "celery", inbox,
            AIRFLOW__CORE__EXECUTOR="CeleryExecutor",
            AIRFLOW__CELERY__BROKER_URL=broker,
            AIRFLOW__CELERY__RESULT_BACKEND="db+{metadata}",
            AIRFLOW__CELERY__OPERATION_TIMEOUT="30",
            AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="20",
        ) as running,
    ):  # fmt: skip
        gpu = ("celery", "worker", "--queues", "gpu", "--concurrency", "1", "--celery-hostname", "gpu@%h", "-s")
        cpu = ("celery", "worker", "--queues", "default", "--concurrency", "2", "--celery-hostname", "cpu@%h", "-s")
        running.start_worker("gpu", *gpu)
        running.start_worker("cpu", *cpu)
        run_id = started_run(running)
        wait_until(lambda: list((running.folder / "gpu").glob(CHECKPOINT)), lambda: f"no checkpoint: {running.tasks()}")
        running.kill_worker("gpu")
        running.start_worker("gpu", *gpu)
        running.finish(run_id)

        tasks = running.tasks()
        assert {(queue, worker) for _, _, worker, queue, _, _ in tasks} == {("default", "cpu"), ("gpu", "gpu")}
        assert {(task, shard) for task, shard, worker, *_ in tasks if worker == "cpu"} >= {
            ("realign.ask", 0), ("realign.ask", 1),
        }  # fmt: skip
        assert {(task, shard) for task, shard, worker, *_ in tasks if worker == "gpu"} >= {
            ("realign.embed", 0), ("realign.embed", 1), ("realign.train", 0),
        }  # fmt: skip
        assert sorted(state for task, *_, state in tasks if task == "realign.train") == ["failed", "success"]
        assert_same(contents(running.up.database_url), expected)


def test_edge_beside_the_local_executor_ends_in_the_same_store(inbox: str, expected: dict[str, Table]) -> None:
    with cluster(
        "edge", inbox,
        AIRFLOW__CORE__EXECUTOR="LocalExecutor,gpu:airflow.providers.edge3.executors.EdgeExecutor",
        AIRFLOW__EDGE__API_ENABLED="True",
        AIRFLOW__EDGE__API_URL="http://127.0.0.1:{port}/edge_worker/v1/rpcapi",
        AIRFLOW__EDGE__JOB_POLL_INTERVAL="1",
        # How long a request of the worker is valid; by default 10 s, which a busy machine exceeds.
        AIRFLOW__API_AUTH__JWT_LEEWAY="120",
    ) as running:  # fmt: skip
        command = ("edge", "worker", "--queues", "gpu", "--concurrency", "1", "--edge-hostname", "gpu")
        # Airflow's database is not the worker's business.
        running.start_worker(
            "gpu", *command, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql+psycopg://127.0.0.1:1/none"
        )
        running.finish(started_run(running))
        tasks = running.tasks()
        assert {worker for *_, worker, queue, _, _ in tasks if queue == "gpu"} == {"gpu"}
        assert "gpu" not in {worker for *_, worker, queue, _, _ in tasks if queue == "default"}
        assert {executor for *_, queue, executor, _ in tasks if queue == "gpu"} == {"gpu"}
        assert_same(contents(running.up.database_url), expected)
