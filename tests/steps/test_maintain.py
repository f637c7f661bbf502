"""Maintenance, and that nothing is left of a deleted document: not in a table, not in a file."""

from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from heal_tasks.core.artifacts import ArtifactStore, artifact_store
from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import document_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.report.page import read_page
from heal_tasks.steps import maintain as maintain_module
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors.training_set import save
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.indexing import recall
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.runs.run_lock import one_step
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.training.data import ValidationSet
from tests.steps.planted_store import DOCUMENT, SECRET, build, fill, hopeless_index, publish, spoil_index


def finish_step(conn: Connection, step: str, run_id: str, **refs: str) -> None:
    runs = RunRepository(conn)
    runs.begin(step, f"{step}-{run_id}", 0, run_id)
    runs.finish(step, f"{step}-{run_id}", 0, run_id, Manifest(run_id=run_id, step=step, refs=refs).to_json())


def write(artifacts: ArtifactStore, key: str, text: str = "weights") -> str:
    with artifacts.writing(key) as folder:
        (folder / "file.txt").write_text(text)
    return artifacts.uri(key)


def maintain(settings: Settings, run_id: str = "m") -> Manifest:
    return load_step("maintain").run(settings, Manifest(run_id=run_id))


def noted(conn: Connection) -> str:
    """What the step said."""
    ((note,),) = conn.execute("SELECT result ->> 'note' FROM heal.step_result WHERE step = 'maintain'").fetchall()
    return str(note)


def places(conn: Connection, settings: Settings, word: str) -> set[str]:
    """Every column of every table, and every file, that has the word in it."""
    found = set()
    columns = conn.execute(
        """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'heal'::regnamespace AND c.relkind = 'r' AND NOT a.attisdropped"""
    ).fetchall()
    assert len(columns) > 100
    for table, column in columns:
        query = sql.SQL("SELECT count(*) FROM heal.{} WHERE {}::text ILIKE %s").format(
            sql.Identifier(table), sql.Identifier(column)
        )
        row = conn.execute(query, (f"%{word}%",)).fetchone()
        if row and row[0]:
            found.add(f"{table}.{column}")
    root = Path(settings.artifacts_uri)
    return found | {
        path.relative_to(root).parts[0]
        for path in root.rglob("*")
        if path.is_file() and word.encode() in path.read_bytes()
    }


def test_nothing_of_a_deleted_document_is_left_anywhere(auto: Connection, settings: Settings) -> None:
    artifacts, runs = artifact_store(settings), RunRepository(auto)
    runs.open_run("r")
    fill(auto)
    generations = [publish(auto, f"model{seed}", seed) for seed in range(3)]
    before_deletion = ServedRepository(auto).load_served(generations[2])
    with artifacts.writing("training_sets/t") as folder:
        row = {"question": "q", "document": SECRET, "document_id": DOCUMENT, "leaf": 0, "path": [], "negatives": []}
        save(folder, [row], ValidationSet([SECRET], [SECRET], [np.array([0])], np.array([1]), np.array([[-1]])))
    finish_step(auto, "mine", "r", training_set_uri=artifacts.uri("training_sets/t"))
    finish_step(auto, "train", "r", answers_model_uri=write(artifacts, "models/m"))
    # The newest question and the newest refusal are what a page shows.
    auto.execute("UPDATE heal.question SET created_at = created_at - interval '1 s' WHERE answer <> %s", (SECRET,))
    auto.execute("DELETE FROM heal.question_dropped WHERE answer NOT LIKE %s", (f"%{SECRET}",))
    load_step("report").run(settings, Manifest(run_id="r"))
    everywhere = places(auto, settings, SECRET[:10])
    assert {
        "document.title", "document.body", "document.metadata", "chunk.text", "chunk.words", "question.text",
        "question.answer", "question.evidence", "question_dropped.text",
        "entity_map.map", "llm_batch_row.problem", "llm_call.raw_reply",
        "training_sets",
    } <= everywhere  # fmt: skip
    assert "reports" not in everywhere, "a stored page has no text of documents"
    assert SECRET in str(read_page(auto, artifacts, "r"))

    auto.execute("SELECT heal.delete_document(%s::bigint)", (DOCUMENT,))
    assert places(auto, settings, SECRET[:10]) == {"training_sets"}, "the files follow"
    assert SECRET not in str(read_page(auto, artifacts, "r"))
    assert "Where is the body?" in str(read_page(auto, artifacts, "r"))
    counts = maintain(settings).counts

    assert places(auto, settings, SECRET[:10]) == set()
    assert counts["training_sets_deleted"] == 1
    for generation in generations:
        health = ServedRepository(auto).health(generation)
        assert (health["orphans"], health["superseded"]) == (0, 0)
    served = ServedRepository(auto).load_served(generations[2])
    assert len(served.chunk_ids) == len(before_deletion.chunk_ids) - 1


