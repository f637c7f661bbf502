"""The page of the store in Airflow: rights, the switch through Airflow's API, empty states and faults as sentences."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.store.db import connect
from tests.report.test_store_search import TEXTS
from tests.store.sample_store import SampleStore

EVIL = "<script>alert('x & y')</script>"
RUNS = "/api/v2/dags/heal_activate/dagRuns"


class Airflow:
    """A stand-in for Airflow's application: the plugin's pages, and the part of the API that starts a run."""

    def __init__(self, plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse
        from fastapi.testclient import TestClient

        self.asked: list[tuple[Any, str | None]] = []
        self.states: dict[str, str] = {}  # of the runs of heal_activate
        monkeypatch.setattr("heal_pages.run_states", self.run_states)
        self.status = 200
        outer = FastAPI()
        for entry in plugin.HealReports.fastapi_apps:
            outer.mount(entry["url_prefix"], entry["app"])

        @outer.post(RUNS)
        async def start(request: Request) -> JSONResponse:
            self.asked.append((await request.json(), request.headers.get("cookie")))
            self.states["manual__1+00:00"] = "running"
            answers = {
                200: {"dag_run_id": "manual__1+00:00"},
                403: {"detail": "Forbidden"},
                409: {"detail": "it is there\n\nFailed validating in schema: {}"},
            }
            return JSONResponse(answers[self.status], self.status)

        self.client = TestClient(outer, follow_redirects=False)

    def run_states(self, run_ids: list[str], dag: str = "heal_realign") -> dict[str, str]:
        known = self.states if dag == "heal_activate" else {}
        return {run_id: known[run_id] for run_id in run_ids if run_id in known}

    def get(self, path: str, **fields: str) -> Any:
        return self.client.get(f"/heal/{path}", params=fields, headers={"accept": "text/html"})


@pytest.fixture
def airflow(plugin: ModuleType, viewer: None, monkeypatch: pytest.MonkeyPatch) -> Airflow:
    return Airflow(plugin, monkeypatch)


def publish(settings: Settings, title: str = "T") -> None:
    """Two generations with a lexicon, of which the second is live."""
    with connect(settings.require_database_url(), autocommit=True) as conn:
        store = SampleStore(conn)
        store.load(a=TEXTS["files"][1], b=TEXTS["valves"][1])
        conn.execute("UPDATE heal.document SET title = %s", (title,))
        for _ in range(2):
            made = store.generation()
            store.publish(made, store.wanted(made, leaf=0), kind="none")


def test_an_empty_store_says_what_to_do(airflow: Airflow) -> None:
    page = airflow.get("store")
    assert page.status_code == 200
    for sentence in (
        "Nothing is live: no run has ended yet. Trigger the DAG heal_realign.", "Nothing has been measured yet",
        "No generation yet.", "No map yet", "No call in the last twelve months", "Nothing is in quarantine",
    ):  # fmt: skip
        assert sentence in page.text
    assert airflow.get("search").status_code == 200
    assert "No generation is active yet" in airflow.get("search", q="file").text


def test_a_viewer_sees_all_and_can_switch_nothing(airflow: Airflow, settings: Settings) -> None:
    publish(settings)
    page = airflow.get("store").text
    assert "generation 2" in page
    assert "2 documents in 2 chunks" in page
    assert "activate?" not in page
    assert "takes the right to trigger the DAG heal_activate" in page
    refused = airflow.client.post("/heal/activate?generation=1", headers={"accept": "text/html"})
    assert (refused.status_code, airflow.asked) == (403, [])
    assert "You may not trigger the DAG heal_activate.</p>" in refused.text, "a page, and not of the right to read"


def test_what_becomes_of_vectors_of_retired_generations_is_shown(airflow: Airflow, settings: Settings) -> None:
    publish(settings)
    assert "its query vectors keep" not in airflow.get("store").text
    publish(settings)
    assert airflow.get("store").text.count("mapped, its query vectors keep 100.0 % of the recall") == 2


def test_an_operator_switches_by_a_form_that_starts_the_dag(
    airflow: Airflow, settings: Settings, airflow_user: Callable[[str | None], None]
) -> None:
    publish(settings)
    airflow_user("op")
    page = airflow.get("store").text
    assert page.count('method="post"') == 1, "the live generation has no button"
    assert 'action="activate?generation=1"' in page
    assert "Switch to generation 1" in page
    airflow.client.cookies.set("_token", "secret")
    done = airflow.client.post("/heal/activate?generation=1")
    assert airflow.asked == [({"logical_date": None, "conf": {"generation": 1}}, "_token=secret")]
    assert done.status_code == 303
    shown = airflow.client.get(f"/heal/{done.headers['location']}").text
    assert 'href="../dags/heal_activate/runs/manual__1%2B00%3A00" target="_top">manual__1+00:00</a>' in shown
    assert "of the DAG heal_activate: running. It takes some seconds" in shown
    airflow.states["manual__1+00:00"] = "failed"
    assert "of the DAG heal_activate: failed.</p>" in airflow.get("store", started="manual__1+00:00").text
    assert "of the DAG" not in airflow.get("store", started="no run\0").text, "a link can claim no switch"


def test_a_switch_that_airflow_refuses_or_another_site_asks_for(
    airflow: Airflow, airflow_user: Callable[[str | None], None]
) -> None:
    airflow_user("op")
    foreign = airflow.client.post("/heal/activate?generation=1", headers={"sec-fetch-site": "same-site"})
    assert (foreign.status_code, airflow.asked) == (403, [])
    assert airflow.client.post("/heal/activate?generation=0").status_code == 422
    airflow.status = 409
    refused = airflow.client.post("/heal/activate?generation=1")
    assert (refused.status_code, "it is there</p>" in refused.text) == (409, True)


def test_a_search_shows_hits_and_refusals_escaped(airflow: Airflow, settings: Settings) -> None:
    publish(settings, title=EVIL)
    page = airflow.get("search", q=f"who reads files {EVIL}").text
    assert "<mark>reads</mark>" in page
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    refused = airflow.get("search", q="file", filter=EVIL)
    assert (refused.status_code, "the filter must be a JSON object" in refused.text) == (200, True)
    assert EVIL not in refused.text
    assert EVIL not in airflow.get("store", started=EVIL).text


def test_a_search_shows_what_everybody_may_read_and_nothing_of_the_roles_of_the_pipeline(
    airflow: Airflow, settings: Settings
) -> None:
    publish(settings, "Hidden title")
    assert "Hidden title" in airflow.get("search", q="pipes files").text
    with connect(settings.require_database_url(), autocommit=True) as conn:
        conn.execute("UPDATE heal.document SET acl = ARRAY['role:' || session_user, 'role:heal_pipeline']")
    assert "Hidden title" not in airflow.get("search", q="pipes files").text


def test_a_missing_schema_or_server_is_a_sentence(
    airflow: Airflow, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(settings.require_database_url(), autocommit=True) as conn:
        conn.execute("ALTER TABLE heal.generation RENAME activated_at TO earlier")
        page = airflow.get("store")
        assert (page.status_code, "heal_tasks migrate" in page.text) == (503, True)
        conn.execute("ALTER FUNCTION heal.explain_find RENAME TO earlier")
        page = airflow.get("search", q="file")
        assert (page.status_code, "heal_tasks migrate" in page.text) == (503, True)
        conn.execute("DROP SCHEMA heal CASCADE")
    for path in ("store", "search?q=file"):
        page = airflow.get(path)
        assert (page.status_code, "heal_tasks migrate" in page.text) == (503, True)
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/heal")
    for path in ("store", "search?q=file"):
        page = airflow.get(path)
        assert (page.status_code, "HEAL_DATABASE_URL" in page.text) == (503, True)


def test_every_address_of_the_pages_is_relative(airflow: Airflow, settings: Settings) -> None:
    import re

    publish(settings)
    for path in ("store", "search?q=file"):
        addresses = re.findall(r'(?:href|action|src)="([^"]*)"', airflow.get(path).text)
        assert addresses
        assert not [address for address in addresses if re.match("/|[a-z]+:", address)]


def test_the_navigation_entry_points_to_the_page(plugin: ModuleType) -> None:
    import heal_store_page

    (view,) = heal_store_page.HealStorePage.external_views
    assert f"/{view['href'].removeprefix('heal/')}" in [route.path for route in plugin.build_app("").routes]


def test_the_pages_load_no_drawing_library(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, heal_tasks.report.store_charts, heal_tasks.report.store_map, heal_tasks.report.store_search; "
        "print(sorted(set(sys.modules) & {'matplotlib', 'sklearn', 'scipy', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
