"""Browse › HEAL runs: the list of runs with route, reason and verdict, and the page of each run."""

from functools import cache
from typing import TYPE_CHECKING, Annotated

import heal_pages
import heal_store_page
from airflow.plugins_manager import AirflowPlugin
from heal_connections import connected_artifacts

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


@cache
def build_app() -> "FastAPI":
    """The pages; Airflow mounts them at ``/heal``."""
    from fastapi import Depends, HTTPException
    from fastapi.responses import HTMLResponse

    from heal_tasks.core.text import unstorable
    from heal_tasks.report.page import read_page
    from heal_tasks.report.run_list import list_runs, state_of
    from heal_tasks.store.db import Connection
    from heal_tasks.store.runs.runs import RunRepository

    app = heal_pages.new_app()
    database = Annotated[Connection, Depends(heal_pages.database)]

    def check_dag(dag_id: str) -> None:
        # Airflow shows the tabs on every DAG.
        if dag_id != heal_pages.DAG_ID:
            raise HTTPException(404, f"Only runs of {heal_pages.DAG_ID} have reports.")

    @app.get("/runs")
    def runs(conn: database, before: str = "", dag_id: str = heal_pages.DAG_ID) -> HTMLResponse:
        check_dag(dag_id)
        page = list_runs(conn, heal_pages.run_states, None if unstorable(before) else before or None)
        return heal_pages.page("runs.html.jinja", "runs", page=page, before=before)

    @app.get("/report")
    def report(conn: database, run_id: str, dag_id: str = heal_pages.DAG_ID) -> HTMLResponse:
        check_dag(dag_id)
        if unstorable(run_id):  # it can be no run's
            raise HTTPException(404, f"There is no run {run_id[:200]!r}.")
        known = heal_pages.run_states([run_id]).get(run_id)
        in_airflow = run_id if known else ""
        if html := read_page(conn, connected_artifacts(), run_id):
            return heal_pages.stored_page(html, in_airflow)
        repository = RunRepository(conn)
        run = repository.get_run(run_id)
        if run:
            state, tone = state_of(run, known, repository.working_runs())
        elif known:
            state, tone = known, "busy" if known in ("queued", "running") else "bad"
        else:
            raise HTTPException(404, f"There is no run {run_id[:200]!r}.")
        values = {"name": run_id, "run": run, "state": state, "tone": tone, "steps": repository.steps_of(run_id)}
        return heal_pages.page("run_so_far.html.jinja", run_id=in_airflow, **values)

    heal_store_page.add_routes(app)
    return app


async def application(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Serve the pages, which are built at the first request."""
    await build_app()({**scope, "airflow": scope.get("app")}, receive, send)


class HealReports(AirflowPlugin):
    """The pages and their entry in the navigation."""

    name = "heal_reports"
    fastapi_apps = [{"app": application, "url_prefix": heal_pages.PREFIX, "name": "HEAL runs"}]  # noqa: RUF012 - Airflow's interface
    external_views = [  # noqa: RUF012 - Airflow's interface; a leading slash would break behind a proxy that adds a prefix
        {
            "name": "HEAL runs",
            "href": "heal/runs",
            "destination": "nav",
            "category": "browse",
            "url_route": "heal-runs",
        },
        {"name": "HEAL runs", "href": "heal/runs?dag_id={DAG_ID}", "destination": "dag", "url_route": "heal-dag-runs"},
        {
            "name": "HEAL report",
            "href": "heal/report?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "heal-report",
        },
    ]
