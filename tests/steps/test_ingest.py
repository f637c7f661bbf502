"""Step ingest on a real store: what a run leaves for step route, and a dry run that reads once and stores nothing."""

import json
from collections import Counter

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.files import FolderSource
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.runs.runs import RunRepository


def write(settings: Settings, name: str, *ids: str) -> None:
    rows = [{"id": number, "title": "", "text": f"The text of document {number}."} for number in ids]
    inbox = settings.var_dir / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_dry_run_reads_every_file_once_and_stores_nothing(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings, "a.jsonl", "1", "2")
    load_step("ingest").run(settings, Manifest(run_id="first"))
    write(settings, "b.jsonl", "3")
    write(settings, "c.jsonl", "4", "5")
    read, original = Counter[str](), FolderSource.read

    def counted(source: FolderSource, file: SourceFile, limit: int) -> bytes:
        read[file.path] += 1
        return original(source, file, limit)

    monkeypatch.setattr(FolderSource, "read", counted)
    dry = settings.model_copy(update={"dry_run": True})
    ingested = load_step("ingest").run(dry, Manifest(run_id="dry"))
    routed = load_step("route").run(dry, ingested)

    assert read == {"b.jsonl": 1, "c.jsonl": 1}
    assert ingested.refs["new"] == 3
    assert ingested.note == "5 documents: 3 new, 0 changed, 0 deleted, 0 rejected (dry run, undone)"
    assert routed.text("route") == "nothing"
    assert routed.note.startswith("nothing: dry run; otherwise realign: ")
    assert auto.execute("SELECT count(*) FROM heal.document").fetchone() == (2,)
    run = RunRepository(auto).get_run("dry")
    assert run is not None
    assert (run.route, run.route_reason) == ("nothing", routed.note.removeprefix("nothing: "))
    assert run.route_facts["new"] == 3


def test_a_run_makes_judgments_of_feedback(settings: Settings, auto: Connection) -> None:
    write(settings, "a.jsonl", "1", "2")
    load_step("ingest").run(settings, Manifest(run_id="first"))
    for voter in ("ann", "bob"):
        auto.execute("SELECT heal.feedback('which?', min(chunk_id), true, %s) FROM heal.chunk", (voter,))
    dry = settings.model_copy(update={"dry_run": True})
    assert "1 judgments made of feedback" in load_step("ingest").run(dry, Manifest(run_id="dry")).note
    assert auto.execute("SELECT FROM heal.question").rowcount == 0
    made = load_step("ingest").run(settings, Manifest(run_id="second"))
    assert (
        made.note == "2 documents: 0 new, 0 changed, 0 deleted, 0 rejected; 1 judgments made of feedback, 0 taken back"
    )
    assert auto.execute("SELECT text, writer, model FROM heal.question").fetchall() == [("which?", "human", "feedback")]


def test_route_reads_the_numbers_of_changes_from_the_manifest(settings: Settings, auto: Connection) -> None:
    write(settings, "a.jsonl", "1", "2", "3")
    load_step("ingest").run(settings, Manifest(run_id="first"))
    write(settings, "a.jsonl", "1", "2")
    made = load_step("ingest").run(settings, Manifest(run_id="second"))
    assert (made.refs["new"], made.refs["changed"], made.refs["deleted"]) == (0, 0, 1)
    load_step("route").run(settings, made)
    run = RunRepository(auto).get_run("second")
    assert run is not None
    assert run.route_facts["deleted"] == 1


def test_another_text_language_reaches_documents_that_name_none_and_are_not_read_again(
    settings: Settings, auto: Connection
) -> None:
    def stored() -> list[tuple[str, str]]:
        query = "SELECT d.language, c.words::text FROM heal.document d JOIN heal.chunk c USING (document_id)"
        return auto.execute(f"{query} ORDER BY title").fetchall()

    inbox = settings.var_dir / "inbox"
    inbox.mkdir(parents=True)
    rows = [{"id": "named", "text": "Houses", "lang": "en"}, {"id": "none", "text": "Houses", "language": ""}]
    (inbox / "a.jsonl").write_text("".join(json.dumps(row | {"title": row["id"]}) + "\n" for row in rows))
    load_step("ingest").run(settings, Manifest(run_id="first"))
    assert stored() == [("english", "'hous':2 'name':1"), ("english", "'hous':2 'none':1")]
    german = settings.model_copy(update={"text_language": "german"})
    load_step("ingest").run(german, Manifest(run_id="second"))
    assert stored() == [("english", "'hous':2 'name':1"), ("german", "'hous':2 'non':1")]
