"""Gauges of store, quality and money for Airflow's metrics, whichever of StatsD, Datadog and OpenTelemetry it sends to.

They are sent when a run's report is written and by the nightly maintenance, so that an old generation shows even where
no run succeeds. Times and failures of tasks are among Airflow's own metrics. StatsD drops tags, so names have all.
"""

import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heal_tasks.core.settings import Settings
    from heal_tasks.report.summary import Summary
    from heal_tasks.store.runs.runs import EvaluationRow

LAST_STEPS = ("report", "maintain")
"""Steps after which the gauges are sent."""


def emit_metrics(settings: "Settings", step: str) -> None:
    """Send the gauges after one of ``LAST_STEPS``, if Airflow sends metrics; no fault of it fails the step."""
    if step not in LAST_STEPS:
        return
    from airflow.configuration import conf
    from airflow.sdk.observability import stats

    from heal_tasks.report.summary import summarise
    from heal_tasks.store.db import connect
    from heal_tasks.store.runs.runs import RunRepository

    if not any(conf.getboolean("metrics", name) for name in ("statsd_on", "statsd_datadog_enabled", "otel_on")):
        return
    try:
        with connect(settings.require_database_url(), autocommit=True) as conn:
            runs = RunRepository(conn).recent_runs(1)
            summary = summarise(conn, runs[0].run_id) if runs else None
        for name, value in gauges(summary).items() if summary else ():
            stats.gauge(f"heal.{name}", value)
    except Exception as error:
        logging.getLogger(__name__).warning("no metrics were sent (%s)", type(error).__name__)


def gauges(summary: "Summary") -> dict[str, float]:
    """Gauges by name, without the prefix ``heal``, from the facts of the newest run."""
    from heal_tasks.core.metrics import NDCG

    values: dict[str, float] = {
        "documents": summary.documents["documents"],
        "chunks": summary.documents["chunks"],
        "chunks_not_served": summary.unserved.chunks,
        "quarantined": len(summary.quarantined),
        "llm.cost_usd": sum(row.cost_usd for row in summary.ledger),
    }
    if summary.active and summary.active.activated_at:
        values["generation.id"] = summary.active.generation_id
        age_s = (datetime.now(UTC) - summary.active.activated_at).total_seconds()
        values["generation.age_hours"] = max(age_s, 0.0) / 3600  # the clocks of two machines differ
        for row in _of_served(summary):  # of a nudged generation the last row of a set is the state after it
            if row.metric == NDCG:
                values[f"quality.ndcg.{re.sub('[^a-z0-9]+', '_', row.question_set.lower())}"] = row.value
    return values


def _of_served(summary: "Summary") -> "list[EvaluationRow]":
    """Measurements of what is live after the newest run: the promoted candidate's, or else the live generation's."""
    refs = next((row.result["refs"] for row in summary.steps if row.step == "choose" and row.result), {})
    live_id = summary.active.generation_id if summary.active else 0
    if live_id == refs.get("best_id"):
        return [row for row in summary.evaluations if row.system == refs["best_system"]]
    # A generation that takes over the vectors of the one before has its quality.
    return [row for row in summary.evaluations if row.generation_id == refs.get("live_id", live_id)]
