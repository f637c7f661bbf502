"""Browse › HEAL runs: the list of runs with route, reason and verdict, and the page of each run.

Every process of Airflow loads the plugins, tasks included, so this file is light: the pages with FastAPI
and Airflow's security (one to two seconds of imports) are built at the first request, in the API server.
"""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from airflow.plugins_manager import AirflowPlugin
from jinja2 import Environment

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

# No script runs and nothing is fetched, whatever the text of a document or an artifact says.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>HEAL runs</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; color-scheme: light dark; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884; }
.when { white-space: nowrap; }
</style>
<h1>HEAL runs</h1>
{% if not runs %}<p>No run yet. Trigger the DAG heal_realign.</p>{% else %}
<table><tr><th>Run</th><th>Started (UTC)</th><th>Took</th><th>Route</th><th>Reason</th><th>Verdict</th></tr>
{% for run in runs %}
<tr><td>
{% if run.report_uri %}<a href="report?run_id={{ run.run_id | quoted }}">{{ run.run_id }}</a>
{% else %}{{ run.run_id }}{% endif %}</td>
<td class="when">{{ run.started_at | minute }}</td><td class="when">{{ run | took }}</td>
<td>{{ run.route or "" }}</td><td>{{ run.route_reason or "" }}</td>
<td>{{ (run.verdict or " ").splitlines()[0] }}</td></tr>
{% endfor %}
</table>{% endif %}
</html>
"""


def render_runs(runs: list[Any]) -> str:
    """The list of runs (rows of ``heal.run``, newest first) as an HTML page; every text is escaped."""
    from datetime import UTC

    from heal_tasks.core.log import format_duration

    environment = Environment(autoescape=True)
    environment.filters.update(
        quoted=lambda text: quote(text, safe=""),
        minute=lambda when: f"{when.astimezone(UTC):%Y-%m-%d %H:%M}",
        took=lambda run: (
            format_duration((run.finished_at - run.started_at).total_seconds()) if run.finished_at else "running"
        ),
    )
    return environment.from_string(PAGE).render(runs=runs)


@cache
def build_app() -> "FastAPI":
    """The pages ``/runs`` and ``/report`` for users who are logged in; Airflow mounts them at ``/heal``."""
    import psycopg
    from airflow.api_fastapi.core_api.security import requires_authenticated
    from fastapi import Depends, FastAPI, HTTPException, Query, Request
    from fastapi.responses import HTMLResponse, PlainTextResponse

    from heal_tasks.core.artifacts import artifact_store
    from heal_tasks.core.errors import HealError
    from heal_tasks.core.settings import load_settings
    from heal_tasks.core.text import unstorable
    from heal_tasks.report.page import read_page
    from heal_tasks.store.db import connect
    from heal_tasks.store.runs.runs import RunRepository

    # Plugin routes are open unless they ask for a login themselves; the app's own documentation pages cannot ask.
    app = FastAPI(dependencies=[Depends(requires_authenticated())], docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HealError)
    def refused(request: Request, error: HealError) -> PlainTextResponse:
        return PlainTextResponse(str(error), status_code=503)

    @app.exception_handler(psycopg.errors.UndefinedTable)
    def not_migrated(request: Request, error: psycopg.errors.UndefinedTable) -> PlainTextResponse:
        return PlainTextResponse("schema heal is missing; run `python -m heal_tasks migrate`", status_code=503)

    @app.exception_handler(psycopg.Error)
    def lost(request: Request, error: psycopg.Error) -> PlainTextResponse:
        return PlainTextResponse(f"the database refused ({type(error).__name__}); its log says why", status_code=503)

    @app.get("/runs")
    def runs(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> HTMLResponse:
        with connect(load_settings().require_database_url(), autocommit=True) as conn:
            return HTMLResponse(render_runs(RunRepository(conn).recent_runs(limit)), headers=HEADERS)

    @app.get("/report")
    def report(run_id: str) -> HTMLResponse:
        settings = load_settings()
        page = None
        if not unstorable(run_id):  # else it can be no run's
            with connect(settings.require_database_url(), autocommit=True) as conn:
                page = read_page(conn, artifact_store(settings), run_id)
        if page is None:
            raise HTTPException(404, f"run {run_id[:200]!r} has no report")
        return HTMLResponse(page, headers=HEADERS)

    return app


async def application(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Serve the pages, which are built at the first request."""
    await build_app()(scope, receive, send)


class HealReports(AirflowPlugin):
    """The pages and their entry in the navigation."""

    name = "heal_reports"
    fastapi_apps = [{"app": application, "url_prefix": "/heal", "name": "HEAL runs"}]  # noqa: RUF012 - Airflow's interface
    external_views = [  # noqa: RUF012 - Airflow's interface
        {
            "name": "HEAL runs",
            "href": "/heal/runs",
            "destination": "nav",
            "category": "browse",
            "url_route": "heal-runs",
        }
    ]
