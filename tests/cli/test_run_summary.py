"""The report of a run in the terminal and the SQL examples, over a small planted corpus with a live generation."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from psycopg.types.json import Jsonb

from heal_tasks.cli.examples import DEMO_QUESTIONS, print_examples
from heal_tasks.cli.run_commands import report
from heal_tasks.cli.run_summary import print_report
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError, StepError, StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.report.page import render, store_page
from heal_tasks.report.pictures import Pictures
from heal_tasks.report.summary import summarise
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
TITLES = ["sklearn.cluster.KMeans(n=8)", "sklearn.cluster.KMeans.fit(X)", "numpy.array [odd](x)", "numpy.zeros(shape)"]


def vector(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)]], dtype=np.float32)


def plant_documents(conn: Connection) -> None:
    for number, title in enumerate(TITLES, start=1):
        conn.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
            "VALUES (%s, 'file:x', %s, 'x', %s, 'body', %s)",
            (number, str(number), title, str(number)),
        )
        conn.execute(
            "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) VALUES (%s, %s, 0, 't', 'h')",
            (10 * number, number),
        )


def plant_run(conn: Connection, *, verdict: str | None = "promoted") -> None:
    conn.execute(
        "INSERT INTO heal.run (run_id, route, route_reason, verdict, started_at, finished_at, report_uri) "
        "VALUES ('r', 'realign', 'first run: [no] generation is active', %s, %s, %s, '/reports/r.html')",
        (verdict, START, START + timedelta(seconds=135)),
    )
    result = {"note": "4 new [documents]", "refs": {}, "counts": {"rejected": 0}}
    conn.execute(
        "INSERT INTO heal.step_result (step, fingerprint, run_id, result, started_at, finished_at) "
        "VALUES ('ingest', 'f', 'r', %s, %s, %s)",
        (Jsonb(result), START, START + timedelta(seconds=5)),
    )


def plant_topics(conn: Connection) -> int:
    row = conn.execute(
        "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
        "VALUES ('f', 'u', 4, 2, 2, 1, 0.5) RETURNING topic_run_id"
    ).fetchone()
    assert row is not None
    rows = [(1, None, 0, 0, 1, ["all"], 4), (2, 1, 1, 0, 0, ["cluster", "kmeans"], 2), (3, 1, 1, 1, 1, ["array"], 2)]
    for topic, parent, level, first, last, terms, size in rows:
        conn.execute(
            "INSERT INTO heal.topic (topic_run_id, topic_id, parent_id, level, first_leaf, last_leaf, terms, k, size) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, 2, %s)",
            (row[0], topic, parent, level, first, last, terms, size),
        )
    return int(row[0])


def plant_generation(conn: Connection, topic_run: int) -> None:
    generations, spaces = GenerationRepository(conn), SpaceRepository(conn)
    space = spaces.ensure("/models/m", "s", 2)
    generation = generations.create(run_id="r", space=space, topic_run_id=topic_run)
    generations.create_tables(generation)
    served = np.concatenate([vector(angle) for angle in (0.0, 0.1, 1.0, 1.4)])
    ids = np.arange(1, 5, dtype=np.int64)
    leaves = np.array([0, 0, 1, 1], dtype=np.int32)
    ServedRepository(conn).write_served(generation, Served(10 * ids, ids, leaves, served))
    spaces.write_questions(space, np.array([7], dtype=np.int64), vector(1.4))
    generations.set_fields(generation.generation_id, recall=0.987)
    conn.execute("UPDATE heal.generation SET index_kind = 'vector'")
    generations.set_state(generation.generation_id, "ready")
    generations.activate(generation.generation_id, lock_timeout_ms=1000)


def plant_questions(conn: Connection) -> None:
    for number, split in ((7, "unseen_test"), (8, "train"), (9, "seen_validation")):
        conn.execute(
            "INSERT INTO heal.question "
            "(question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split) VALUES "
            "(%s, 40, 'What gives zeros?', 'a', 'e', 'question', 'extractive', 'extractive', 'p', %s)",
            (number, split),
        )
    for system, rival, difference in (("base model", None, None), ("trained model + NUDGE", "base model", 0.05)):
        conn.execute(
            "INSERT INTO heal.evaluation (run_id, system, question_set, metric, value, low, high, rival, difference, "
            "diff_low, diff_high, questions) VALUES ('r', %s, 'unseen documents', 'ndcg@10', 0.6, 0.5, 0.7, %s, %s, "
            "0.01, 0.09, 99)",
            (system, rival, difference),
        )


def test_a_whole_run(auto: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    plant_documents(auto)
    plant_run(auto)
    plant_questions(auto)
    plant_generation(auto, plant_topics(auto))
    print_report(auto, "r")
    text = capsys.readouterr().out
    for expected in (
        r"Route +realign in 2m15s",
        r"Why +first run: \[no\] generation is active",
        r"Documents +4 in 4 chunks, 0 exact duplicates, 0 rejected",
        r"Topics \(2 of the live generation",
        r"├── cluster, kmeans \(2\)",
        r"└── array \(2\)",
        r"extractive +question +1 +1 +1",
        r"extractive questions are cut from the text itself",
        r"unseen documents +base model +0\.600 \[0\.500, 0\.700\]",
        r"trained model \+ NUDGE +0\.600 \[0\.500, 0\.700\] +base model +\+0\.050 \[\+0\.010, \+0\.090\] +99",
        r"Verdict +promoted",
        r"Active +generation 1 \(space 1, 2 dimensions, not nudged, recall@10 of its vector index 0\.987, since ",
        r"Model +/models/m",
        r"ingest +5\.0s +4 new \[documents\]",
        r"Page +/reports/r\.html",
    ):
        assert re.search(expected, text), f"{expected!r} is not in\n{text}"


def test_a_run_that_did_nothing(auto: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    plant_run(auto, verdict=None)
    print_report(auto, "r")
    text = capsys.readouterr().out
    assert "nothing was measured in this run" in text
    assert "no generation is active yet" in text


def test_no_such_run(auto: Connection) -> None:
    with pytest.raises(StepError, match=r"'r' left nothing in heal\.run; its tasks' logs"):
        print_report(auto, "r")


def test_the_page_is_written_to_a_file(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.html"
    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
    with connect(settings.require_database_url(), autocommit=True) as conn:
        plant_documents(conn)
        plant_run(conn)
        conn.execute("UPDATE heal.run SET report_uri = NULL")
        plant_questions(conn)
        with pytest.raises(StepError, match="run 'r' has no page"):
            report("r", file)
        summary = summarise(conn, "r")
        assert summary is not None
        uri = store_page(artifact_store(settings), "r", render(summary, Pictures()))
        RunRepository(conn).finish_run("r", "promoted", report_uri=uri)
    report("r", file)
    assert "What gives zeros?" in file.read_text(encoding="utf-8")
    for place, reason in ((tmp_path, "Is a directory"), (tmp_path / "none" / "x.html", "No such file or directory")):
        with pytest.raises(InputError, match=rf"{place} cannot be written \({reason}\); name another file"):
            report("r", place)


def test_examples_show_a_command_that_runs_as_shown(
    auto: Connection, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_documents(auto)
    plant_questions(auto)
    plant_generation(auto, plant_topics(auto))
    psql = str(EmbeddedPostgres.bin("psql"))
    print_examples(auto, database_url, psql, ". var/local.env; ")
    out = capsys.readouterr().out
    shown = out.split("\nSQL")[1:]
    assert len(shown) == len(DEMO_QUESTIONS)
    for question, part in zip(DEMO_QUESTIONS, shown, strict=True):
        assert f'. var/local.env; {psql} "$HEAL_DATABASE_URL" -c "SELECT left(title, 70)' in part
        assert f"heal.find('{question}', 3)" in part
    assert all("(0 rows)" in part for part in shown), "this corpus has no lexicon"
    password = database_url.partition("heal:")[2].partition("@")[0]
    assert password
    assert password not in out


def test_no_examples_before_there_is_a_generation(
    auto: Connection, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_examples(auto, database_url, "psql", "")
    assert capsys.readouterr().out == ""


def test_a_psql_that_fails_is_an_error(auto: Connection, database_url: str) -> None:
    plant_documents(auto)
    plant_generation(auto, plant_topics(auto))
    with pytest.raises(StoreError, match=r"the example query failed: .*the command was: /nowhere/psql"):
        print_examples(auto, database_url, "/nowhere/psql", "")
