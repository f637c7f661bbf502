from dataclasses import replace

import pytest

from heal_tasks.core.types import Rejected
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository

ROW = EvaluationRow(None, "live", "human", "ndcg@10", 0.5, 0.4, 0.6, None, None, None, None, 100)


@pytest.fixture
def runs(auto: Connection) -> RunRepository:
    return RunRepository(auto)


def test_a_run_from_start_to_end(runs: RunRepository) -> None:
    assert runs.get_run("r1") is None
    runs.open_run("r1")
    runs.open_run("r1")
    runs.set_route("r1", "nudge", "few documents", {"changed_share": 0.01})
    runs.finish_run("r1", "better", generation_id=7, report_uri="/r1.html")
    run = runs.get_run("r1")
    assert run is not None
    assert (run.route, run.route_reason, run.route_facts) == ("nudge", "few documents", {"changed_share": 0.01})
    assert (run.verdict, run.generation_id, run.report_uri) == ("better", 7, "/r1.html")
    assert run.finished_at is not None
    runs.open_run("r2")
    assert [item.run_id for item in runs.recent_runs()] == ["r2", "r1"]
    assert [item.run_id for item in runs.recent_runs(1)] == ["r2"]


def result_of(runs: RunRepository, fingerprint: str, shard: int, run_id: str) -> tuple[str, object] | None:
    row = runs.finished("embed", fingerprint, shard, run_id)
    return (row.run_id, row.result) if row else None


def test_a_finished_step_is_found_again_by_its_inputs(runs: RunRepository) -> None:
    runs.begin("embed", "f1", 0, "r1")
    assert result_of(runs, "f1", 0, "r1") is None
    runs.progress("embed", "f1", 0, "r1", 5, 10, "half\x00")
    (row,) = runs.steps_of("r1")
    assert (row.done, row.total, row.message, row.finished_at) == (5, 10, "half\ufffd", None)
    runs.finish("embed", "f1", 0, "r1", {"refs": {"x": 1}})
    assert result_of(runs, "f1", 0, "r1") == ("r1", {"refs": {"x": 1}})
    assert result_of(runs, "f1", 0, "r2") == ("r1", {"refs": {"x": 1}})
    assert result_of(runs, "f1", 1, "r1") is None
    assert result_of(runs, "f2", 0, "r1") is None


def test_a_step_that_begins_again_forgets_its_result_and_not_that_of_another_run(runs: RunRepository) -> None:
    for run_id in ("r1", "r2"):
        runs.begin("embed", "f1", 0, run_id)
        runs.finish("embed", "f1", 0, run_id, {"run_id": run_id})
    assert result_of(runs, "f1", 0, "r1") == ("r1", {"run_id": "r1"})
    runs.begin("embed", "f1", 0, "r1")
    runs.progress("embed", "f1", 0, "r1", 1, 2, "again")
    assert result_of(runs, "f1", 0, "r1") == ("r2", {"run_id": "r2"})
    assert [(row.run_id, row.message) for name in ("r1", "r2") for row in runs.steps_of(name)] == [
        ("r1", "again"), ("r2", ""),
    ]  # fmt: skip


def test_a_result_that_was_taken_over_is_found_where_it_was_made(runs: RunRepository) -> None:
    for run_id in ("r1", "r2"):
        runs.begin("embed", "f1", 0, run_id)
        runs.finish("embed", "f1", 0, run_id, {"run_id": "r1"})
    assert result_of(runs, "f1", 0, "r3") == ("r1", {"run_id": "r1"})
    assert [row.reused_from for name in ("r1", "r2") for row in runs.steps_of(name)] == ["", "r1"]


def test_the_same_refusal_is_one_row_that_moves_to_the_newest_run(runs: RunRepository) -> None:
    refusal = Rejected("a.jsonl", 3, "not JSON", "{\x00")
    runs.quarantine("r1", "file:x", [refusal, replace(refusal, line=4)])
    runs.quarantine("r2", "file:x", [refusal])
    assert runs.quarantined("r1") == [("file:x", "a.jsonl", 4, "not JSON")]
    assert runs.quarantined("r2") == [("file:x", "a.jsonl", 3, "not JSON")]


def test_a_repeated_evaluation_replaces_its_own_rows(runs: RunRepository) -> None:
    rivalled = replace(ROW, rival="base", difference=0.1, diff_low=0.05, diff_high=0.15)
    runs.record_evaluations("r1", [ROW, rivalled, replace(ROW, question_set="unseen")])
    runs.record_evaluations("r2", [ROW])
    runs.record_evaluations("r1", [replace(ROW, value=0.7)])
    assert [(row.value, row.question_set, row.rival) for row in runs.evaluations("r1")] == [
        (0.5, "human", "base"),
        (0.5, "unseen", None),
        (0.7, "human", None),
    ]
    assert runs.evaluations("r2") == [ROW]
