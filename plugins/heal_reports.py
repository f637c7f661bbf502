"""Browse › HEAL runs: the list of runs with route, reason and verdict, and the page of each run."""

from functools import cache
from typing import TYPE_CHECKING, Annotated

import heal_pages
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


@cache
def build_app() -> "FastAPI":
    """The pages; Airflow mounts them at ``/heal``."""
    from fastapi import Depends, HTTPException, Query
    from fastapi.responses import HTMLResponse

    from heal_tasks.core.artifacts import artifact_store
    from heal_tasks.core.settings import load_settings
    from heal_tasks.core.text import unstorable
    from heal_tasks.report.page import read_page
    from heal_tasks.store.db import Connection
    from heal_tasks.store.runs.runs import RunRepository

    app = heal_pages.new_app()
    database = Annotated[Connection, Depends(heal_pages.database)]

    @app.get("/runs")
    def runs(conn: database, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> HTMLResponse:
        return heal_pages.page("runs.html.jinja", "runs", runs=RunRepository(conn).recent_runs(limit))

    @app.get("/report")
    def report(conn: database, run_id: str) -> HTMLResponse:
        page = None
        if not unstorable(run_id):  # else it can be no run's
            page = read_page(conn, artifact_store(load_settings()), run_id)
        if page is None:
            raise HTTPException(404, f"run {run_id[:200]!r} has no report")
        return HTMLResponse(page)

    return app


async def application(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Serve the pages, which are built at the first request."""
    await build_app()(scope, receive, send)


class HealReports(AirflowPlugin):
    """The pages and their entry in the navigation."""

    name = "heal_reports"
    fastapi_apps = [{"app": application, "url_prefix": heal_pages.PREFIX, "name": "HEAL runs"}]  # noqa: RUF012 - Airflow's interface
    external_views = [  # noqa: RUF012 - Airflow's interface
        {
            "name": "HEAL runs",
            "href": "heal/runs",
            "destination": "nav",
            "category": "browse",
            "url_route": "heal-runs",
        }
    ]