def test_stems_that_another_language_has_left_go_after_a_deletion(auto: Connection, settings: Settings) -> None:
    for language in ("english", "german"):
        texts = [Record("x", "", "A quarterly report", {"language": language}), Record("y", "", "A whale")]
        DocumentRepository(auto).apply_records("s", texts, lambda title, text: [("", text)])
        if GenerationRepository(auto).active() is None:
            load_step("first_light").run(settings, Manifest(run_id="r"))
    auto.execute("SELECT heal.delete_document(%s)", (document_id("s", "x"),))
    assert maintain(settings).counts["served_active"] == 1
    assert auto.execute("SELECT stem FROM heal.lex_g000001").fetchall() == [("whale",)]


def test_drained_generations_go_with_the_files_that_only_they_needed(auto: Connection, settings: Settings) -> None:
    artifacts = artifact_store(settings)
    fill(auto, 20)
    for seed in range(4):
        run_id = f"r{seed}"
        finish_step(auto, "mine", run_id, training_set_uri=write(artifacts, f"training_sets/{seed}"))
        finish_step(auto, "train", run_id, answers_model_uri=write(artifacts, f"models/{seed}"))
    # The fourth model lost at the gate; the first two generations are retired when the third is activated.
    for seed in (0, 1, 2):
        publish(auto, artifacts.uri(f"models/{seed}"), seed, run_id=f"r{seed}")
    fresh = settings.model_copy(update={"drain_hours": 1.0})
    kept = maintain(fresh)
    assert (kept.counts["generations_dropped"], kept.counts["models_deleted"]) == (0, 0)
    assert all(artifacts.exists(artifacts.uri(f"models/{seed}")) for seed in range(4))

    made = maintain(settings.model_copy(update={"drain_hours": 0.0}), "late")

    assert (made.counts["generations_dropped"], made.counts["models_deleted"]) == (1, 2)
    for kind in ("models", "training_sets"):
        assert [artifacts.exists(artifacts.uri(f"{kind}/{seed}")) for seed in range(4)] == [False, True, True, False]
    assert [item.state for item in GenerationRepository(auto).list()] == ["retired", "previous", "active"]
    assert {name for name in made.counts if name.endswith("_active")} >= {
        "recall_active",
        "dead_rows_active",
        "orphans_active",
    }


