"""The glue between Airflow and the steps: settings from Params, manifests through XCom, retries by error.

Light on purpose: it is loaded by the scheduler and the DAG processor, so the steps (and with them
torch, numpy, psycopg) are imported inside the task.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from airflow.configuration import conf
from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    RetryAction,
    RetryRule,
    get_current_context,
)
from airflow.sdk.exceptions import AirflowFailException
from heal_alerts import AlertNotifier, run_alerts
from heal_connections import connect_store, connected_settings
from heal_form import PARAMS, check_conf
from heal_lineage import emit_lineage
from heal_metrics import emit_metrics
from heal_watch import SourceTrigger

from heal_tasks.core.corpora import corpus_names, corpus_of, dag_id_of, enter_corpus, entered_corpus
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.settings import Settings, load_settings


def active_asset(corpus: str = "") -> Asset:
    """The live generation of a corpus: it has an event whenever another one goes live, or rows of it change."""
    return Asset(f"heal://{corpus}/generation/active" if corpus else "heal://generation/active")


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


def for_each_corpus(make: Callable[[Settings], Any]) -> None:
    """Make a DAG with the deployment's settings, and one with those of each corpus.

    A corpus whose settings are wrong has none, and is logged; an error would take the DAGs of all others away.
    """
    make(load_settings(corpus=""))
    for name in corpus_names():
        try:
            settings = load_settings(corpus=name)
        except SettingsError as error:
            logging.getLogger(__name__).error("corpus %s has no DAGs: %s", name, error)
            continue
        make(settings)


def dag_arguments(settings: Settings, file: str, name: str) -> dict[str, Any]:
    """Arguments of every DAG, whose id is the name of ``file``; the Markdown beside that is its page Dag Docs.

    ``name`` is shown in the UI.
    """
    return {
        "dag_id": dag_id_of(Path(file).stem, settings.corpus),
        "dag_display_name": f"{name}: {settings.corpus}" if settings.corpus else name,
        "start_date": datetime(2026, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["heal", *filter(None, [settings.corpus])],
        "doc_md": Path(file).with_suffix(".md").read_text(encoding="utf-8"),
        "dagrun_timeout": timedelta(hours=settings.run_timeout_hours),
        "on_failure_callback": AlertNotifier("failed") if settings.alerts else None,
        # Python raises a timeout between two calls of C code only, so a long one of torch ends first. A deferred task
        # has no timeout of its own; each time it is resumed the clock starts anew.
        "default_args": RETRIES | {"owner": "heal", "execution_timeout": timedelta(hours=settings.task_timeout_hours)},
    }


FIRST = ("ingest", "report", "maintain", "activate")
"""Steps that need no result of a task before them."""


def timetable(cron: str) -> CronTriggerTimetable | None:
    """The schedule of a cron expression, in UTC; None for an empty one."""
    return CronTriggerTimetable(cron, timezone="UTC") if cron else None


def gpu_task(settings: Settings) -> dict[str, Any]:
    """Arguments of a task that needs the GPU or loads a model: queue, executor, and its pod under KubernetesExecutor.

    Where Airflow has several executors, the one whose alias is the queue's name runs these tasks; else the first.
    """
    queue, template = settings.gpu_queue, settings.gpu_pod_template
    aliases = [entry.partition(":")[0].strip() for entry in conf.getlist("core", "executor") if ":" in entry]
    return {
        "queue": queue,
        "executor": queue if queue in aliases else None,
        "executor_config": {"pod_template_file": str(template.resolve())} if template else {},
    }


def nightly(settings: Settings) -> Any:
    """The schedule of the nightly run: its cron expression, new files in the sources, both or neither."""
    cron = timetable(settings.schedule)
    if not settings.watch_minutes:
        return cron
    trigger = SourceTrigger(settings.watch_minutes, settings.corpus)
    name = dag_id_of("heal_watch", settings.corpus)
    place = f"heal://{settings.corpus}/sources" if settings.corpus else "heal://sources"
    sources = [Asset(place, watchers=[AssetWatcher(name=name, trigger=trigger)])]
    return AssetOrTimeSchedule(timetable=cron, assets=sources) if cron else sources


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
    from heal_tasks.core.manifest import Manifest
    from heal_tasks.core.settings import load_usable_settings, unknown_variables
    from heal_tasks.steps.engine.early_failure import record_failure
    from heal_tasks.steps.engine.road import load_step

    context = get_current_context()
    enter_corpus(corpus_of(context["dag"].dag_id))
    # A field left at its default says nothing: the setting decides then.
    overrides = {
        key: value
        for key, value in context["params"].items()
        if key in PARAMS and value is not None and value != PARAMS[key].value
    }
    before = Manifest(**manifest) if manifest else Manifest(run_id=context["run_id"], refs=refs or {})
    log = logging.getLogger(__name__)
    try:
        if manifest is None and name not in FIRST:
            raise _no_result(f"step {name}")
        if manifest is None and name != "report":
            check_conf(context)
        settings = connected_settings(log.info if manifest is None else None, **overrides)
    except (AirflowFailException, SettingsError) as error:
        usable = partial(connected_settings, load=load_usable_settings)
        if name != "report":
            record_failure(usable, name, context["run_id"], str(error), shard, shards)
            raise
        settings = usable()  # the report is written whatever happened, and needs no field of the form
    if manifest is None:
        for sentence in unknown_variables(settings.var_dir):
            log.warning(sentence)
    result = load_step(name).run(settings, before, shard, shards)
    emit_lineage(settings, before, result)
    emit_metrics(settings, name)
    return result.to_json()


def announce(manifest: dict[str, Any]) -> dict[str, Any]:
    """Tell ``active_asset`` about a step that changed what is served, and return its manifest."""
    context = get_current_context()
    generation_id = manifest["refs"].get("went_live")
    if generation_id:
        context["outlet_events"][active_asset(entered_corpus())].extra = {
            "generation": generation_id,
            "verdict": str(manifest["refs"].get("verdict") or manifest["note"]).partition("\n")[0],
            "model": _model_of(generation_id),
            "counts": manifest["counts"],
        }
    else:
        # A task that ends well has an event for each of its outlets. This is the running process's own copy of it.
        context["task"].outlets = []
    return manifest


def _model_of(generation_id: int) -> str:
    from heal_tasks.store.generations.generations import GenerationRepository
    from heal_tasks.store.spaces.spaces import SpaceRepository

    with connect_store() as conn:
        return SpaceRepository(conn).get(GenerationRepository(conn).get(generation_id).space_id).model_uri


def join(manifests: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One manifest from those of a step's mapped tasks: the refs of all."""
    found = [manifest for manifest in manifests if manifest]
    if not found:
        raise _no_result("this task")
    return {**found[-1], "refs": {name: value for manifest in found for name, value in manifest["refs"].items()}}


def route_of(manifest: dict[str, Any] | None) -> str:
    """The route that step ``route`` has chosen."""
    if manifest is None:
        raise _no_result("this task")
    return str(manifest["refs"]["route"])


def _no_result(what: str) -> AirflowFailException:
    return AirflowFailException(
        f"{what} has no result of the task before it to go on with: that task was marked as success or skipped, or its "
        "XCom was deleted. Clear that task, so that it runs, or trigger a new run"
    )


def run_report() -> dict[str, Any]:
    """Write the run's report, then fail if a task before it failed: the last task decides the run's colour."""
    manifest = run_step("report")
    context = get_current_context()
    run_alerts(context)
    run_id = context["run_id"]
    states = context["ti"].get_task_states(dag_id=context["ti"].dag_id, run_ids=[run_id])[run_id]
    failed = sorted(task_id for task_id, state in states.items() if state in ("failed", "upstream_failed"))
    if failed:
        raise AirflowFailException(f"the report is written, but these tasks failed: {', '.join(failed)}")
    return manifest
