"""The list of runs and the page of each: states, escaping, paging, and right on a real database."""

import re
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.report.page import SAMPLES, store_page
from heal_tasks.report.run_list import PAGE_ROWS
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import connect
from heal_tasks.store.runs.run_lock import whole_run
from heal_tasks.store.runs.runs import RunRepository

RUN = "manual__2026-01-02T03:04:05+00:00"
REASON = "first run"


def write_run(
    settings: Settings,
    run_id: str = RUN,
    *,
    page: str | None = f"<h1>the report</h1>{SAMPLES}",
    verdict: str = "Promoted.",
) -> None:
    artifacts = artifact_store(settings)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        runs = RunRepository(conn)
        runs.open_run(run_id)
        runs.set_route(run_id, "realign", REASON, {})
        if page is not None:
            runs.finish_run(run_id, verdict, report_uri=store_page(artifacts, run_id, page))


def airflow_run(run_id: str, state: str) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(DagRun).delete()
        session.add(
            DagRun(dag_id="heal_realign", run_id=run_id, run_type="manual", state=state, run_after=datetime.now(UTC))
        )


def cells(text: str) -> list[str]:
    """The cells of the first row of runs."""
    row = re.findall(r"<tr>(<td.*?)</tr>", text, re.S)[0]
    return [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row, re.S)]