def test_a_generation_that_is_dropped_while_it_is_looked_at_is_no_fault(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a run that publishes another one where nothing drains."""
    fill(auto)
    for seed in (0, 1):
        publish(auto, f"m{seed}", seed)
    vacuum = maintain_module.vacuum

    def late(conn: Connection, table: str) -> int:
        if table == "vec_g000001":
            publish(auto, "m2", 2)
            assert GenerationRepository(auto).retire_old(0) == [1]
        return vacuum(conn, table)

    monkeypatch.setattr(maintain_module, "vacuum", late)
    made = maintain(settings)
    assert made.counts["recall_active"] == 1.0
    assert "generation 1 was dropped meanwhile" in noted(auto)
    monkeypatch.setattr(maintain_module, "vacuum", vacuum)
    auto.execute("DROP TABLE heal.vec_g000002 CASCADE")
    with pytest.raises(psycopg.errors.UndefinedTable):  # then it is a fault
        maintain(settings, "broken")


def test_dead_rows_are_vacuumed_and_recall_is_written_down(auto: Connection, settings: Settings) -> None:
    fill(auto)
    generation = publish(auto, "m", 1)
    auto.execute("UPDATE heal.vec_g000001 SET leaf = 5")
    auto.execute("SELECT pg_stat_force_next_flush()")
    made = maintain(settings)
    assert made.counts["dead_rows_active"] == 61
    assert made.counts["recall_active"] == GenerationRepository(auto).get(generation.generation_id).recall == 1.0
    assert auto.execute("SELECT dead_rows, rows FROM heal.generation_status").fetchall() == [(0, 61)]


def test_low_recall_raises_ef_search_and_then_fails(auto: Connection, settings: Settings) -> None:
    fill(auto, 600)
    generation = publish(auto, "m", 1)
    generations = GenerationRepository(auto)
    spoil_index(auto, generation)
    before = recall(auto, generation, 30)
    assert before is not None
    target = before + 0.1
    maintain(settings.model_copy(update={"recall_target": target}))
    raised = generations.get(generation.generation_id)
    assert raised.ef_search > 10
    assert raised.recall is not None
    assert raised.recall >= target
    hopeless_index(auto)
    with pytest.raises(
        StepError, match=r"recall@10 of generation 1 is 0\.400 at ef_search 1000, below HEAL_RECALL_TARGET"
    ):
        maintain(settings, "hopeless")
    assert generations.get(generation.generation_id).recall == 0.4


def test_orphans_are_a_fault_and_an_empty_store_is_none(auto: Connection, settings: Settings) -> None:
    assert maintain(settings).counts["generations_dropped"] == 0
    fill(auto, 5)
    publish(auto, "m", 1)
    auto.execute("INSERT INTO heal.vec_g000001 SELECT 1, 1, 0, embedding FROM heal.vec_g000001 LIMIT 1")
    with pytest.raises(StepError, match="generation 1 has 1 rows of deleted chunks"):
        maintain(settings, "faulty")


def test_what_a_dead_run_was_building_goes_and_what_a_living_one_builds_stays(
    auto: Connection, settings: Settings
) -> None:
    fill(auto)
    publish(auto, "live", 1)
    generations, url = GenerationRepository(auto), settings.require_database_url()
    made = {}
    for run_id in ("alive", "dead", "waiting", "ended"):
        made[run_id] = build(auto, "live", 1, run_id)
        generations.create_tables(made[run_id])
        RunRepository(auto).open_run(run_id)
        RunRepository(auto).begin("publish", run_id, 0, run_id)
    old = [made["alive"].generation_id, made["dead"].generation_id]
    auto.execute(
        "UPDATE heal.generation SET created_at = now() - interval '25 h' WHERE generation_id = ANY(%s)", (old,)
    )
    RunRepository(auto).finish_run("ended", "Not finished: publish: killed")
    with one_step(url, "alive", print):
        counts = maintain(settings).counts
    assert counts["abandoned_generations_dropped"] == 2
    states = {run_id: generations.get(item.generation_id).state for run_id, item in made.items()}
    assert states == {"alive": "building", "dead": "failed", "waiting": "building", "ended": "failed"}
    there = {run_id: bool(tables_of(auto, item.generation_id)) for run_id, item in made.items()}
    assert there == {"alive": True, "dead": False, "waiting": True, "ended": False}
    assert maintain(settings, "m2").counts["abandoned_generations_dropped"] == 1, "the run of that step has ended"


def tables_of(conn: Connection, generation_id: int) -> list[str]:
    query = "SELECT relname FROM pg_class WHERE relname ~ %s"
    return [name for (name,) in conn.execute(query, (f"^(vec|lex)_g0*{generation_id}$",))]
