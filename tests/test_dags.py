"""The DAGs as Airflow sees them: they parse, quickly and lightly, and have the road's shape."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.environment import child_environment
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.environment import setting_variables
from heal_tasks.steps.engine.road import ROUTES, STEPS, steps_of

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "numpy", "psycopg", "openai", "boto3", "sklearn", "sentence_transformers"}

INSPECT = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
import airflow.settings
started = time.process_time()
bag = DagBag({root!r} + "/dags")
seconds = time.process_time() - started
from airflow.serialization.serialized_objects import DagSerialization
dags = {{}}
for dag in bag.dags.values():
    stored = DagSerialization.to_dict(dag)
    DagSerialization.from_dict(stored)
    dags[dag.dag_id] = {{
        "tasks": {{
            task.task_id: {{
                "downstream": sorted(task.downstream_task_ids), "doc": task.doc_md, "retries": task.retries,
                "policy": type(task.retry_policy).__name__, "queue": task.queue, "pool": task.pool,
                "executor": task.executor, "pod": (task.executor_config or {{}}).get("pod_template_file"),
                "mapped": hasattr(task, "expand_input"), "rule": task.trigger_rule.value, "owner": task.owner,
                "outlets": [asset.uri for asset in task.outlets],
                "hours": task.execution_timeout and task.execution_timeout.total_seconds() / 3600,
            }}
            for task in dag.tasks
        }},
        "params": {{name: dag.params.get_param(name).schema | {{"description": dag.params.get_param(name).description}}
                    for name in dag.params}},
        "max_active_runs": dag.max_active_runs, "doc": dag.doc_md, "name": dag.dag_display_name,
        "description": dag.description, "hours": dag.dagrun_timeout.total_seconds() / 3600 if dag.dagrun_timeout else 0,
        "deadlines": [alert.interval.total_seconds() / 3600 for alert in dag.deadline or []],
        "callback": bool(dag.on_failure_callback), "timetable": str(stored["dag"]["timetable"]),
    }}
heavy = sorted(set(sys.modules) & {heavy!r})
examples = DagBag({root!r} + "/docs/examples")
waiting = {{dag.dag_id: str(DagSerialization.to_dict(dag)["dag"]["timetable"]) for dag in examples.dags.values()}}
found = {{"errors": bag.import_errors, "seconds": seconds, "heavy": heavy, "dags": dags}}
found["examples"] = {{"errors": examples.import_errors, "dags": waiting}}
json.dump(found, open({out!r}, "w"), default=str)
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return parse(tmp_path_factory)


def parse(tmp_path_factory: pytest.TempPathFactory, corpus: str = "", **settings: str) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("airflow")
    if corpus:
        (folder / "corpora").mkdir()
        (folder / "corpora" / f"{corpus}.env").write_text("HEAL_SCHEDULE=\nHEAL_APPROVAL=false\n")
    out = folder / "parsed.json"
    environment = child_environment(
        AIRFLOW_HOME=str(folder),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__UNIT_TEST_MODE="True",
        **settings,
    )
    code = INSPECT.format(root=str(ROOT), out=str(out), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(out.read_text()))


def test_every_dag_parses_within_two_seconds_of_a_processor(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {"heal_realign", "heal_activate", "heal_maintain"}
    assert parsed["seconds"] < 2


def test_parsing_loads_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert parsed["heavy"] == []


def reaches(tasks: dict[str, Any], before: str, after: str) -> bool:
    """Whether a task is downstream of another, directly or not."""
    waiting = list(tasks[before]["downstream"])
    while waiting:
        name = waiting.pop()
        if name == after:
            return True
        waiting += tasks[name]["downstream"]
    return False


def assert_the_road(tasks: dict[str, Any], settings: Settings) -> None:
    """The DAG has the steps of the table of the road, in its order, with its shards and queues, and no others."""
    expected = {"ingest": "ingest", "route": "route", "report": "report"}
    for route in ROUTES:
        steps = steps_of(settings, route)
        expected |= {f"{route}.{name}": name for name in steps}
        path = ["route", "follow", *(f"{route}.{name}" for name in steps), "report"]
        for before, after in pairwise(path):
            # Entity maps and the base model's vectors need nothing from each other, nor do first light and the topics.
            assert reaches(tasks, before, after) or (before, after) in SIDE_BY_SIDE, (
                f"{before} does not lead to {after}"
            )
    assert expected.keys() == tasks.keys() - {"follow", "nothing"}
    for task_id, name in expected.items():
        assert tasks[task_id]["queue"] == (settings.gpu_queue if STEPS[name].gpu else "default"), task_id
        pod = str(settings.gpu_pod_template) if STEPS[name].gpu and settings.gpu_pod_template else None
        assert tasks[task_id]["pod"] == pod, task_id
        assert tasks[task_id]["pool"] == (settings.gpu_pool if name == "train" else "default_pool"), task_id
        sharded = bool(STEPS[name].shards) and task_id.startswith("realign.")  # few documents need no shards
        assert tasks[task_id]["mapped"] == sharded, task_id


SIDE_BY_SIDE = {
    ("realign.map_entities", "realign.embed_base"),
    ("realign.first_light", "realign.label"),
}


def test_the_dag_is_the_table_of_the_road(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["heal_realign"]["tasks"]
    assert_the_road(tasks, load_settings())
    assert reaches(tasks, "ingest", "route")
    assert reaches(tasks, "realign.ask", "realign.embed_base")
    assert reaches(tasks, "realign.first_light", "realign.embed_base")
    assert {"realign.first_light", "realign.label"} <= set(tasks["follow"]["downstream"])
    assert tasks["report"]["rule"] == "all_done"
    assert parsed["dags"]["heal_realign"]["max_active_runs"] == 1
    assert not [name for name, task in tasks.items() if task["executor"]]


def test_settings_add_optional_steps_and_place_the_tasks_of_the_gpu(
    parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert not {"realign.map_entities", "realign.answer"} & parsed["dags"]["heal_realign"]["tasks"].keys()
    settings = load_settings(
        map_rate=0.3, answer_questions=20, gpu_queue="cuda", gpu_pool="cards", gpu_pod_template="/etc/heal/pod.yaml"
    )
    wanting = parse(
        tmp_path_factory, corpus="lab", **setting_variables(settings),
        # The second executor has the queue's name.
        AIRFLOW__CORE__EXECUTOR="LocalExecutor,cuda:airflow.providers.edge3.executors.EdgeExecutor",
        HEAL_APPROVAL="true", HEAL_ALERTS="hook",
        HEAL_WATCH_MINUTES="5", HEAL_DEADLINE_HOURS="3", HEAL_RUN_TIMEOUT_HOURS="8", HEAL_TASK_TIMEOUT_HOURS="4",
    )  # fmt: skip
    assert wanting["errors"] == {}
    of_corpus = wanting["dags"]["heal_realign__lab"]
    assert set(wanting["dags"]) - set(parsed["dags"]) == {
        "heal_realign__lab", "heal_activate__lab", "heal_maintain__lab",
    }  # fmt: skip
    assert of_corpus["tasks"].keys() == wanting["dags"]["heal_realign"]["tasks"].keys() - {"realign.approve"}
    assert of_corpus["tasks"]["realign.publish"]["outlets"] == ["heal://lab/generation/active"]
    assert "'corpus': 'lab'" in of_corpus["timetable"]
    dag = wanting["dags"]["heal_realign"]
    tasks = dag["tasks"]
    approve = tasks.pop("realign.approve")
    assert approve["downstream"] == ["realign.publish"]
    assert tasks["realign.answer"]["downstream"] == ["realign.approve"]
    tasks["realign.answer"]["downstream"] = approve["downstream"]
    assert_the_road(tasks, settings)
    assert reaches(tasks, "realign.map_entities", "realign.mine")
    for name, task in tasks.items():
        assert task["executor"] == ("cuda" if task["queue"] == "cuda" else None), name
    assert (dag["hours"], dag["deadlines"], dag["callback"]) == (8, [3], True)
    assert {task["hours"] for task in tasks.values()} == {4}
    assert "AssetOrTimeSchedule" in dag["timetable"]
    assert "'classpath': 'heal_watch.SourceTrigger', 'kwargs': {'minutes': 5.0, 'corpus': ''}" in dag["timetable"]


def test_a_dag_says_who_it_is_how_long_it_may_take_and_what_to_do_when_it_fails(parsed: dict[str, Any]) -> None:
    defaults = load_settings()
    names = {dag_id: dag["name"] for dag_id, dag in parsed["dags"].items()}
    assert names == {
        "heal_realign": "HEAL nightly", "heal_activate": "HEAL activate", "heal_maintain": "HEAL maintenance",
    }  # fmt: skip
    for dag in parsed["dags"].values():
        assert dag["description"]
        assert "**If it fails:**" in dag["doc"]
        assert "`docs/operations.md`" in dag["doc"]
        assert (dag["hours"], dag["deadlines"], dag["callback"]) == (defaults.run_timeout_hours, [], False)
        for task in dag["tasks"].values():
            assert (task["owner"], task["hours"]) == ("heal", defaults.task_timeout_hours)
    assert "CronTriggerTimetable" in parsed["dags"]["heal_realign"]["timetable"]


def test_steps_that_change_what_is_served_have_its_asset_as_outlet(parsed: dict[str, Any]) -> None:
    found = {
        name: task["outlets"] for dag in parsed["dags"].values() for name, task in dag["tasks"].items()
        if task["outlets"]
    }  # fmt: skip
    publishing = ("realign.first_light", "realign.publish", "nudge.nudge_live", "activate")
    assert found == {name: ["heal://generation/active"] for name in publishing}


def test_the_example_of_a_dag_after_a_generation_is_scheduled_on_that_asset(parsed: dict[str, Any]) -> None:
    assert parsed["examples"]["errors"] == {}
    assert "'uri': 'heal://generation/active'" in parsed["examples"]["dags"]["after_generation"]


def test_every_task_says_what_it_does_and_where_its_output_is(parsed: dict[str, Any]) -> None:
    for dag in parsed["dags"].values():
        for name, task in dag["tasks"].items():
            assert task["doc"], f"{name} has no doc_md"
            assert task["retries"] > 0
            assert task["policy"] == "ExceptionRetryPolicy"


def test_every_param_has_a_description_and_limits(parsed: dict[str, Any]) -> None:
    params = parsed["dags"]["heal_realign"]["params"]
    assert set(params) == {"force_route", "sources", "sample_documents", "dry_run"}
    for name, schema in params.items():
        assert schema["description"], name
        assert {"enum", "maxLength", "maximum"} & set(schema) or schema["type"] == "boolean", name
    generation = parsed["dags"]["heal_activate"]["params"]["generation"]
    assert (generation["minimum"], generation["maximum"]) == (0, 2**63 - 1), "what Postgres and Airflow can read"


def test_every_step_of_the_table_is_in_a_dag() -> None:
    source = (
        "".join(path.read_text() for path in (ROOT / "dags").glob("*.py"))
        + (ROOT / "plugins" / "heal_airflow.py").read_text()
    )
    for name in STEPS:
        assert f'run_step("{name}"' in source or f'step="{name}"' in source
