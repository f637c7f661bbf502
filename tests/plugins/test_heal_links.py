"""The links of tasks to the report of their run."""

import importlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

ROOT = Path(__file__).parents[2]
RUN = "manual__2026-01-02T03:04:05+00:00"


@pytest.fixture
def dag(plugins: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The DAG heal_realign, as its file makes it."""
    import heal_links

    made, link = list[Any](), heal_links.link_reports
    monkeypatch.setattr(heal_links, "link_reports", lambda dag: (link(dag), made.append(dag)))
    monkeypatch.syspath_prepend(str(ROOT / "dags"))
    importlib.reload(importlib.import_module("heal_realign"))
    return made[-1]


@pytest.mark.parametrize(
    ("base_url", "root"), [("https://a.example/team/airflow", "https://a.example/team/airflow"), ("", "")]
)
def test_tasks_that_decide_lead_to_the_report(
    dag: Any, monkeypatch: pytest.MonkeyPatch, base_url: str, root: str
) -> None:
    from airflow.sdk.types import TaskInstanceKey

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    found = {
        task.task_id: link.get_link(task, ti_key=TaskInstanceKey(dag.dag_id, task.task_id, RUN, 1, -1))
        for task in dag.tasks
        for link in task.operator_extra_links
    }
    page = f"{root}/heal/report?dag_id=heal_realign&run_id={quote(RUN, safe='')}"
    assert found == {
        "realign.choose": f"{page}#quality",
        "realign.publish": f"{page}#served",
        "nudge.nudge_live": f"{page}#served",
        "report": page,
    }


def test_sections_of_the_links_are_on_the_page(plugins: None) -> None:
    import heal_links

    template = (ROOT / "heal_tasks" / "report" / "page.html.jinja").read_text(encoding="utf-8")
    for section in filter(None, heal_links.SECTIONS.values()):
        assert f'id="{section.removeprefix("#")}"' in template


def test_airflow_stores_the_links_with_the_dag(dag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert stored.get_task("report").extra_links == ["HEAL report"]
    assert stored.get_task("ingest").extra_links == []
