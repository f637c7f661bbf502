"""The shared base of the plugin's pages: login and rights, headers, errors, the frame with the navigation.

Every process of Airflow loads the plugins, tasks included, so this file is light: FastAPI and Airflow's security
(one to two seconds of imports) are loaded at the first request, in the API server.
"""

import base64
import hashlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from heal_connections import connect_store

from heal_tasks.core.corpora import corpus_names, dag_id_of, entered_corpus

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, Response

    from heal_tasks.store.db import Connection

PREFIX = "/heal"
"""Path of the pages below that of Airflow's UI; those of a corpus are below ``/heal/c/NAME``."""

NAVIGATION = [("store", "Store"), ("runs", "Runs"), ("search", "Search")]
"""Address and name of the pages. Addresses are relative, so that they hold behind a proxy that adds a prefix."""

# Airflow shows the pages in an iframe whose sandbox lets no link leave it, and Airflow's UI inside its own iframe is
# of no use. The iframe has the UI's origin, so a link of the UI's own document can be followed instead.
SCRIPT = """
addEventListener("click", event => {
  const link = event.target.closest("a[target=_top]");
  if (!link || parent === self || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const outside = parent.document.createElement("a");
  outside.href = link.href;
  parent.document.body.append(outside);
  outside.click();
});
"""

_SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

# No other script runs and nothing is fetched, whatever the text of a document or an artifact says.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; "
    f"base-uri 'none'; form-action 'self'; script-src 'sha256-{_SCRIPT_HASH}'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def dag_id(name: str = "heal_realign") -> str:
    """The id of a DAG of the corpus that the request is about."""
    return dag_id_of(name, entered_corpus())


def new_app() -> "FastAPI":
    """An app of the corpus that is entered; every route demands the right to read the runs of its ``heal_realign``.

    Without a login browsers are sent to Airflow's login page and come back after it; programs get 401.
    """
    import psycopg
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import RedirectResponse
    from starlette.exceptions import HTTPException as StarletteHTTPException

    from heal_tasks.core.errors import HealError

    # Plugin routes are open unless they ask for rights themselves; the app's own documentation pages cannot ask.
    may_read = Depends(requires_access_dag("GET", DagAccessEntity.RUN, dag_id()))
    app = FastAPI(dependencies=[may_read], docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(StarletteHTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        # Airflow answers 403 to the cookie of another installation, as after its secret was changed.
        stranger = error.status_code == 401 or error.detail == "Invalid JWT token"
        if stranger and _is_browser(request):
            return RedirectResponse(_login_address(request), 303)
        reason = f"You may not read the runs of {dag_id()}." if error.detail == "Forbidden" else error.detail
        return refuse(request, error.status_code, reason)

    @app.exception_handler(RequestValidationError)
    def wrong(request: Request, error: RequestValidationError) -> Response:
        return refuse(request, 422, "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()))

    @app.exception_handler(HealError)
    def failed(request: Request, error: HealError) -> Response:
        return refuse(request, 503, str(error))

    @app.exception_handler(psycopg.errors.UndefinedColumn)
    @app.exception_handler(psycopg.errors.UndefinedFunction)
    @app.exception_handler(psycopg.errors.UndefinedTable)
    def not_migrated(request: Request, error: psycopg.Error) -> Response:
        return refuse(request, 503, "schema heal is missing or older than this; run `python -m heal_tasks migrate`")

    @app.exception_handler(psycopg.Error)
    def lost(request: Request, error: psycopg.Error) -> Response:
        return refuse(request, 503, f"the database refused ({type(error).__name__}); its log says why")

    return app


def page(template: str, /, here: str = "", status: int = 200, run_id: str = "", **values: object) -> "HTMLResponse":
    """A page in the frame: a template of ``heal_tasks/report`` that extends ``frame.html.jinja``.

    Args:
        template: the file's name.
        here: the page's address in NAVIGATION; empty for a page that is not in it.
        status: HTTP status.
        run_id: the run in Airflow that the page is about, if any.
        values: values for the template.
    """
    from fastapi.responses import HTMLResponse

    from heal_tasks.report.templates import render_template

    return HTMLResponse(render_template(template, **_frame(here, run_id), **values), status)


def stored_page(html: str, run_id: str) -> "HTMLResponse":
    """The stored report of a run, with the navigation above its heading."""
    from fastapi.responses import HTMLResponse

    from heal_tasks.report.templates import render_template

    # No text of a run can equal the tag, because texts are escaped.
    return HTMLResponse(html.replace("<h1", f"{render_template('nav.html.jinja', **_frame('', run_id))}<h1", 1))


def _frame(here: str, run_id: str) -> dict[str, object]:
    corpus, names = entered_corpus(), corpus_names()
    root = "../../" if corpus else ""
    first = here or NAVIGATION[0][0]
    corpora = {name: f"{root}c/{name}/{first}" if name else f"{root}{first}" for name in ["", *names] if names}
    return {
        "nav": NAVIGATION, "here": here, "run_id": run_id, "dag_id": dag_id(), "airflow": f"{root}../",
        "corpus": corpus, "corpora": corpora, "script": SCRIPT,
    }  # fmt: skip


def refuse(request: "Request", status: int, message: str) -> "Response":
    """An error as a page for browsers, as JSON for programs."""
    from http import HTTPStatus

    from fastapi.responses import JSONResponse

    if _is_browser(request):
        return page("refusal.html.jinja", status=status, title=HTTPStatus(status).phrase, message=message)
    return JSONResponse({"detail": message}, status)


def run_states(run_ids: Collection[str], dag: str = "heal_realign") -> dict[str, str]:
    """Airflow's states of runs of the corpus's DAG of a name by run id, for those that it knows."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        known = select(DagRun.run_id, DagRun.state).where(DagRun.dag_id == dag_id(dag), DagRun.run_id.in_(run_ids))
        return {run_id: str(state) for run_id, state in session.execute(known)}


def database() -> "Iterator[Connection]":
    """A connection to the store for one request, as a dependency of a route."""
    with connect_store(autocommit=True) as conn:
        # Else the principals were the roles of the pipeline's user, and who looks at a page has none of these.
        conn.execute("SET heal.principals = '{}'")
        yield conn


def _is_browser(request: "Request") -> bool:
    return "text/html" in request.headers.get("accept", "")


def _login_address(request: "Request") -> str:
    """Airflow's login page, with the way back to the page that was asked for, or to the first one from a form."""
    from airflow.api_fastapi.app import API_ROOT_PATH  # path of [api] base_url
    from starlette.routing import get_route_path

    asked = request.method == "GET"
    back = f"{API_ROOT_PATH.rstrip('/')}{PREFIX}" + (f"/c/{entered_corpus()}" if entered_corpus() else "")
    back += quote(get_route_path(request.scope)) if asked else f"/{NAVIGATION[0][0]}"
    if asked and request.url.query:
        back += f"?{request.url.query}"
    return f"{API_ROOT_PATH}api/v2/auth/login?next={quote(back, safe='')}"
