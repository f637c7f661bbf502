"""The whole road, in order, on one deployment: realign, nothing, nudge, realign again."""

import functools
import pathlib
import subprocess
from typing import Any

import pytest

from heal_tasks.client import Client
from heal_tasks.client.encoders import query_encoder
from heal_tasks.core.errors import StoreError
from heal_tasks.core.ids import document_id
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import steps_of
from heal_tasks.store.db import connect
from tests.e2e.conftest import DOCUMENTS, Deployment, short


def query(deployment: Deployment, text: str, *values: Any) -> list[tuple[Any, ...]]:
    with connect(deployment.settings.require_database_url()) as conn:
        return conn.execute(text, values).fetchall()


def state_of_vectors(deployment: Deployment) -> list[tuple[Any, ...]]:
    """Changes whenever any served row is written, even with the same value: xmin is the writing transaction."""
    ((generation,),) = query(deployment, "SELECT generation_id FROM heal.generation WHERE state = 'active'")
    return query(deployment, f"SELECT chunk_id, xmin::text FROM heal.vec_g{generation:06d} ORDER BY 1")


def assert_nothing_stale(deployment: Deployment) -> None:
    """Served chunks are exactly the chunks of live documents."""
    served = query(deployment, "SELECT chunk_id FROM heal.embedding ORDER BY 1")
    live = query(
        deployment,
        """SELECT chunk_id FROM heal.chunk JOIN heal.document USING (document_id)
        WHERE superseded_at IS NULL AND deleted_at IS NULL ORDER BY 1""",
    )
    assert served == live
    assert query(deployment, "SELECT count(*) FROM heal.chunk WHERE superseded_at IS NOT NULL") == [(0,)]


def test_a_first_run_realigns(deployment: Deployment) -> None:
    manifests = deployment.manifests["first"]
    assert [item.step for item in manifests] == [
        "ingest",
        "route",
        *steps_of(deployment.settings, "realign"),
        "report",
    ]
    assert all(len(item.model_dump_json()) < 4096 for item in manifests)
    ((route, verdict, generation),) = query(deployment, "SELECT route, verdict, generation_id FROM heal.run")
    assert route == "realign"
    assert verdict
    assert query(deployment, "SELECT generation_id FROM heal.generation WHERE state = 'active'") == [(generation,)]
    assert query(deployment, "SELECT count(*) FROM heal.document WHERE deleted_at IS NULL") == [(DOCUMENTS,)]
    assert query(deployment, "SELECT count(*) > 1 FROM heal.topics WHERE level > 0") == [(True,)]
    assert_nothing_stale(deployment)


def test_questions_say_who_wrote_them_and_quote_their_chunk(deployment: Deployment) -> None:
    assert query(deployment, "SELECT DISTINCT writer FROM heal.question") == [("extractive",)]
    ((questions, grounded),) = query(
        deployment,
        """SELECT count(*), count(*) FILTER (WHERE position(q.evidence IN c.text) > 0)
        FROM heal.question q JOIN heal.chunk c USING (chunk_id)""",
    )
    assert questions > DOCUMENTS
    assert grounded == questions


def test_the_gate_compared_every_candidate_with_the_base_model(deployment: Deployment) -> None:
    systems = {row[0] for row in query(deployment, "SELECT DISTINCT system FROM heal.evaluation")}
    assert {"base model", "answers model", "topics model"} <= systems
    rows = query(
        deployment,
        """SELECT low, value, high, rival FROM heal.evaluation
        WHERE system = 'answers model' AND metric !~ '^hierarchical_'""",
    )
    assert rows
    assert all(low <= value <= high and rival == "live generation" for low, value, high, rival in rows)


def test_psql_returns_neighbours(deployment: Deployment, postgres: EmbeddedPostgres) -> None:
    statement = """SELECT n.title, round(n.distance::numeric, 3) FROM heal.embedding e,
        heal.search(e.embedding, e.generation_id, 3) n WHERE e.chunk_id = (SELECT min(chunk_id) FROM heal.embedding)"""
    command = [str(postgres.bin("psql")), deployment.settings.require_database_url(), "-At", "-c", statement]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("|0.000")


def test_search_by_text_finds_the_document(deployment: Deployment) -> None:
    row = deployment.read("first.jsonl")[0]
    load = functools.partial(query_encoder, settings=deployment.settings)
    with Client(deployment.settings.require_database_url(), encoder=load) as client:
        hits = client.hybrid_search(row["text"][:200], 5)
    assert document_id(deployment.settings.sources[0], row["id"]) in {hit.document_id for hit in hits}


def test_the_report_page_is_complete_and_escaped(deployment: Deployment) -> None:
    ((uri,),) = query(deployment, "SELECT report_uri FROM heal.run WHERE run_id = 'first'")
    with pathlib.Path(f"{uri}/report.html").open(encoding="utf-8") as file:
        page = file.read()
    for part in ("Realign run first", "Retrieval quality", "Topics", "by extractive", "Why this route"):
        assert part in page
    assert "<script" not in page


def test_the_same_run_again_repeats_no_step(deployment: Deployment) -> None:
    steps = "SELECT step, shard, started_at, finished_at FROM heal.step_result WHERE step <> 'report' ORDER BY 1, 2"
    run = "SELECT run_id, finished_at, verdict, state FROM heal.run"
    before = query(deployment, steps), query(deployment, run)
    deployment.run("first")
    assert (query(deployment, steps), query(deployment, run)) == before


