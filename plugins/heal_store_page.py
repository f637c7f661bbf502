"""Browse › HEAL store: the page of the whole store, the search box, and the switch to another generation."""

from typing import TYPE_CHECKING, Annotated, Any

import heal_pages
from airflow.plugins_manager import AirflowPlugin
from heal_connections import connected_artifacts

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_routes(app: "FastAPI") -> None:
    """Add ``/store``, ``/search`` and ``/activate`` to the app of the plugin's pages."""
    import httpx
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
    from fastapi import Depends, HTTPException, Query, Request
    from fastapi.responses import HTMLResponse, RedirectResponse, Response

    from heal_tasks.core.text import storable
    from heal_tasks.report import store_charts, store_search
    from heal_tasks.report.store_map import read_map
    from heal_tasks.report.store_state import read_store
    from heal_tasks.store.db import Connection

    database = Annotated[Connection, Depends(heal_pages.database)]
    text = Annotated[str, Query(max_length=65_536)]
    activate_id = heal_pages.dag_id("heal_activate")
    demand_trigger = requires_access_dag("POST", DagAccessEntity.RUN, activate_id)

    def may_activate(request: Request, user: GetUserDep) -> bool:
        try:
            demand_trigger(request, user)
        except HTTPException:
            return False
        return True

    @app.get("/store")
    def store(
        conn: database,
        allowed: Annotated[bool, Depends(may_activate)],
        started: Annotated[str, Query(max_length=250)] = "",
    ) -> HTMLResponse:
        state = read_store(conn)
        switch = heal_pages.run_states([storable(started)], "heal_activate") if started else {}
        return heal_pages.page(
            "store.html.jinja", "store", state=state, charts=store_charts.quality_charts(state.measured),
            sizes=store_charts.SIZES, map=read_map(conn, connected_artifacts()),
            query=store_search.Query(), may_activate=allowed, switch=switch, activate=activate_id,
        )  # fmt: skip

    @app.get("/search")
    def search(conn: database, q: text = "", topic: text = "", filter: text = "", language: text = "") -> HTMLResponse:  # noqa: A002
        query = store_search.Query(q, topic, filter, language)
        answer = store_search.search_store(conn, query) if q.strip() else None
        choices = store_search.read_choices(conn)
        return heal_pages.page("search.html.jinja", "search", query=query, choices=choices, answer=answer)

    @app.post("/activate")
    async def activate(
        request: Request, allowed: Annotated[bool, Depends(may_activate)], generation: Annotated[int, Query(ge=1)]
    ) -> Response:
        if not allowed:
            raise HTTPException(403, f"You may not trigger the DAG {activate_id}.")
        # Airflow's cookie is not sent with a form of another site; of a neighbour below the same domain it would be.
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise HTTPException(403, "This form can be sent from the page of the store only.")
        # The UI of Airflow 3.3 has no address for a filled trigger form, so this calls its API with the user's login.
        login = {name: value for name in ("authorization", "cookie") if (value := request.headers.get(name))}
        airflow = httpx.ASGITransport(request.scope["airflow"])
        async with httpx.AsyncClient(transport=airflow, base_url="http://airflow", headers=login) as client:
            body: dict[str, Any] = {"logical_date": None, "conf": {"generation": generation}}
            reply = await client.post(f"/api/v2/dags/{activate_id}/dagRuns", json=body)
        if reply.status_code != 200:
            detail = reply.json().get("detail", reply.text) if "json" in reply.headers.get("content-type", "") else ""
            return heal_pages.page(
                "refusal.html.jinja",
                "",
                reply.status_code,
                title=f"Airflow did not start {activate_id}",
                message=str(detail).partition("\n\n")[0],  # the schema follows
            )
        started = httpx.QueryParams(started=reply.json()["dag_run_id"])
        return RedirectResponse(f"store?{started}#generations", 303)


class HealStorePage(AirflowPlugin):
    """The entry of the page in the navigation."""

    name = "heal_store_page"
    external_views = [  # noqa: RUF012 - Airflow's interface
        {
            "name": "HEAL store",
            "href": "heal/store",
            "destination": "nav",
            "category": "browse",
            "url_route": "heal-store",
        }
    ]
