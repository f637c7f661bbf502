"""Browse › HEAL runs: the list of runs with route, reason and verdict, and the page of each run."""

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

import heal_pages
import heal_store_page
from airflow.plugins_manager import AirflowPlugin
from heal_connections import connected_artifacts

from heal_tasks.core.corpora import corpus_names, corpus_of, in_corpus

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


@cache
def build_app(corpus: str) -> "FastAPI":
    """The pages of the corpus, which is entered; Airflow mounts those of the deployment at ``/heal``."""
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
        if dag_id not in ("", heal_pages.dag_id()):
            raise HTTPException(404, f"Only runs of {heal_pages.dag_id()} have reports.")

    @app.get("/runs")
    def runs(conn: database, before: str = "", dag_id: str = "") -> HTMLResponse:
        check_dag(dag_id)
        page = list_runs(conn, heal_pages.run_states, None if unstorable(before) else before or None)
        return heal_pages.page("runs.html.jinja", "runs", page=page, before=before)

    @app.get("/report")
    def report(conn: database, run_id: str, dag_id: str = "") -> HTMLResponse:
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
    """Serve the pages, of the deployment or of a corpus below ``/c/NAME``, which are built at the first request."""
    from starlette.routing import get_route_path

    scope, corpus = {**scope, "airflow": scope.get("app")}, ""
    path = get_route_path(scope) if scope["type"] == "http" else ""
    if (found := re.match("/c/([a-z0-9_]+)(?=/)", path)) and found[1] in corpus_names():
        corpus = found[1]
        scope["root_path"] = scope.get("root_path", "") + found[0]
    elif (named := corpus_of(_dag_of(scope))) in corpus_names():
        # The tabs and links of Airflow name the DAG alone.
        from starlette.responses import RedirectResponse

        address = f"c/{named}{path}?{scope['query_string'].decode('latin-1')}"
        await RedirectResponse(address, 307)(scope, receive, send)
        return
    with in_corpus(corpus):
        await build_app(corpus)(scope, receive, send)


def _dag_of(scope: "Scope") -> str:
    return next(iter(parse_qs(scope.get("query_string", b"").decode("latin-1")).get("dag_id", ())), "")


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
