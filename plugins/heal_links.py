"""Links from the tasks of a run to its report, under Extra Links of a task that has ended."""

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import DAG, BaseOperatorLink
from airflow.sdk.configuration import conf
from heal_pages import PREFIX

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

SECTIONS = {
    "realign.choose": "#quality",
    "realign.publish": "#served",
    "nudge.nudge_live": "#served",
    "report": "",
}
"""Tasks that have a link, with the section of the report that it opens."""


class ReportLink(BaseOperatorLink):
    """A button of a task that opens the report of its run."""

    name = "HEAL report"

    def get_link(self, operator: "BaseOperator", *, ti_key: "TaskInstanceKey") -> str:
        """The address; the task's process stores it when the task ends, and needs ``[api] base_url`` behind a proxy."""
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        run = f"dag_id={ti_key.dag_id}&run_id={quote(ti_key.run_id, safe='')}"
        return f"{base}{PREFIX}/report?{run}{SECTIONS[operator.task_id]}"


def link_reports(dag: DAG) -> None:
    """Give the tasks of SECTIONS their link.

    A link of the plugin itself would be on the tasks of every DAG, as they all are of Airflow's own classes.
    """
    for task_id in SECTIONS:
        dag.get_task(task_id).operator_extra_links = (ReportLink(),)
