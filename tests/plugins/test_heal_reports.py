"""The report pages: closed to strangers, escaped, light to load, and right on a real database."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.settings import Settings, child_environment
from heal_tasks.report.page import SAMPLES
from heal_tasks.store.db import connect
from heal_tasks.store.runs.runs import RunRepository

ROOT = Path(__file__).parents[2]
RUN = "manual__2026-01-02T03:04:05+00:00"


@pytest.fixture(scope="module")
def plugin(plugins: None) -> ModuleType:
    import heal_reports

    return heal_reports


def client(plugin: ModuleType) -> Any:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    outer = FastAPI()
    for entry in plugin.HealReports.fastapi_apps:
        outer.mount(entry["url_prefix"], entry["app"])
    return TestClient(outer)


@pytest.fixture
def anonymous(plugin: ModuleType) -> Any:
    return client(plugin)


@pytest.fixture
def logged_in(
    plugin: ModuleType, settings: Settings, monkeypatch: pytest.MonkeyPatch, airflow_user: Callable[[str | None], None]
) -> Any:
    monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    airflow_user("viewer")
    return client(plugin)


def write_run(
    settings: Settings, *, page: str | None = f"<h1>the report</h1>{SAMPLES}", reason: str = "first run"
) -> None:
    artifacts = artifact_store(settings)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        runs = RunRepository(conn)
        runs.open_run(RUN)
        runs.set_route(RUN, "realign", reason, {})
        if page is not None:
            with artifacts.writing("reports/one") as folder:
                (folder / "report.html").write_text(page, encoding="utf-8")
            runs.finish_run(RUN, "Promoted.", report_uri=artifacts.uri("reports/one"))


def test_every_route_refuses_strangers(plugin: ModuleType, anonymous: Any) -> None:
    paths = [route.path for route in plugin.build_app().routes]
    assert sorted(paths) == ["/report", "/runs"]
    for path in paths:
        assert anonymous.get(f"/heal{path}?run_id=x").status_code == 401
        assert anonymous.get(f"/heal{path}?run_id=x", headers={"Authorization": "Basic YTpi"}).status_code == 401


def test_the_list_shows_a_run_and_its_link_opens_the_report(settings: Settings, logged_in: Any) -> None:
    write_run(settings)
    listed = logged_in.get("/heal/runs")
    assert listed.status_code == 200
    for text in (RUN, "realign", "first run", "Promoted."):
        assert text in listed.text
    link = f"report?run_id={quote(RUN, safe='')}"
    assert f'href="{link}"' in listed.text
    opened = logged_in.get(f"/heal/{link}")
    assert opened.text.strip() == "<h1>the report</h1>", "there are no samples in the place of them"
    assert "default-src 'none'" in opened.headers["content-security-policy"]


def test_texts_are_escaped(settings: Settings, logged_in: Any) -> None:
    write_run(settings, reason="<script>alert(1)</script>")
    text = logged_in.get("/heal/runs").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text


def test_a_running_run_has_no_link(settings: Settings, logged_in: Any) -> None:
    write_run(settings, page=None)
    text = logged_in.get("/heal/runs").text
    assert RUN in text
    assert "running" in text
    assert "report?" not in text
    assert logged_in.get("/heal/report", params={"run_id": RUN}).status_code == 404


def test_without_any_run_it_says_what_to_do(logged_in: Any) -> None:
    assert "Trigger the DAG heal_realign" in logged_in.get("/heal/runs").text


def test_a_missing_page_schema_or_server_is_reported(
    settings: Settings, logged_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logged_in.get("/heal/report", params={"run_id": "unknown"}).status_code == 404
    write_run(settings)
    artifact_store(settings).delete(artifact_store(settings).uri("reports/one"))
    gone = logged_in.get("/heal/report", params={"run_id": RUN})
    assert (gone.status_code, "missing or incomplete" in gone.text) == (503, True)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        conn.execute("DROP SCHEMA heal CASCADE")
    unmigrated = logged_in.get("/heal/runs")
    assert (unmigrated.status_code, "heal_tasks migrate" in unmigrated.text) == (503, True)
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/heal")
    unreachable = logged_in.get("/heal/runs")
    assert (unreachable.status_code, "HEAL_DATABASE_URL" in unreachable.text) == (503, True)


def test_the_limit_is_checked(logged_in: Any) -> None:
    assert logged_in.get("/heal/runs", params={"limit": 0}).status_code == 422


def test_the_navigation_entry_points_to_a_page_that_exists(plugin: ModuleType) -> None:
    (view,) = plugin.HealReports.external_views
    (mounted,) = plugin.HealReports.fastapi_apps
    assert (view["destination"], view["category"]) == ("nav", "browse")
    assert f"/{view['href']}".removeprefix(mounted["url_prefix"]) in [route.path for route in plugin.build_app().routes]


def test_loading_the_plugin_loads_no_web_framework_and_no_driver(tmp_path: Path) -> None:
    code = (
        "import sys, heal_reports; print(sorted(set(sys.modules) & "
        "{'fastapi', 'psycopg', 'torch', 'matplotlib', 'numpy', 'boto3', 'airflow.api_fastapi.core_api.security'}))"
    )
    env = child_environment(AIRFLOW_HOME=str(tmp_path), PYTHONPATH=f"{ROOT}:{ROOT / 'plugins'}")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
