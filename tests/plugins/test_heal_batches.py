"""Batches in a real Airflow: the task defers, the trigger polls by itself, and no key is stored."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Waiting
from heal_tasks.store.db import Connection
from tests.dags.airflow_commands import ROOT, Airflow, started
from tests.fake_batches import FakeBatches, Job
from tests.fake_embeddings import FakeEmbeddings
from tests.fake_openai import FakeOpenAI, Reply, error
from tests.steps.asking import add, number

KEY = "secret-key-123"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """An Airflow with the DAGs in ``tests/dags/asking``."""
    with started(tmp_path_factory.mktemp("airflow"), ROOT / "tests" / "dags" / "asking", HEAL_LLM_BATCH="on") as made:
        yield made


def dags_test(airflow: Airflow, dag_id: str, settings: Settings, **variables: str) -> str:
    """Run a DAG, and return the log."""
    places = {"HEAL_VAR_DIR": str(settings.var_dir), "HEAL_DATABASE_URL": settings.require_database_url()}
    status, log = airflow.test(dag_id, **places, **variables)
    assert status == 0, log[-3000:]
    assert KEY not in log
    assert KEY.encode() not in airflow.database.read_bytes()
    return log


def test_the_task_defers_and_resumes_with_the_replies(auto: Connection, settings: Settings, airflow: Airflow) -> None:
    add(auto, range(12))
    memory = FakeBatches(polls=3)
    with FakeOpenAI(batches=memory) as fake:
        log = dags_test(airflow, "asking", settings, HEAL_LLM_BASE_URL=fake.base_url, HEAL_LLM_API_KEY=KEY)
        assert log.count("running trigger in line") == len(memory.jobs) == 2
        assert len(fake.batched) == 12
        assert not fake.requests
        assert all(job.polls >= 3 for job in memory.jobs.values())
        asked = (fake.input_tokens, fake.output_tokens)
    assert number(auto, "SELECT count(*) FROM heal.chunk_asked") == 12
    assert auto.execute("SELECT sum(input_tokens), sum(output_tokens) FROM heal.llm_call").fetchone() == asked


def test_a_task_that_embeds_defers_and_resumes_with_the_vectors(
    auto: Connection, settings: Settings, airflow: Airflow
) -> None:
    add(auto, range(12))
    memory = FakeBatches(polls=3)
    with FakeEmbeddings(batches=memory) as fake:
        log = dags_test(
            airflow, "embedding", settings,
            HEAL_MODEL="openai:small", HEAL_EMBED_BASE_URL=fake.base_url, HEAL_EMBED_API_KEY=KEY,
        )  # fmt: skip
        assert log.count("running trigger in line") == len(memory.jobs) == 2
        assert all(job.polls >= 3 for job in memory.jobs.values())
        assert len(fake.paid) == 12 + 1, "beside the text that measures the dimensions"
        assert set(fake.paid.values()) == {1}
    assert number(auto, "SELECT count(*) FROM heal.base_s000001") == 12


@pytest.fixture(scope="module")
def plugin(plugins: None) -> ModuleType:
    import heal_batches

    return heal_batches


def test_the_wait_for_a_batch_has_no_time_limit_of_its_task(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    def wait(*values: object, **named: object) -> None:
        raise Waiting("under way", ["b"], poll_s=60, wait_s=86_400)

    monkeypatch.setattr(plugin, "run_step", wait)
    task = plugin.StepOperator(task_id="ask", step="ask", manifest={}, execution_timeout=timedelta(seconds=1))
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({})
    assert deferred.value.timeout is None, "Airflow would end the wait then"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    with FakeOpenAI(batches=FakeBatches(polls=0)) as server:
        monkeypatch.setenv("HEAL_LLM_BASE_URL", server.base_url)
        monkeypatch.setenv("HEAL_LLM_API_KEY", KEY)
        assert server.batches is not None
        server.batches.jobs["b"] = Job({"id": "b", "status": "in_progress", "request_counts": None}, {})
        yield server


def events(plugin: ModuleType, *, ids: tuple[str, ...] = ("b",), wait_s: float = 30.0) -> list[Any]:
    """What a trigger yields, built again from what Airflow stores of it."""
    name, arguments = plugin.BatchTrigger(ids, 0.01, time.time() + wait_s).serialize()
    assert name == f"{plugin.__name__}.BatchTrigger"
    assert KEY not in str(arguments)

    async def collect() -> list[Any]:
        return [event.payload async for event in plugin.BatchTrigger(**arguments).run()]

    return asyncio.run(collect())


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled", "failed"])
def test_the_trigger_fires_when_a_batch_has_ended(plugin: ModuleType, fake: FakeOpenAI, status: str) -> None:
    assert fake.batches is not None
    fake.batches.polls = 4
    fake.batches.end = lambda job: setattr(job, "status", status)
    assert events(plugin) == [{"batch_ids": ["b"]}]
    assert fake.batches.looks == 4


def test_the_trigger_goes_on_looking_while_the_endpoint_is_in_trouble(plugin: ModuleType, fake: FakeOpenAI) -> None:
    memory = fake.batches
    assert memory is not None
    troubles = [error(503, "down"), error(429, "slow"), Reply("", fault="drop"), Reply("<html>", 502)]

    def trouble(job: Job) -> Reply | None:
        if troubles:
            return troubles.pop()
        job.status = "completed"
        return None

    memory.on_look = trouble
    assert len(events(plugin)) == 1
    assert not troubles


@pytest.mark.parametrize(
    "reply",
    [
        error(401, "no such key"),
        Reply("<html>Sign in</html>"),
        Reply({"error": {"code": 402, "message": "pay"}}),
        Reply([1]),
        Reply("", 302, {"Location": "https://login.example"}),
        Reply(b" " * 65536, fault="endless"),
    ],
    ids=["refused", "page", "error in 200", "list", "redirect", "endless"],
)
def test_the_trigger_wakes_a_worker_where_it_gets_no_batch(plugin: ModuleType, fake: FakeOpenAI, reply: Reply) -> None:
    assert fake.batches is not None
    fake.batches.on_look = lambda job: reply
    assert len(events(plugin)) == 1
    assert fake.batches.looks == 1


def test_the_triggerer_does_not_load_the_client() -> None:
    code = (
        "import sys; import heal_tasks.core.settings, heal_tasks.core.types; "
        "print(sorted(set(sys.modules) & {'openai', 'psycopg', 'torch', 'numpy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_trigger_stops_at_its_deadline(plugin: ModuleType, fake: FakeOpenAI) -> None:
    assert len(events(plugin, wait_s=2.0)) == 1
    assert fake.batches is not None
    fake.batches.looks = 0
    assert len(events(plugin, ids=())) == len(events(plugin, wait_s=-1.0)) == 1
    assert fake.batches.looks == 0
