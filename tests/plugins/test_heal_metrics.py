"""Gauges of a store, as a StatsD server receives them from Airflow's own client."""

import socket

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.report.summary import summarise
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository
from tests.store.sample_store import SampleStore


@pytest.mark.usefixtures("plugins")
def test_the_gauges_arrive_at_a_statsd_server(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    from heal_metrics import emit_metrics

    store, runs = SampleStore(auto), RunRepository(auto)
    store.load_many(3)
    store.publish(store.generation())
    store.load(new="a|b")
    runs.open_run("night")
    for number, system in ((0.5, "live before"), (0.75, "live after")):
        row = EvaluationRow(1, system, "unseen documents, by text", "ndcg@10", number, *[None] * 6, questions=9)
        runs.record_evaluations("night", [row])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        for name, value in {"ON": "True", "HOST": "127.0.0.1", "PORT": str(server.getsockname()[1])}.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__STATSD_{name}", value)
        stats.initialize(factory=get_stats_factory(), export_legacy_names=False)
        emit_metrics(settings, "ingest")  # nothing yet
        emit_metrics(settings, "report")
        found = dict(server.recv(1000).decode().split(":") for _ in range(8))
    age = float(found.pop("airflow.heal.generation.age_hours").removesuffix("|g"))
    assert 0 < age < 0.1
    assert found == {
        "airflow.heal.documents": "4|g",
        "airflow.heal.chunks": "5|g",
        "airflow.heal.chunks_not_served": "2|g",
        "airflow.heal.quarantined": "0|g",
        "airflow.heal.llm.cost_usd": "0|g",
        "airflow.heal.generation.id": "1|g",
        "airflow.heal.quality.ndcg.unseen_documents_by_text": "0.75|g",
    }


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(("best_id", "expected"), [(2, 0.8), (3, 0.6)])
def test_the_quality_is_that_of_what_went_live(auto: Connection, best_id: int, expected: float) -> None:
    """A promoted candidate was measured before it had a number; where it lost, the live generation's vectors stay."""
    from heal_metrics import gauges

    store, runs = SampleStore(auto), RunRepository(auto)
    store.load_many(2)
    for _ in range(2):
        store.publish(store.generation())
    runs.open_run("night")
    runs.begin("choose", "key", 0, "night")
    refs = {"best_id": best_id, "best_system": "answers model", "live_id": 1}
    runs.finish("choose", "key", 0, "night", {"refs": refs, "counts": {}})
    for number, value, system in ((None, 0.5, "base model"), (1, 0.6, "live generation"), (None, 0.8, "answers model")):
        row = EvaluationRow(number, system, "unseen documents", "ndcg@10", value, *[None] * 6, questions=9)
        runs.record_evaluations("night", [row])
    summary = summarise(auto, "night")
    assert summary is not None
    assert gauges(summary)["quality.ndcg.unseen_documents"] == expected


@pytest.mark.usefixtures("plugins")
def test_a_store_that_cannot_be_read_fails_no_step(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from heal_metrics import emit_metrics

    gone = Settings(**{**settings.model_dump(), "database_url": "postgresql://heal@127.0.0.1:1/gone"})
    emit_metrics(gone, "maintain")
    assert not caplog.text  # Airflow sends no metrics, so nothing is read
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    emit_metrics(gone, "maintain")
    assert "no metrics were sent (RetryableError)" in caplog.text
