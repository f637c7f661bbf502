"""``python -m heal_tasks questions``: kept and dropped questions of a document."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest

from heal_tasks.cli.app import main
from heal_tasks.core.ids import document_id, question_id
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Record
from heal_tasks.questions.maps.entity_maps import EntityMap, MapAttribute, MapEntity
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.questions.entity_maps import MapRepository, StoredMap
from heal_tasks.store.questions.questions import Asked, Dropped, QuestionRepository

Command = Callable[..., tuple[int, str, str]]
DOCUMENT = document_id("s", "a")


def chunker(title: str, body: str) -> list[tuple[str, str]]:
    del title
    return [("", part) for part in body.split("|")]


@pytest.fixture
def questions(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HEAL_DATABASE_URL", settings.require_database_url())
        monkeypatch.setenv("HEAL_VAR_DIR", str(settings.var_dir))
        monkeypatch.setattr(sys, "argv", ["heal_tasks", "questions", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())

    return run


@pytest.fixture
def chunks(auto: Connection) -> dict[str, int]:
    """Documents a and b with equal texts of three chunks: one with a question, one with none kept, one never asked."""
    documents = DocumentRepository(auto)
    for name in "ab":
        documents.apply_records("s", [Record(name, "Title [x]", "one [a]|two|three", path="p.txt")], chunker)
    found = {chunk.text: chunk for chunk in live_chunks(auto)}
    first, second = found["one [a]"], found["two"]
    text = "What is [one]?"
    kept = Question(
        question_id(first.chunk_id, "llm", text), first.chunk_id, text, "It is 1.", "one", "question", "llm", "gpt",
        "p", "train",
    )  # fmt: skip
    dropped = Dropped(second.chunk_id, "this passage?", "a", "gold", "claim", "llm", "dangling")
    QuestionRepository(auto).store(
        "r1",
        [
            Asked(first.chunk_id, first.content_hash, "p", "gpt", [kept], 0),
            Asked(second.chunk_id, second.content_hash, "p", "gpt", [], 3, [dropped]),
        ],
        [],
    )
    return {name: chunk.chunk_id for name, chunk in found.items()}


def test_a_chunks_entity_map_is_shown(auto: Connection, questions: Command, chunks: dict[str, int]) -> None:
    found = EntityMap((MapEntity("e", "other", "one", (MapAttribute("is", "[a]"),)),), ())
    for status, model, stored in (("ok", "gpt", found), ("refused", "gpt-2", EntityMap((), ()))):
        made = StoredMap(chunks["one [a]"], "h", "p", model, status, json.dumps(asdict(stored)), 0, 5, 9)
        MapRepository(auto, "p", model).store("r1", [made], [])
    _, out, _ = questions("--chunk", str(chunks["one [a]"]))
    assert out.splitlines()[-3:] == [
        "  entity map by gpt, ok:", "    one | is [a]", "  entity map by gpt-2, refused:",
    ]  # fmt: skip


def test_a_document_is_shown_chunk_by_chunk(questions: Command, chunks: dict[str, int]) -> None:
    code, out, _ = questions("--document", str(DOCUMENT))
    assert code == 0
    assert out.splitlines() == [
        f"document {DOCUMENT}: Title [x] (s, p.txt)",
        "",
        f"chunk {chunks['one [a]']} (1 of 3): one [a]",
        "  question by llm (gpt), train: What is [one]?",
        "    answer: It is 1.",
        "    evidence: one",
        "",
        f"chunk {chunks['two']} (2 of 3): two",
        "  no questions",
        "",
        f"chunk {chunks['three']} (3 of 3): three",
        "  no questions; none were asked for yet",
    ]


def test_dropped_questions_are_shown_with_the_filter(questions: Command, chunks: dict[str, int]) -> None:
    _, out, _ = questions("--document", str(DOCUMENT), "--dropped", "--chunk", str(chunks["two"]))
    assert out.splitlines()[2:] == [
        f"chunk {chunks['two']} (2 of 3): two",
        "  no questions",
        "  3 dropped; 1 of them stored",
        "  dropped by filter dangling: claim by llm: this passage?",
        "    evidence: gold",
    ]


def test_a_chunk_needs_no_document(questions: Command, chunks: dict[str, int]) -> None:
    code, out, _ = questions("--chunk", str(chunks["three"]))
    assert code == 0
    assert out.startswith(f"document {DOCUMENT}: ")
    assert out.count("chunk ") == 1


def test_a_duplicate_shows_the_questions_of_the_first_document(questions: Command, chunks: dict[str, int]) -> None:
    other = document_id("s", "b")
    _, out, _ = questions("--document", str(other))
    assert f"document {other}: Title [x] (s, p.txt)" in out
    assert f"has the same text as document {DOCUMENT}, whose questions count for both" in out
    assert "What is [one]?" in out


def test_without_a_document_questions_are_counted(questions: Command, chunks: dict[str, int]) -> None:
    code, out, _ = questions()
    assert code == 0
    (row,) = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert row == ["llm", "question", "train", "1"]
    assert "dropped" not in out
    _, out, _ = questions("--dropped")
    assert f"  dropped by filter dangling: document {DOCUMENT}, claim by llm: this passage?" in out.splitlines()


def test_before_there_are_questions(questions: Command) -> None:
    code, out, _ = questions("--dropped")
    assert code == 0
    assert "there are no questions yet; run the heal_realign DAG" in out
    assert "nothing dropped is stored" in out


def test_errors_say_what_to_do(questions: Command, chunks: dict[str, int], auto: Connection) -> None:
    assert questions("--document", "7") == (
        1, "", "error: there is no document 7; SELECT document_id, title FROM heal.document lists them, and "
        "`python -m heal_tasks search` prints ids",
    )  # fmt: skip
    assert questions("--chunk", "7")[2].startswith("error: there is no chunk 7; `python -m heal_tasks questions")
    mine = str(chunks["one [a]"])
    assert questions("--document", "7", "--chunk", mine)[2] == (
        f"error: chunk {mine} is of document {DOCUMENT}, not of 7; leave --document out"
    )
    documents = DocumentRepository(auto)
    documents.apply_records("s", [Record("a", "Title [x]", "new|two|three", path="p.txt")], chunker)
    assert f"chunk {mine} is not in the newest version of document {DOCUMENT}" in questions("--chunk", mine)[2]
    documents.delete([DOCUMENT])
    assert f"error: document {DOCUMENT} was deleted on 20" in questions("--document", str(DOCUMENT))[2]
