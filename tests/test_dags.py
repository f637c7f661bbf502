"""The DAGs as Airflow sees them: they parse, quickly and lightly, and have the road's shape."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.settings import child_environment
from heal_tasks.steps.engine.road import STEPS

ROOT = Path(__file__).parents[1]

HEAVY = {"torch", "numpy", "psycopg", "openai", "boto3", "sklearn", "sentence_transformers"}

INSPECT = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
import airflow.settings
started = time.perf_counter()
bag = DagBag({dags!r})
seconds = time.perf_counter() - started
from airflow.serialization.serialized_objects import DagSerialization
dags = {{}}
for dag in bag.dags.values():
    DagSerialization.from_dict(DagSerialization.to_dict(dag))
    dags[dag.dag_id] = {{
        "tasks": {{
            task.task_id: {{
                "downstream": sorted(task.downstream_task_ids), "doc": task.doc_md, "retries": task.retries,
                "policy": type(task.retry_policy).__name__, "queue": task.queue, "pool": task.pool,
                "mapped": hasattr(task, "expand_input"), "rule": task.trigger_rule.value,
            }}
            for task in dag.tasks
        }},
        "params": {{name: dag.params.get_param(name).schema | {{"description": dag.params.get_param(name).description}}
                    for name in dag.params}},
        "max_active_runs": dag.max_active_runs,
    }}
heavy = sorted(set(sys.modules) & {heavy!r})
found = {{"errors": bag.import_errors, "seconds": seconds, "heavy": heavy, "dags": dags}}
json.dump(found, open({out!r}, "w"), default=str)
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return parse(tmp_path_factory)


def parse(tmp_path_factory: pytest.TempPathFactory, **settings: str) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("airflow")
    out = folder / "parsed.json"
    environment = child_environment(
        AIRFLOW_HOME=str(folder),
        PYTHONPATH=str(ROOT),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__UNIT_TEST_MODE="True",
        **settings,
    )
    code = INSPECT.format(dags=str(ROOT / "dags"), out=str(out), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(out.read_text()))


def test_every_dag_parses_within_two_seconds(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {"heal_realign", "heal_activate", "heal_maintain"}
    assert parsed["seconds"] < 2


def test_parsing_loads_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert parsed["heavy"] == []


def test_the_road(parsed: dict[str, Any]) -> None:
    tasks = parsed["dags"]["heal_realign"]["tasks"]
    road = [
        "ingest", "route", "follow", "realign.label", "realign.ask", "realign.embed_base", "realign.sift",
        "realign.mine", "realign.train", "realign.embed", "realign.nudge", "realign.evaluate", "realign.index",
        "realign.promote", "report",
    ]  # fmt: skip
    short = ["follow", "nudge.assign_labels", "nudge.ask", "nudge.embed_new", "nudge.nudge", "report"]
    for path in (road, short, ["follow", "nothing", "report"]):
        for before, after in pairwise(path):
            assert after in tasks[before]["downstream"], f"{before} does not lead to {after}"
    assert {name for name, task in tasks.items() if task["mapped"]} == {
        "realign.ask", "realign.embed_base", "realign.embed",
    }  # fmt: skip
    assert tasks["realign.train"]["queue"] == "gpu"
    assert tasks["realign.train"]["pool"] == "gpu"
    assert tasks["report"]["rule"] == "all_done"
    assert parsed["dags"]["heal_realign"]["max_active_runs"] == 1


def test_the_root_of_large_corpora_is_shared_out_on_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    parsed = parse(tmp_path_factory, HEAL_TOPIC_SHARDS="4")
    assert parsed["errors"] == {}
    tasks = parsed["dags"]["heal_realign"]["tasks"]
    for before, after in pairwise(["follow", "realign.count_words", "realign.factorise", "realign.label"]):
        assert after in tasks[before]["downstream"]
    assert tasks["realign.factorise"]["mapped"]
    assert "realign.label" not in tasks["follow"]["downstream"]


def test_entity_maps_are_asked_for_where_they_are_wanted(
    parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert "realign.map_entities" not in parsed["dags"]["heal_realign"]["tasks"]
    wanting = parse(tmp_path_factory, HEAL_MAP_RATE="0.3")
    assert wanting["errors"] == {}
    tasks = wanting["dags"]["heal_realign"]["tasks"]
    for before, after in pairwise(["realign.ask", "realign.map_entities", "realign.mine"]):
        assert after in tasks[before]["downstream"]
    assert tasks["realign.map_entities"]["mapped"]
    assert tasks["realign.map_entities"]["doc"]


def test_questions_are_answered_where_it_is_wanted(
    parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert "realign.answer" not in parsed["dags"]["heal_realign"]["tasks"]
    wanting = parse(tmp_path_factory, HEAL_ANSWER_QUESTIONS="20")
    assert wanting["errors"] == {}
    tasks = wanting["dags"]["heal_realign"]["tasks"]
    for before, after in pairwise(["realign.evaluate", "realign.answer", "realign.index"]):
        assert after in tasks[before]["downstream"]
    assert tasks["realign.answer"]["doc"]


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


def test_every_step_of_the_catalogue_is_in_a_dag() -> None:
    source = (
        "".join(path.read_text() for path in (ROOT / "dags").glob("*.py"))
        + (ROOT / "plugins" / "heal_airflow.py").read_text()
    )
    for name in STEPS:
        assert f'run_step("{name}"' in source
