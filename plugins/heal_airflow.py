"""The glue between Airflow and the steps: settings from Params, manifests through XCom, retries by error.

Light on purpose: it is loaded by the scheduler and the DAG processor, so the steps (and with them
torch, numpy, psycopg) are imported inside the task.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any

from airflow.sdk import (
    Context,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
)
from airflow.sdk.exceptions import AirflowFailException
from heal_connections import connected_settings
from heal_lineage import emit_lineage
from heal_metrics import emit_metrics

RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception=["heal_tasks.core.errors.RetryableError", ConnectionError, TimeoutError, MemoryError],
                action=RetryAction.RETRY,
                retry_delay=timedelta(seconds=30),
                reason="Throttled, cut off or out of memory: trying again can succeed",
            ),
        ],
        # A process that was killed raises nothing and is retried; a wrong input or a bug stays what it is.
        default=RetryAction.FAIL,
    ),
}
"""Task arguments: retry what can succeed again, and only that."""

DAG_ARGUMENTS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
    "default_args": RETRIES,
    "tags": ["heal"],
}
"""Arguments of every DAG."""

PARAMS: dict[str, Param] = {
    "force_route": Param(
        "auto",
        type="string",
        enum=["auto", "nothing", "nudge", "realign"],
        title="Route",
        description="auto takes HEAL_FORCE_ROUTE, or else what the counts say; nudge and realign force that route; "
        "nothing only ingests.",
    ),
    "sources": Param(
        "",
        type=["null", "string"],
        title="Sources",
        description="Blank-separated: file:FOLDER, s3://BUCKET/PREFIX, pydocs:PACKAGE; a name with blanks in double "
        "quotes. Only what lies in HEAL_SOURCE_ROOTS (unset: in HEAL_SOURCES) is read. Empty takes HEAL_SOURCES.",
        maxLength=2000,
    ),
    "sample_documents": Param(
        0,
        type="integer",
        minimum=0,
        maximum=10_000_000,
        title="Sample size",
        description="At most this many documents per source, none deleted. 0 takes HEAL_SAMPLE_DOCUMENTS.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Read the sources and choose the route, then undo it: nothing is stored, sent or trained. Off "
        "takes HEAL_DRY_RUN.",
    ),
}
"""The trigger form of ``heal_realign``."""


def timetable(cron: str) -> CronTriggerTimetable | None:
    """The schedule of a cron expression, in UTC; None for an empty one."""
    return CronTriggerTimetable(cron, timezone="UTC") if cron else None


def check_conf(context: Context) -> None:
    """Fail a run whose configuration has fields that would be ignored: it would do what was not meant."""
    conf, known = context["dag_run"].conf or {}, context["dag"].params
    for key, value in conf.items():
        if key not in known:
            meant = get_close_matches(key, known, 1, cutoff=0.4)
            fields = f"its fields are {', '.join(sorted(known))}" if known else "it has no fields"
            raise AirflowFailException(
                f"the run's configuration has {key!r}, which {context['dag'].dag_id} does not know"
                f"{f'; did you mean {meant[0]!r}?' if meant else ''}; {fields}. Nothing was done: trigger it again"
            )
        if context["params"].get(key) != value:
            raise AirflowFailException(
                f"the run's {key!r} would be ignored, because [core] dag_run_conf_overrides_params is off in Airflow's "
                "configuration; switch it on. Nothing was done"
            )


def run_step(
    name: str,
    manifest: dict[str, Any] | None = None,
    *,
    shard: int = 0,
    shards: int = 1,
    refs: dict[str, int | str] | None = None,
) -> dict[str, Any]:
    """Run a step of the pipeline inside a task.

    Args:
        name: the step, with underscores.
        manifest: the manifest of the step before; None for the first step.
        shard: this task's number, of ``shards``.
        shards: number of mapped tasks that share the work.
        refs: input of a first step beside its settings.

    Returns:
        The step's manifest: JSON under 4 KiB.
    """
    from heal_tasks.core.errors import SettingsError
    from heal_tasks.core.manifest import Manifest
    from heal_tasks.core.settings import unknown_variables
    from heal_tasks.steps.engine.road import load_step

    context = get_current_context()
    if manifest is None and name != "report":  # the report is written whatever happened
        check_conf(context)
    # A field left at its default says nothing: the setting decides then.
    overrides = {
        key: value
        for key, value in context["params"].items()
        if key in PARAMS and value is not None and value != PARAMS[key].value
    }
    before = Manifest(**manifest) if manifest else Manifest(run_id=context["run_id"], refs=refs or {})
    log = logging.getLogger(__name__)
    try:
        settings = connected_settings(log.info if manifest is None else None, **overrides)
    except SettingsError:
        if name != "report":  # it says that the run failed, and needs none of the form's fields
            raise
        settings = connected_settings()
    if manifest is None:
        for sentence in unknown_variables(settings.var_dir):
            log.warning(sentence)
    result = load_step(name).run(settings, before, shard, shards)
    emit_lineage(settings, before, result)
    emit_metrics(settings, name)
    return result.to_json()


def join(manifests: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One manifest from those of a step's mapped tasks: the refs of all."""
    found = list(manifests)
    return {**found[-1], "refs": {name: value for manifest in found for name, value in manifest["refs"].items()}}


def run_report() -> dict[str, Any]:
    """Write the run's report, then fail if a task before it failed: the last task decides the run's colour."""
    manifest = run_step("report")
    context = get_current_context()
    run_id = context["run_id"]
    states = context["ti"].get_task_states(dag_id=context["ti"].dag_id, run_ids=[run_id])[run_id]
    failed = sorted(task_id for task_id, state in states.items() if state in ("failed", "upstream_failed"))
    if failed:
        raise AirflowFailException(f"the report is written, but these tasks failed: {', '.join(failed)}")
    return manifest
