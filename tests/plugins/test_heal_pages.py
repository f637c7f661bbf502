"""The shared base of the plugin's pages: closed to strangers, one script, light to load."""

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from heal_tasks.core.environment import child_environment

ROOT = Path(__file__).parents[2]
RUN = "manual__2026-01-02T03:04:05+00:00"


def test_every_route_demands_a_login(plugin: ModuleType, anonymous: Any) -> None:
    routes = [(route.path, method) for route in plugin.build_app("").routes for method in route.methods]
    assert {"/report", "/runs"} <= {path for path, _ in routes}
    for path, method in routes:
        for headers in ({}, {"Authorization": "Basic YTpi"}, {"Accept": "application/json"}):
            refused = anonymous.request(method, f"/heal{path}?run_id=x", headers=headers)
            assert refused.status_code == 401, (method, path)


def test_a_browser_without_a_login_comes_back_after_it(anonymous: Any) -> None:
    address = f"/heal/report?run_id={quote(RUN, safe='')}&x=%26"
    sent = anonymous.get(address, headers={"Accept": "text/html,*/*"}, follow_redirects=False)
    assert sent.status_code == 303
    assert sent.headers["location"] == f"/api/v2/auth/login?next={quote(address, safe='')}"


def test_a_form_without_a_login_leads_to_the_login_and_the_first_page(anonymous: Any) -> None:
    sent = anonymous.post("/heal/activate?generation=1", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (sent.status_code, sent.headers["location"]) == (303, "/api/v2/auth/login?next=%2Fheal%2Fstore")


def test_the_cookie_of_another_installation_leads_to_the_login(plugin: ModuleType, anonymous: Any) -> None:
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import HTTPException

    def refuse() -> None:
        raise HTTPException(403, "Invalid JWT token")

    app = plugin.build_app("")
    app.dependency_overrides[get_user] = refuse
    try:
        sent = anonymous.get("/heal/runs", headers={"Accept": "text/html"}, follow_redirects=False)
    finally:
        app.dependency_overrides.clear()
    assert sent.status_code == 303


def test_who_may_not_see_the_runs_of_the_dag_sees_no_page(
    plugin: ModuleType, logged_in: Any, airflow_user: Callable[[str | None], None]
) -> None:
    airflow_user(None)
    for route in plugin.build_app("").routes:
        for method in route.methods:
            assert logged_in.request(method, f"/heal{route.path}?run_id=x").status_code == 403
    page = logged_in.get("/heal/runs", headers={"Accept": "text/html"})
    assert "You may not read the runs of heal_realign." in page.text


def test_only_the_script_of_the_pages_may_run(plugin: ModuleType, logged_in: Any) -> None:
    answer = logged_in.get("/heal/runs")
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in answer.headers["content-security-policy"]


def test_loading_the_plugin_loads_no_web_framework_and_no_driver(tmp_path: Path) -> None:
    code = (
        "import sys, heal_reports; print(sorted(set(sys.modules) & "
        "{'fastapi', 'psycopg', 'torch', 'matplotlib', 'numpy', 'boto3', 'airflow.api_fastapi.core_api.security'}))"
    )
    env = child_environment(AIRFLOW_HOME=str(tmp_path), PYTHONPATH=f"{ROOT}:{ROOT / 'plugins'}")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