def test_the_list_shows_a_run_and_its_link_opens_the_report(settings: Settings, logged_in: Any) -> None:
    write_run(settings)
    listed = logged_in.get("/heal/runs")
    assert listed.status_code == 200
    for text in (RUN, "realign", REASON, "Promoted.", '<td class="good">finished'):
        assert text in listed.text
    link = f"report?run_id={quote(RUN, safe='')}"
    assert f'href="{link}"' in listed.text
    opened = logged_in.get(f"/heal/{link}")
    assert opened.text.strip().endswith("<h1>the report</h1>"), "there are no samples in the place of them"
    assert '<a href="runs">' in opened.text
    for answer in (listed, opened, logged_in.get("/heal/nothing")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_addresses_are_relative(settings: Settings, logged_in: Any) -> None:
    write_run(settings)
    airflow_run(RUN, "success")
    for page in ("runs", f"report?run_id={quote(RUN, safe='')}"):
        found = re.findall(r'(?:href|src|action)="(.*?)"', logged_in.get(f"/heal/{page}").text)
        assert f"../dags/heal_realign/runs/{quote(RUN, safe='')}" in found
        assert not [address for address in found if address.startswith("/") or ":" in address]


def test_texts_are_escaped(settings: Settings, logged_in: Any) -> None:
    odd = """<script>alert(1)</script> & é%2F/?#+'"\\"""
    write_run(settings, odd, verdict=odd)
    text = logged_in.get("/heal/runs").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    (address,) = re.findall(r'"(report\?.*?)"', text)
    assert "the report" in logged_in.get(f"/heal/{address}").text


@pytest.mark.parametrize(
    ("verdict", "in_airflow", "shown"),
    [
        ("Promoted.", None, "finished"),
        ("Promoted.", "success", "finished"),
        ("Not finished: label: failed: no memory", None, "failed"),
        ("Promoted.", "failed", "failed"),
        (None, "running", "running"),
        (None, "queued", "queued"),
        (None, "failed", "failed"),
        (None, None, "stopped"),
    ],
)
def test_the_state_of_a_run(
    settings: Settings, logged_in: Any, verdict: str | None, in_airflow: str | None, shown: str
) -> None:
    write_run(settings, page="<h1>the report</h1>" if verdict else None, verdict=verdict or "")
    airflow_run(RUN if in_airflow else "another", in_airflow or "success")
    text = logged_in.get("/heal/runs").text
    row = cells(text)
    assert row[1] == shown
    assert row[-1] == ("grid" if in_airflow else "")
    tone = {"finished": "good", "running": "busy", "queued": "busy"}.get(shown, "bad")
    assert f'<td class="{tone}">{shown}</td>' in text
    if verdict is None:
        page = logged_in.get("/heal/report", params={"run_id": RUN}).text
        assert f"<title>{shown.capitalize()}: HEAL run" in page
        assert ("http-equiv" in page) == (tone == "busy"), "only a run that goes on is read again"


def test_a_run_of_the_command_line_is_running_while_it_holds_the_lock(settings: Settings, logged_in: Any) -> None:
    write_run(settings, page=None)
    with whole_run(settings.require_database_url(), RUN):
        assert cells(logged_in.get("/heal/runs").text)[1] == "running"
    assert cells(logged_in.get("/heal/runs").text)[1] == "stopped"


def test_a_step_that_fails_is_shown_as_failed(settings: Settings, logged_in: Any) -> None:
    def fail(context: Context) -> Outcome:
        raise StepError("no disk")

    write_run(settings, page=None)
    with pytest.raises(StepError):
        Step("ingest", fail, None).run(settings, Manifest(run_id=RUN))
    shown = logged_in.get("/heal/report", params={"run_id": RUN}).text
    assert '<tr class="bad"><td>ingest</td>' in shown
    assert "failed: no disk" in shown


def test_a_run_without_a_report_shows_the_steps_so_far(settings: Settings, logged_in: Any) -> None:
    write_run(settings, page=None)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        conn.execute(
            """INSERT INTO heal.step_result (step, fingerprint, run_id, finished_at, result, message) VALUES
                ('ingest', 'f', %(run)s, now(), '{"note": "7 documents", "refs": {}, "counts": {}}', ''),
                ('route', 'f', %(run)s, NULL, NULL, 'failed: <the reason>')""",
            {"run": RUN},
        )
    shown = logged_in.get("/heal/report", params={"run_id": RUN})
    assert shown.status_code == 200
    assert shown.text.index("failed: &lt;the reason&gt;") < shown.text.index("7 documents"), "the failed step is first"
    assert REASON in shown.text


def test_a_run_that_airflow_alone_knows_has_a_page(logged_in: Any) -> None:
    airflow_run("manual__1", "queued")
    shown = logged_in.get("/heal/report", params={"run_id": "manual__1", "dag_id": "heal_realign"})
    assert (shown.status_code, "None has begun." in shown.text) == (200, True)


def test_the_tabs_of_other_dags_say_that_they_have_no_report(logged_in: Any) -> None:
    for page in ("runs", "report?run_id=x"):
        refused = logged_in.get(f"/heal/{page}", params={"dag_id": "other", "run_id": "x"})
        assert (refused.status_code, "Only runs of heal_realign" in refused.text) == (404, True)


def test_the_list_goes_on_page_by_page(settings: Settings, logged_in: Any) -> None:
    names = [f"run & {number:03d}" for number in range(2 * PAGE_ROWS + 1)]
    with connect(settings.require_database_url(), autocommit=True) as conn:
        for name in names:
            RunRepository(conn).open_run(name)
        conn.execute("UPDATE heal.run SET started_at = '2026-01-01' WHERE run_id < 'run & 070'")  # equal times
    found, address = [], "runs"
    while address:
        text = logged_in.get(f"/heal/{address}").text
        found += re.findall(r">(run &amp; \d+)</a>", text)
        older = re.findall(r'"(runs\?before=.*?)"', text)
        address = older[0] if older else ""
    assert found == [name.replace("&", "&amp;") for name in reversed(names)]
    assert "No older run." in logged_in.get("/heal/runs", params={"before": "unknown"}).text


def test_without_any_run_it_says_what_to_do(logged_in: Any) -> None:
    assert "Trigger the DAG heal_realign" in logged_in.get("/heal/runs").text


def test_a_missing_page_schema_or_server_is_reported(
    settings: Settings, logged_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logged_in.get("/heal/report", params={"run_id": "unknown"}).status_code == 404
    write_run(settings)
    for page in Path(settings.artifacts_uri, "reports").iterdir():
        artifact_store(settings).delete(str(page))
    gone = logged_in.get("/heal/report", params={"run_id": RUN})
    assert (gone.status_code, "missing or incomplete" in gone.text) == (503, True)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        conn.execute("DROP SCHEMA heal CASCADE")
    unmigrated = logged_in.get("/heal/runs", headers={"Accept": "text/html"})
    assert (unmigrated.status_code, "heal_tasks migrate" in unmigrated.text) == (503, True)
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/heal")
    unreachable = logged_in.get("/heal/runs")
    assert (unreachable.status_code, "HEAL_DATABASE_URL" in unreachable.text) == (503, True)


def test_the_tabs_and_the_navigation_lead_to_pages_that_exist(plugin: ModuleType) -> None:
    from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse

    views = [ExternalViewResponse.model_validate(view) for view in plugin.HealReports.external_views]
    assert [view.destination for view in views] == ["nav", "dag", "dag_run"]
    assert len({view.url_route for view in views}) == len(views), "Airflow drops a view whose route is taken"
    paths = [f"heal{route.path}" for route in plugin.build_app("").routes]
    assert all(view.href.partition("?")[0] in paths for view in views)
