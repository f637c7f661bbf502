"""The events of a run: a refused promotion, a spend limit, what failed, staleness; and the proposal to approve."""

from collections.abc import Mapping
from typing import Any

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.metrics import NDCG
from heal_tasks.report.events import proposal, run_events, staleness, what_failed
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository


def finish(conn: Connection, step: str, counts: Mapping[str, int], shard: int = 0, **refs: Any) -> None:
    runs = RunRepository(conn)
    runs.begin(step, f"of {step}", shard, "r")
    runs.finish(step, f"of {step}", shard, "r", {"refs": refs, "counts": dict(counts)})


@pytest.mark.parametrize(
    ("best_id", "chosen", "verdict", "refused"),
    [
        (5, 5, "m is promoted over live generation.", False),
        (5, 6, "No candidate beat the live generation; its vectors stay, with the topics of this run.", True),
        (5, 0, "No candidate beat the live generation; it stays.", True),
        (0, 0, "Nothing could be measured: no questions.", False),
        (5, 5, "Not published: admin rejected it; generation 4 stays live.", True),
    ],
)
def test_a_candidate_that_is_not_published_is_refused(
    auto: Connection, best_id: int, chosen: int, verdict: str, refused: bool
) -> None:
    finish(auto, "choose", {}, best_id=best_id, generation_id=chosen)
    assert run_events(auto, "r") == {}, "publish has not ended"
    finish(auto, "publish", {}, generation_id=4, verdict=verdict)
    assert run_events(auto, "r") == ({"refused": verdict} if refused else {})


def test_calls_beyond_the_spend_limit_are_added_up(auto: Connection) -> None:
    finish(auto, "ask", {"over_spend_limit": 3})
    finish(auto, "ask", {"over_spend_limit": 4}, shard=1)
    finish(auto, "map_entities", {"over_spend_limit": 0})
    assert run_events(auto, "r") == {"spend_limit": "7 calls of the language model are left for the next run."}
    assert run_events(auto, "another") == {}


def test_a_failed_run_has_its_verdict_or_else_the_steps_that_did_not_finish(auto: Connection) -> None:
    finish(auto, "ingest", {})
    assert what_failed(auto, "r") == ""
    runs = RunRepository(auto)
    runs.begin("label", "f", 0, "r")
    runs.begin("first_light", "f", 0, "r")
    runs.progress("first_light", "f", 0, "r", 0, 0, "failed: out of memory")
    assert what_failed(auto, "r") == "label: ended without a message; first_light: failed: out of memory"
    runs.open_run("r")
    runs.finish_run("r", "Not finished: the sources were not read.\nNo recall.")
    assert what_failed(auto, "r") == "Not finished: the sources were not read."


def test_only_a_run_that_ended_well_is_news(auto: Connection) -> None:
    assert staleness(auto, 1) == ""
    runs = RunRepository(auto)
    for run_id, verdict in (("good", "26 rows added"), ("bad", "Not finished: train: out of memory")):
        runs.open_run(run_id)
        runs.finish_run(run_id, verdict)
    assert staleness(auto, 1) == ""
    auto.execute("UPDATE heal.run SET finished_at = '2026-01-02 03:04+00' WHERE run_id = 'good'")
    assert staleness(auto, 1.5) == "No run has ended well since 2026-01-02 03:04 UTC (HEAL_STALE_HOURS=1.5)."
    auto.execute("DELETE FROM heal.run WHERE run_id = 'good'")
    assert staleness(auto, 1) == "", "the failed one began now"


def test_a_proposal_names_the_generations_and_shows_the_differences(auto: Connection) -> None:
    runs = RunRepository(auto)
    runs.record_evaluations("r", [
        EvaluationRow(None, "live", "people", NDCG, 0.5, 0.4, 0.6, None, None, None, None, 40),
        EvaluationRow(None, "m", "people", NDCG, 0.62, 0.5, 0.7, "live", 0.12, 0.02, 0.2, 40),
        EvaluationRow(None, "m", "people", "mrr@10", 0.61, 0.5, 0.7, "live", 0.11, 0.02, 0.2, 40),
    ])  # fmt: skip
    refs: dict[str, int | str] = {
        "generation_id": 7, "live_id": 4, "keep_rows": 0, "best_system": "m",
        "verdict": "m is promoted over live.\nm: better",
    }  # fmt: skip
    asked = proposal(auto, Manifest(run_id="r", refs=refs))
    assert asked is not None
    assert asked[0] == "Publish generation 7 in place of generation 4? m is promoted over live."
    assert asked[1].split("\n") == [
        "m: better", "", "| m | measure | value | difference (95 %) | number |", "|---|---|---|---|---|",
        f"| people | {NDCG} | 0.620 | +0.120 (+0.020 to +0.200) to live | 40 |",
    ]  # fmt: skip
    for kept in ({"generation_id": 0}, {"live_id": 0}, {"keep_rows": 1}):
        assert proposal(auto, Manifest(run_id="r", refs=refs | kept)) is None
