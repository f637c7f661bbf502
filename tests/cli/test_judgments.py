"""Import of judgments: stored rows, and errors of wrong lines."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heal_tasks.cli.judgments import judgments
from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.store.db import connect
from heal_tasks.store.documents.documents import DocumentRepository

SOURCE = "file:/inbox"
Run = Callable[..., str]


@pytest.fixture
def settings(database_url: str) -> Settings:
    with connect(database_url, autocommit=True) as conn:
        records = [Record(f"d{number}", "T", f"text {number}") for number in range(30)]
        DocumentRepository(conn).apply_records(SOURCE, records, lambda title, body: [body])
    return load_settings(database_url=database_url, sources=(SOURCE,), source_roots=(SOURCE,))


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command, and return its output."""
    monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
    monkeypatch.setenv("HEAL_SOURCES", SOURCE)

    def command(path: Path, source: str | None = None) -> str:
        judgments(path, source)
        return capsys.readouterr().out

    return command


def rows(settings: Settings) -> set[tuple[str, str, str]]:
    with connect(settings.require_database_url()) as conn:
        return set(
            conn.execute(
                "SELECT q.text, d.external_id, q.split FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
                "JOIN heal.document d USING (document_id) WHERE q.writer = 'human'"
            ).fetchall()
        )


@pytest.mark.parametrize("name", ["queries.jsonl", "queries.jsonl.gz"])
def test_queries_are_stored_with_every_document_that_answers_them(
    settings: Settings, run: Run, tmp_path: Path, name: str
) -> None:
    lines = [{"query": " what? ", "document": f"d{number}", "split": "test"} for number in range(30)]
    lines += [{"query": "trains", "document": f"d{number}", "split": "train"} for number in range(30)]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert "60 new judgments of 60" in run(path)
    assert "0 new judgments of 60" in run(path)
    stored = rows(settings)
    assert {(query, document) for query, document, _ in stored} == {
        (query, f"d{number}") for query in ("what?", "trains") for number in range(30)
    }
    assert {split for query, _, split in stored if query == "what?"} == {"seen_test", "unseen_test"}
    assert not {split for query, _, split in stored if query == "trains"} & {"seen_test", "unseen_test"}


def test_wrong_lines_are_named_and_the_others_stored(settings: Settings, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    good = json.dumps({"query": "what?", "document": "d1"})
    unknown = json.dumps({"query": "what?", "document": "d99"})
    wrong = [
        '{"query": "", "document": "d1"}',
        '{"query": "x"}',
        "[1]",
        "{",
        '{"query": "x", "document": "d1", "split": "dev"}',
    ]
    path.write_text("\n".join([good, unknown, *wrong]))
    with pytest.raises(InputError) as caught:
        run(path)
    message = str(caught.value)
    assert message.startswith(f"5 invalid lines: {path}:3: query: String should have at least 1 character")
    for expected in (
        f"{path}:4: document: Field required",
        f"{path}:5:",
        f"{path}:6:",
        f"{path}:7: split: Input should be",
    ):
        assert expected in message
    assert {(query, document) for query, document, _ in rows(settings)} == {("what?", "d1")}


def test_documents_that_are_not_there_are_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(json.dumps({"query": "what?", "document": name}) for name in ("d99", "d1")))
    assert f"1 documents are not in {SOURCE} (ingest them first): d99" in run(path)


def test_a_wrong_source_and_a_missing_file_are_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"source 's3://other' is not in HEAL_SOURCES \(file:/inbox\)"):
        run(tmp_path / "x.jsonl", "s3://other")
    with pytest.raises(InputError, match=r"x\.jsonl cannot be read"):
        run(tmp_path / "x.jsonl")
    monkeypatch.setenv("HEAL_SOURCES", f"{SOURCE} file:/more")
    with pytest.raises(
        InputError,
        match="HEAL_SOURCES has several; name the documents' source by --source, one of file:/inbox, file:/more",
    ):
        run(tmp_path / "x.jsonl")