def test_no_change_takes_the_route_nothing_and_writes_no_vector(deployment: Deployment) -> None:
    before = state_of_vectors(deployment)
    made = deployment.run("idle")
    assert made[1].text("route") == "nothing"
    assert state_of_vectors(deployment) == before


def test_a_plan_changes_nothing(deployment: Deployment) -> None:
    rows = deployment.read("first.jsonl")
    deployment.write(
        "planned.jsonl", [{**rows[0], "id": "planned", "text": "A planned document about k-means clusters."}]
    )
    plan = make_plan(deployment.settings)
    assert (plan.reading.changes.new, plan.route, plan.questions.chunks, plan.questions.cost_usd) == (
        1,
        "nudge",
        1,
        0.0,
    )
    assert query(deployment, "SELECT count(*) FROM heal.document WHERE external_id = 'planned'") == [(0,)]
    deployment.inbox("planned.jsonl").unlink()


def test_a_dry_run_decides_and_undoes(deployment: Deployment) -> None:
    rows = deployment.read("first.jsonl")
    deployment.write("dry.jsonl", [{**rows[0], "id": "dry", "text": "A document that a dry run only looks at."}])
    made = deployment.run("dry", dry_run=True)
    assert [item.step for item in made] == ["ingest", "route", "report"]
    assert "otherwise nudge" in made[1].note
    assert query(deployment, "SELECT count(*) FROM heal.document WHERE external_id = 'dry'") == [(0,)]
    deployment.inbox("dry.jsonl").unlink()


def test_a_few_documents_take_the_nudge_route(deployment: Deployment) -> None:
    rows = deployment.read("first.jsonl")
    changed, deleted = rows[1]["id"], rows.pop(2)["id"]
    rows[1]["text"] = "This text is new from its first word on. " + rows[1]["text"]
    deployment.write("first.jsonl", rows)
    new = short(sample(("sklearn", "networkx", "scipy"), 4, seed=5, offset=DOCUMENTS))
    deployment.write("second.jsonl", new)
    before = dict(state_of_vectors(deployment))

    made = deployment.run("arrivals")

    assert made[1].text("route") == "nudge", made[1].note
    counts = {item.step: item.counts for item in made}
    assert (counts["ingest"]["new"], counts["ingest"]["changed"], counts["ingest"]["deleted"]) == (4, 1, 1)
    assert_nothing_stale(deployment)
    source = deployment.settings.sources[0]
    assert query(
        deployment, "SELECT count(*) FROM heal.embedding WHERE document_id = %s", document_id(source, deleted)
    ) == [(0,)]
    texts = query(
        deployment,
        """SELECT c.text FROM heal.embedding e JOIN heal.chunk c USING (chunk_id)
        WHERE e.document_id = %s ORDER BY ordinal""",
        document_id(source, changed),
    )
    assert texts[0][0].startswith("This text is new")
    after = dict(state_of_vectors(deployment))
    kept = before.keys() & after.keys()
    rewritten = sum(before[chunk] != after[chunk] for chunk in kept)
    assert rewritten == counts["nudge_live"]["rows_changed"]
    assert len(after.keys() - before.keys()) == counts["nudge_live"]["rows_added"] > 0


def test_nothing_of_a_deleted_document_is_left(deployment: Deployment) -> None:
    row = query(deployment, "SELECT title, body, metadata FROM heal.document WHERE deleted_at IS NOT NULL")
    assert row == [("", "", {})]
    ((number,),) = query(deployment, "SELECT document_id FROM heal.document WHERE deleted_at IS NOT NULL")
    assert query(deployment, "SELECT count(*) FROM heal.chunk WHERE document_id = %s", number) == [(0,)]
    tables = query(
        deployment,
        "SELECT table_name FROM information_schema.tables "
        "WHERE table_schema = 'heal' AND table_name ~ '^(base_s|vec_g)'",
    )
    assert len(tables) >= 3
    for (table,) in tables:
        orphans = f"SELECT chunk_id FROM heal.{table} EXCEPT SELECT chunk_id FROM heal.chunk"
        assert query(deployment, orphans) == [], table


def test_a_forced_realign_compares_with_the_live_generation(deployment: Deployment) -> None:
    made = deployment.run("again", force_route="realign", objectives=("answers",))
    assert [item.step for item in made][2:-1] == list(steps_of(deployment.settings, "realign"))
    systems = {
        row[0] for row in query(deployment, "SELECT DISTINCT system FROM heal.evaluation WHERE run_id = 'again'")
    }
    assert {"base model", "live generation", "answers model"} <= systems
    (label,) = [item for item in made if item.step == "label"]
    assert "churn to the previous run" in label.note
    assert query(deployment, "SELECT count(*) FROM heal.generation WHERE state = 'active'") == [(1,)]
    assert_nothing_stale(deployment)


def test_an_unknown_generation_is_a_named_error(deployment: Deployment) -> None:
    from heal_tasks.store.generations.search import search

    with (
        connect(deployment.settings.require_database_url()) as conn,
        pytest.raises(StoreError, match=r"HEA01.*is active"),
    ):
        search(conn, [0.0] * 383 + [1.0], 999)
