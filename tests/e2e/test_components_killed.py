"""SIGKILL to each of Airflow's processes in the middle of a run: once it is back, the run ends in the same store.

For ``make soak``: two deployments take minutes. The language model works in batches, which the triggerer waits for.
"""

from collections.abc import Callable

import pytest

from tests.e2e.cluster import Cluster, Table, assert_same, cluster, contents, started_run, wait_until
from tests.fake_batches import FakeBatches
from tests.fake_openai import FakeOpenAI

KILLS = (
    ("triggerer", "realign.ask", "deferred"),
    ("api-server", "realign.embed_base", "running"),
    ("scheduler", "realign.train", "running"),
    ("dag-processor", "realign.choose", "running"),
)
"""A process, and the state of a task in which it is killed."""
SOONER = {
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
}
"""Seconds after which a process that is silent counts as dead."""


def kill_all(running: Cluster, run_id: str, table: Callable[[str], None]) -> None:
    """Kill one process after the other, each in its task, and bring it back."""
    for component, task, state in KILLS:
        wait_until(
            lambda: (task, state) in {(name, now) for name, *_, now in running.tasks()},  # noqa: B023 - called here
            lambda: f"{task} is not {state}: {running.tasks()}",  # noqa: B023 - called here
        )
        running.kill(component)
        running.revive()
        table(f"{component:14} killed while {task} was {state}")
    running.finish(run_id)
    tries = sorted(task for task, *_, state in running.tasks() if state == "failed")
    table(f"tries that failed and were repeated: {', '.join(tries) or 'none'}; the store is as undisturbed")


@pytest.mark.usefixtures("soaking")
def test_a_run_outlives_each_process_of_airflow(inbox: str, table: Callable[[str], None]) -> None:
    stores, asked = list[dict[str, Table]](), list[list[str]]()
    for disturbed in (False, True):
        with FakeOpenAI(batches=FakeBatches(polls=2)) as model:
            options = {"llm_base_url": model.base_url, "llm_api_key": "key", "llm_batch": "on"}
            with cluster(f"killed-{disturbed}", inbox, options, **SOONER) as running:
                run_id = started_run(running)
                if disturbed:
                    kill_all(running, run_id, table)
                else:
                    running.finish(run_id)
                stores.append(contents(running.up.database_url))
            asked.append(sorted(request.passage for request in model.batched))
            assert not model.requests
    assert asked[0] == asked[1]  # the model is paid once
    assert_same(*stores)
