"""The state of the store for its page: empty, and with what runs of every kind leave behind."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from heal_tasks.core.types import JsonObject
from heal_tasks.report.store_charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, quality_charts
from heal_tasks.report.store_state import Measured, read_store
from heal_tasks.store.db import Connection
from heal_tasks.store.questions.rank_changes import RankChange, write_rank_changes
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository
from tests.report.test_page import plant
from tests.store.sample_store import SampleStore

START = datetime(2026, 3, 1, tzinfo=UTC)
UNSEEN, BY_TEXT = "unseen documents", "unseen documents, by text"


def row(system: str, value: float, name: str = UNSEEN, metric: str = "ndcg@10") -> EvaluationRow:
    return EvaluationRow(None, system, name, metric, value, value - 0.1, value + 0.1, None, None, None, None, 9)


def add_run(conn: Connection, number: int, values: dict[str, float], **results: JsonObject) -> None:
    """A run with nDCG@10 of systems, and the results of its steps."""
    runs, name = RunRepository(conn), f"r{number}"
    runs.open_run(name)
    conn.execute("UPDATE heal.run SET started_at = %s WHERE run_id = %s", (START + timedelta(days=number), name))
    runs.record_evaluations(name, [row(*item) for item in values.items()])
    for step, result in results.items():
        runs.begin(step, name, 0, name)
        runs.finish(step, name, 0, name, result)


def test_an_empty_store(auto: Connection) -> None:
    state = read_store(auto)
    assert (state.active, state.live, state.tree, state.age) == (None, None, None, "")
    assert not any((state.runs, state.measured, state.costs, state.rejected, state.generations, state.changes))
    assert quality_charts(state.measured) == []


def test_a_missing_schema_is_named(auto: Connection) -> None:
    auto.execute("DROP SCHEMA heal CASCADE")
    with pytest.raises(psycopg.errors.UndefinedTable):
        read_store(auto)


def test_each_run_shows_the_quality_of_what_was_live_at_its_end(auto: Connection) -> None:
    kept = {"refs": {"generation_id": 3, "best_id": 2, "best_system": "answers model"}, "counts": {}}
    promoted = {"refs": {"generation_id": 4, "best_id": 4, "best_system": "answers model"}, "counts": {}}
    candidates = {"base model": 0.1, "live generation": 0.2, "answers model": 0.3}
    nothing = {"refs": {"generation_id": 0, "best_id": 0, "best_system": ""}, "counts": {}}
    nudge = {"live before": 0.4, "live after": 0.5}
    add_run(auto, 1, candidates, choose=kept)
    add_run(auto, 2, candidates, choose=promoted)
    add_run(auto, 3, candidates, choose=nothing)
    add_run(auto, 4, nudge, nudge_live={"refs": {}, "counts": {"refused": 0}})
    add_run(auto, 5, nudge, nudge_live={"refs": {}, "counts": {"refused": 1}})
    add_run(auto, 6, nudge, nudge_live={"refs": {}, "counts": {}})  # of a version that did not count it
    add_run(auto, 7, {})
    found = [(item.run_id, item.value, item.promoted) for item in read_store(auto).measured]
    assert found == [
        ("r1", 0.2, False), ("r2", 0.3, True), ("r3", 0.2, False),
        ("r4", 0.5, False), ("r5", 0.4, False), ("r6", 0.5, False),
    ]  # fmt: skip


def test_costs_by_month_and_purpose(auto: Connection) -> None:
    auto.execute(
        "INSERT INTO heal.llm_call (run_id, purpose, model, prompt_hash, content_hash, status, cost_usd, input_tokens, "
        "created_at) SELECT 'r', purpose, 'm', 'p', 'c', 'ok', usd, 10, "
        "date_trunc('month', now(), 'UTC') - make_interval(months => ago) FROM (VALUES ('questions', 0.25, 0), "
        "('questions', 0.5, 0), ('maps', 0.125, 0), ('questions', 1, 11), ('questions', 9, 12)) "
        "AS c (purpose, usd, ago)"
    )
    months = read_store(auto).months
    assert [[(cost.purpose, cost.calls, cost.input_tokens, cost.cost_usd) for cost in month] for month in months] == [
        [("questions", 2, 20, 0.75), ("maps", 1, 10, 0.125)], [("questions", 1, 10, 1.0)],
    ]  # fmt: skip


def test_the_latest_open_rejections_are_shown_and_all_are_counted(auto: Connection) -> None:
    auto.execute(
        "INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw, records, created_at, mended_at) "
        "SELECT 'r', 's', 'p', n, 'why', '', 2, now() - make_interval(hours => n), CASE WHEN n = 1 THEN now() END "
        "FROM generate_series(1, 15) n"
    )
    state = read_store(auto)
    assert state.quarantine == (14, 28, 1)
    assert [rejection.line for rejection in state.rejected] == list(range(2, 12))


def test_a_live_generation_with_the_changes_that_it_brought(auto: Connection) -> None:
    plant(auto)
    store = SampleStore(auto)
    made = store.generation()
    store.served.write_served(made, store.wanted(made))
    write_rank_changes(
        auto, made.generation_id,
        [RankChange(1, "text", None, 2), RankChange(2, "text", 1, 4), RankChange(77, "text", 1, 2)],
    )  # fmt: skip
    assert read_store(auto).changes == [], "the generation has not gone live"
    store.generations.set_state(made.generation_id, "ready")
    store.generations.activate(made.generation_id)
    auto.execute("UPDATE heal.generation SET activated_at = now() - interval '49 hours'")
    state = read_store(auto)
    assert state.live is not None
    assert (state.live.generation_id, state.age) == (made.generation_id, "2 days")
    assert state.served == (2, 0, 2, 0, 0)
    assert [(change.rank_before, change.rank_after) for change in state.rose] == [(None, 2)]
    assert [(change.rank_before, change.rank_after) for change in state.fell] == [(1, 4)]
    assert state.rose[0].question.startswith("secret question")
    auto.execute("UPDATE heal.document SET acl = '{alice}' WHERE document_id = 1")
    assert [len(read_store(auto).rose), len(read_store(auto).fell)] == [0, 1], "its document is not for everybody"
    auto.execute("UPDATE heal.document SET acl = NULL")
    auto.execute("SELECT heal.delete_document(1::bigint)")
    assert read_store(auto).rose == [], "a deleted question is in no list"
    assert read_store(auto).served == (1, 0, 1, 0, 0)
    auto.execute("UPDATE heal.chunk SET superseded_at = now()")
    auto.execute(
        "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) VALUES (21, 2, 0, 'new', 'n')"
    )
    assert read_store(auto).served == (1, 0, 1, 1, 1)


def measured(number: int, name: str, value: float, low: float | None, high: float | None) -> Measured:
    when = START + timedelta(days=number)
    return Measured(f"r{number}", when, number == 2, name, "ndcg@10", value, low, high, 9)


def test_a_chart_has_every_value_at_its_place() -> None:
    rows = [
        measured(1, UNSEEN, 0.5, 0.45, 0.55), measured(1, BY_TEXT, 0.6, 0.58, 0.62),
        measured(2, UNSEEN, 0.7, 0.6, 0.8), measured(9, UNSEEN, 0.75, None, None),
    ]  # fmt: skip
    (chart,) = quality_charts(rows)
    assert (chart.name, chart.metric, [curve.name for curve in chart.curves]) == (
        UNSEEN, "nDCG@10", ["by text (heal.find)", "by encoder"],
    )  # fmt: skip
    (low, first), (high, last) = chart.ticks[0], chart.ticks[-1]

    def value(y: float) -> float:
        return float(first) + (y - low) / (high - low) * (float(last) - float(first))

    points = chart.curves[1].points
    assert [value(point.y) for point in points] == pytest.approx([0.5, 0.7, 0.75])
    assert [value(point.low) for point in points] == pytest.approx([0.45, 0.6, 0.75])
    assert [value(point.high) for point in points] == pytest.approx([0.55, 0.8, 0.75])
    assert [point.x for point in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    assert all(TOP - 1e-9 <= point.high <= point.low <= HEIGHT for point in points)
    assert chart.promotions == [points[1].x]


@pytest.mark.parametrize("value", [0.0, 0.004, 0.5, 0.999, 1.0])
def test_a_single_value_has_a_scale(value: float) -> None:
    (chart,) = quality_charts([measured(1, UNSEEN, value, None, None)])
    assert 3 <= len(chart.ticks) <= 6
    labels = [float(label) for _, label in chart.ticks]
    assert labels[0] <= value <= labels[-1] <= 1.0 or value < 0.01
    assert len(set(labels)) == len(labels)
