"""A DAG of your own that runs whenever another generation goes live, or rows of the live one have changed."""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, dag, task

LIVE = Asset("heal://generation/active")


@dag(dag_id="after_generation", schedule=[LIVE], start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False)
def after_generation() -> None:
    """Tell what has changed."""

    @task
    def tell(triggering_asset_events: Any = None) -> None:
        for event in triggering_asset_events[LIVE]:
            live = event.extra
            print(f"generation {live['generation']} by {live['model']}: {live['verdict']} {live['counts']}")  # noqa: T201

    tell()


after_generation()
