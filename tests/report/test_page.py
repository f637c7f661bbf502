"""The stored page has no text of documents or questions; a page that is read shows what the database still has."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import Markup, escape

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import StepError
from heal_tasks.core.settings import load_settings
from heal_tasks.report.page import MAX_SAMPLES, PAGE, read_page, read_samples, render, store_page
from heal_tasks.report.pictures import Pictures, Projection, draw
from heal_tasks.report.store_map import MAP, read_map, write_map
from heal_tasks.report.stored_tree import StoredTree
from heal_tasks.report.summary import summarise
from heal_tasks.steps.report import _verdict
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.topics import TopicRow, TopicRun
from heal_tasks.store.runs.runs import RunRepository

ROOT = Path(__file__).parents[2]
NOTHING = Pictures()
EVIL = "<script>alert('x & y')</script>"


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")


def plant(conn: Connection) -> None:
    """Two documents with a kept and a dropped question each; run ``r``."""
    RunRepository(conn).open_run("r")
    for number, word in ((1, "secret"), (2, "open")):
        conn.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
            "VALUES (%s, 's', %s, 'x', %s, 'body', %s)",
            (number, word, f"{word} title {EVIL}", word),
        )
        conn.execute(
            "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) VALUES (%s, %s, 0, 't', 'h')",
            (10 * number, number),
        )
        add_question(conn, number, 10 * number, f"{word} question {EVIL}", f"{word} answer")
        conn.execute(
            "INSERT INTO heal.question_dropped (chunk_id, run_id, shard, text, answer, evidence, kind, writer, reason) "
            "VALUES (%s, 'r', 0, %s, 'a', 'e', 'claim', 'llm', 'short')",
            (10 * number, f"{word} dropped {EVIL}"),
        )


def add_question(conn: Connection, key: int, chunk_id: int, text: str, answer: str) -> None:
    conn.execute(
        "INSERT INTO heal.question (question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, "
        "split) VALUES (%s, %s, %s, %s, 'e', 'question', 'llm', 'm', 'p', 'train')",
        (key, chunk_id, text, answer),
    )


def publish(conn: Connection, artifacts: ArtifactStore) -> str:
    """The URI of the page of run ``r``."""
    summary = summarise(conn, "r")
    assert summary is not None
    uri = store_page(artifacts, "r", render(summary, NOTHING))
    RunRepository(conn).finish_run("r", "Promoted.", report_uri=uri)
    return uri


def test_samples_are_added_when_the_page_is_read(auto: Connection, artifacts: ArtifactStore) -> None:
    plant(auto)
    uri = publish(auto, artifacts)
    stored = (artifacts.local(uri) / PAGE).read_text(encoding="utf-8")
    assert not re.search("secret|open question|open answer|open title", stored)
    assert "Sample questions are read from the database" in stored
    page = read_page(auto, artifacts, "r")
    assert page is not None
    for word in ("secret", "open"):
        for text in (f"{word} question", f"{word} answer", f"{word} title", f"{word} dropped"):
            assert text in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x &amp; y&#39;)&lt;/script&gt;" in page
    assert "Sample questions are read from the database" not in page


def test_a_deleted_document_is_in_no_page(auto: Connection, artifacts: ArtifactStore) -> None:
    plant(auto)
    publish(auto, artifacts)
    auto.execute("SELECT heal.delete_document(1::bigint)")
    page = read_page(auto, artifacts, "r")
    assert page is not None
    assert "secret" not in page
    assert "open question" in page
    auto.execute("SELECT heal.delete_document(2::bigint)")
    page = read_page(auto, artifacts, "r")
    assert page is not None
    assert "Document</th>" not in page


def test_a_page_has_no_question_about_a_document_that_is_not_for_everybody(
    auto: Connection, artifacts: ArtifactStore
) -> None:
    plant(auto)
    publish(auto, artifacts)
    auto.execute("UPDATE heal.document SET acl = '{alice}' WHERE document_id = 1")
    page = read_page(auto, artifacts, "r")
    assert page is not None
    assert "secret" not in page
    assert "open question" in page


def test_samples_are_the_newest_at_the_end_of_the_run(auto: Connection, artifacts: ArtifactStore) -> None:
    plant(auto)
    for number in range(20):
        add_question(auto, 100 + number, 10, f"early {number}", "a")
    auto.execute("UPDATE heal.question SET created_at = now() - make_interval(hours => question_id::int)")
    publish(auto, artifacts)
    auto.execute("UPDATE heal.run SET finished_at = now() - interval '101.5 hours'")
    run = RunRepository(auto).get_run("r")
    assert run is not None
    kept, dropped = read_samples(auto, run)
    assert [sample.text for sample in kept] == [f"early {number}" for number in range(2, 2 + MAX_SAMPLES)]
    assert [(sample.detail, sample.kind, sample.writer) for sample in dropped] == [("short", "claim", "llm")] * 2


def test_no_page_and_a_page_that_is_gone(auto: Connection, artifacts: ArtifactStore) -> None:
    assert read_page(auto, artifacts, "r") is None
    plant(auto)
    assert read_page(auto, artifacts, "r") is None
    artifacts.delete(publish(auto, artifacts))
    with pytest.raises(StepError, match="missing or incomplete"):
        read_page(auto, artifacts, "r")


@pytest.mark.parametrize("content", [b"<h1>Run r</h1><a href=http://evil.example>sign in again</a>", b"\xff"])
def test_a_page_and_a_map_that_were_changed_are_not_shown(
    auto: Connection, artifacts: ArtifactStore, content: bytes
) -> None:
    plant(auto)
    page = Path(publish(auto, artifacts)) / PAGE
    page.write_bytes(content)
    with pytest.raises(StepError, match=r"report\.html of run 'r' in .* (has been changed since|cannot be read)"):
        read_page(auto, artifacts, "r")
    uri = write_map(artifacts, "r", Projection([Markup("<svg/>"), Markup("<svg/>")], ["a\rb"], 2))
    refs = f'{{"refs": {{"map_uri": "{uri}"}}}}'
    auto.execute(
        "INSERT INTO heal.step_result (step, fingerprint, run_id, finished_at, result) "
        "VALUES ('report', 'f', 'r', now(), %s)", (refs,),
    )  # fmt: skip
    found = read_map(auto, artifacts)
    assert found is not None and "<svg/>" in found.picture
    (Path(uri) / MAP).write_bytes(content)
    found = read_map(auto, artifacts)
    assert found is not None and not found.picture
    assert "has been changed since" in found.problem or "cannot be read" in found.problem


def test_a_run_without_measurements_has_no_pictures(auto: Connection, artifacts: ArtifactStore) -> None:
    plant(auto)
    summary = summarise(auto, "r")
    assert summary is not None
    assert draw(auto, artifacts, summary, "m") == NOTHING


def test_words_of_topics_are_escaped(auto: Connection) -> None:
    plant(auto)
    summary = summarise(auto, "r")
    assert summary is not None
    row = TopicRow(0, None, 0, 0, 0, [EVIL], 1, None, 2, EVIL)
    run = TopicRun(1, "f", "u", 2, 1, 1, 0, None, 0.5, summary.run.started_at)
    pictures = Pictures(projection=Projection([Markup("<svg/>"), Markup("<svg/>")], [EVIL], 2))
    page = render(replace(summary, tree=StoredTree(run, [row])), pictures)
    assert "<script" not in page
    assert page.count(str(escape(EVIL))) == 2, "in the legend and in the tree"
    assert page.count("<svg/>") == 2


def test_every_table_scrolls_in_its_own_box(auto: Connection, artifacts: ArtifactStore) -> None:
    plant(auto)
    publish(auto, artifacts)
    page = read_page(auto, artifacts, "r") or ""
    assert page.count("<table") == page.count('<div class="scroll"><table style=') > 3


def test_reading_and_rendering_a_page_loads_no_drawing_library() -> None:
    code = (
        "import sys, heal_tasks.report.page, heal_tasks.steps.report; "
        "print(sorted(set(sys.modules) & {'matplotlib', 'sklearn', 'scipy', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failed_run_looks_failed_and_shows_the_failed_step_first(auto: Connection) -> None:
    plant(auto)
    auto.execute(
        """INSERT INTO heal.step_result (step, fingerprint, run_id, finished_at, result, message) VALUES
            ('ingest', 'f', 'r', now(), '{"note": "7 documents", "refs": {}, "counts": {}}', ''),
            ('route', 'f', 'r', NULL, NULL, 'failed: no memory'), ('report', 'f', 'r', NULL, NULL, '')"""
    )
    summary = summarise(auto, "r")
    assert summary is not None
    verdict = _verdict(summary, load_settings())
    page = render(replace(summary, run=replace(summary.run, verdict=verdict)), NOTHING)
    assert "<title>Failed: HEAL run r</title>" in page
    assert '<h1 class="bad">Failed run r</h1>' in page
    assert page.index("no memory") < page.index(">7 documents<") < page.index('id="documents"')
    assert "<td>report</td>" not in page, "it is the step that writes the page"
    ended = render(replace(summary, run=replace(summary.run, verdict="Promoted.")), NOTHING)
    assert "Failed" not in ended
