"""Import of judgments: stored rows, and errors of wrong lines."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heal_tasks.cli.app import app
from heal_tasks.cli.judgments import judgments
from heal_tasks.core.errors import InputError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Question, Record
from heal_tasks.store.db import Connection, connect, scalar
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.questions.questions import Asked, QuestionRepository

SOURCE = "file:/inbox"
Run = Callable[..., str]


@pytest.fixture
def settings(database_url: str) -> Settings:
    with connect(database_url, autocommit=True) as conn:
        records = [Record(f"d{number}", "T", f"text {number}") for number in range(30)]
        DocumentRepository(conn).apply_records(SOURCE, records, lambda title, body: [("", body)])
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
    assert message.startswith("1 of 7 lines were taken, the others refused: 5 invalid lines: ")
    assert message.endswith(f"; 1 documents are not in {SOURCE} (ingest them first): d99")
    for expected in (
        f"{path}:3: query: String should have at least 1 character",
        f"{path}:4: document: Field required",
        f"{path}:5:",
        f"{path}:6:",
        f"{path}:7: split: Input should be",
    ):
        assert expected in message
    assert {(query, document) for query, document, _ in rows(settings)} == {("what?", "d1")}


def test_a_query_is_for_training_or_for_test_and_never_both(settings: Settings, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    lines = [{"query": f"q{number}", "document": "d1"} for number in range(10)]
    lines += [line | {"document": "d2", "split": "test"} for line in lines]
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, lines[-1] | {"document": "d3", "split": "train"}])
    )
    with pytest.raises(
        InputError, match=rf"20 of 21 lines were taken, .*{path}:21: split: train, but .* for test already"
    ):
        run(path)
    assert {split for _, _, split in rows(settings)} <= {"seen_test", "unseen_test"}
    # What is stored counts as well.
    path.write_text("".join(json.dumps({"query": f"q{number}", "document": "d4"}) + "\n" for number in range(10)))
    assert "10 new judgments of 10" in run(path)
    assert {split for _, _, split in rows(settings)} <= {"seen_test", "unseen_test"}
    path.write_text(json.dumps({"query": "q0", "document": "d5", "split": "train"}))
    with pytest.raises(InputError, match=r"0 of 1 lines were taken, .*:1: split: train, but .*judgments remove"):
        run(path)


def test_documents_that_are_not_there_are_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text("\n".join(json.dumps({"query": "what?", "document": name}) for name in ("d99", "d1")))
    expected = (
        rf"1 of 2 lines were taken, the others refused: 1 documents are not in {SOURCE} \(ingest them first\): d99"
    )
    with pytest.raises(InputError, match=expected):
        run(path)


def test_judgments_are_listed_and_removed(settings: Settings, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    given = [
        {"query": query, "document": document, "split": split}
        for query, document, split in (("a?", "d1", "test"), ("a?", "d2", "test"), ("b?", "d1", "train"))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in given))
    shell = CliRunner(env={"HEAL_DATABASE_URL": settings.require_database_url(), "HEAL_SOURCES": SOURCE})

    def judge(*arguments: str) -> tuple[int, str]:
        done = shell.invoke(app, ["judgments", *arguments])
        return done.exit_code, done.stdout

    assert judge("list")[1].startswith("there are no judgments")
    assert judge(str(path))[0] == 0
    assert judge("import", str(path), "--source", SOURCE)[1].startswith("0 new judgments of 3")
    assert [json.loads(line) for line in judge("list", "--json")[1].splitlines()] == given
    assert "d2" in judge("list")[1]
    for wrong in ((), ("a?", "--all"), ("c?",), ("a?", "--document", "d3"), ("",), ("a?", "--document", " ")):
        assert judge("remove", *wrong)[0] == 1, wrong
    assert judge("remove", " a? ", "--document", "\u200bd2 ") == (0, "1 judgments removed\n")
    with connect(settings.require_database_url()) as conn:
        QuestionRepository(conn).store("r", [generated(conn)], [])
        conn.commit()
    assert judge("remove", "--all") == (0, "2 judgments removed\n")
    assert rows(settings) == set()
    with connect(settings.require_database_url()) as conn:
        assert scalar(conn, "SELECT count(*) FROM heal.question") == 1, "other questions stay"


def generated(conn: Connection) -> Asked:
    chunk = next(iter(live_chunks(conn)))
    made = Question(5, chunk.chunk_id, "a?", "", "", "question", "llm", "m", "p", "train")
    return Asked(chunk.chunk_id, chunk.content_hash, "p", "m", [made], 0)


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
