from collections.abc import Sequence
from dataclasses import replace

import pytest

from heal_tasks.core.ids import document_id, question_id
from heal_tasks.core.types import Question, Record, Split
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import LiveChunk, live_chunks, purge_superseded
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.documents.moves import hand_on
from heal_tasks.store.llm.ledger import LlmCall, ledger
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from tests.store.sample_store import stored_questions

PROMPT, MODEL = "p1", "m1"


def chunker(title: str, body: str) -> list[tuple[str, str]]:
    del title
    return [("", part) for part in body.split("|")]


def train(document: int, text: str) -> Split:
    del document, text
    return "train"


def question(chunk: int, text: str, **changes: object) -> Question:
    made = Question(
        question_id(chunk, "llm", text), chunk, text, "answer", "evidence", "question", "llm", MODEL, PROMPT, "train"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def call(chunk: int | None, status: str = "ok", **changes: object) -> LlmCall:
    return replace(LlmCall("questions", MODEL, PROMPT, "h", chunk, status, 100, 20, 0.001, 1.5, '{"a": 1}'), **changes)  # type: ignore[arg-type]


@pytest.fixture
def documents(auto: Connection) -> DocumentRepository:
    return DocumentRepository(auto)


@pytest.fixture
def questions(auto: Connection) -> QuestionRepository:
    return QuestionRepository(auto)


def load(documents: DocumentRepository, **bodies: str) -> dict[str, LiveChunk]:
    with documents._conn.transaction():
        documents.apply_records("s", [Record(name, "T", body) for name, body in bodies.items()], chunker)
        hand_on(documents._conn, [])
    return {chunk.text: chunk for chunk in live_chunks(documents._conn)}


def ask(questions: QuestionRepository, chunk: LiveChunk, texts: Sequence[str], dropped: int = 0) -> None:
    made = [question(chunk.chunk_id, text) for text in texts]
    asked = Asked(chunk.chunk_id, chunk.content_hash, PROMPT, MODEL, made, dropped)
    questions.store("r1", [asked], [call(chunk.chunk_id)])


def test_nothing_is_asked_twice(documents: DocumentRepository, questions: QuestionRepository) -> None:
    chunks = load(documents, a="x|y")
    assert {chunk.text for chunk in questions.unasked(PROMPT, MODEL)} == {"x", "y"}
    ask(questions, chunks["x"], ["q1", "q2"])
    ask(questions, chunks["y"], [], dropped=3)
    assert list(questions.unasked(PROMPT, MODEL)) == []
    assert len(list(questions.unasked("p2", MODEL))) == 2
    assert len(list(questions.unasked(PROMPT, "m2"))) == 2
    both = [list(questions.unasked("p2", MODEL, shard, 2)) for shard in (0, 1)]
    assert sorted(chunk.text for part in both for chunk in part) == ["x", "y"]


def test_questions_are_stored_once_with_their_split(
    documents: DocumentRepository, questions: QuestionRepository
) -> None:
    chunk = load(documents, a="x")["x"]
    made = [question(chunk.chunk_id, "q1"), question(chunk.chunk_id, "q2", split="unseen_test", kind="claim")]
    asked = Asked(chunk.chunk_id, chunk.content_hash, PROMPT, MODEL, made, 0)
    questions.store("r1", [asked], [])
    questions.store("r1", [asked], [])
    everything = stored_questions(documents._conn)
    assert [row.question_id for row in everything] == sorted(item.question_id for item in made)
    of_split = [(row.text, row.document_id) for row in everything if row.split == "unseen_test"]
    assert of_split == [("q2", chunk.document_id)]
    assert questions.counts() == [("llm", "claim", "unseen_test", 1), ("llm", "question", "train", 1)]


def test_an_equal_text_is_answered_from_before(documents: DocumentRepository, questions: QuestionRepository) -> None:
    chunks = load(documents, a="shared|own")
    ask(questions, chunks["shared"], ["q1", "q2"], dropped=1)
    load(documents, b="else|shared")
    seen: list[tuple[int, str]] = []

    def split_of(document: int, text: str) -> Split:
        seen.append((document, text))
        return "unseen_test"

    assert questions.reuse_cached(PROMPT, "other", split_of) == 0
    assert questions.reuse_cached(PROMPT, MODEL, split_of) == 1
    assert questions.reuse_cached(PROMPT, MODEL, split_of) == 0
    b = document_id("s", "b")
    assert sorted(seen) == [(b, "q1"), (b, "q2")]
    copies = [row for row in stored_questions(questions._conn) if row.document_id == b]
    assert {(row.text, row.split) for row in copies} == {("q1", "unseen_test"), ("q2", "unseen_test")}
    assert {chunk.text for chunk in questions.unasked(PROMPT, MODEL)} == {"own", "else"}
    assert documents._conn.execute("SELECT count(*) FROM heal.llm_call").fetchone() == (1,)


def test_equal_texts_are_in_one_part(documents: DocumentRepository, questions: QuestionRepository) -> None:
    load(documents, **{f"d{number}": f"shared|own{number}" for number in range(30)})
    parts = [[chunk.text for chunk in questions.unasked(PROMPT, MODEL, shard, 4)] for shard in range(4)]
    assert sorted(part.count("shared") for part in parts) == [0, 0, 0, 30]
    assert sorted(map(len, parts))[0] > 0
    assert sum(map(len, parts)) == 60


def test_questions_of_superseded_chunks_are_not_read(
    documents: DocumentRepository, questions: QuestionRepository
) -> None:
    ask(questions, load(documents, a="x")["x"], ["q1"])
    load(documents, a="y")
    assert stored_questions(questions._conn) == []
    assert questions.counts() == []
    load(documents, a="x")
    assert [row.text for row in stored_questions(questions._conn)] == ["q1"]


def test_a_chunk_deleted_while_the_model_wrote(documents: DocumentRepository, questions: QuestionRepository) -> None:
    chunk = load(documents, a="x")["x"]
    documents.delete([chunk.document_id])
    ask(questions, chunk, ["q1"])
    assert stored_questions(questions._conn) == []
    row = documents._conn.execute("SELECT raw_reply, cost_usd FROM heal.llm_call").fetchone()
    assert row == (None, 0.001)


def test_the_ledger_adds_up_by_run(documents: DocumentRepository, questions: QuestionRepository) -> None:
    chunk = load(documents, a="x")["x"].chunk_id
    questions.store("r1", [], [call(chunk), call(chunk), call(chunk, "failed", output_tokens=0, raw_reply="\x00bad")])
    questions.store("r2", [], [call(None, purpose="map")])
    rows = {(row.purpose, row.status): row for row in ledger(questions._conn, "r1")}
    assert rows["questions", "ok"].calls == 2
    assert rows["questions", "ok"].input_tokens == 200
    assert rows["questions", "ok"].cost_usd == pytest.approx(0.002)
    assert rows["questions", "failed"].output_tokens == 0
    assert [(row.purpose, row.calls) for row in ledger(questions._conn, "r2")] == [("map", 1)]


def test_human_judgments_stay_with_their_document(documents: DocumentRepository, questions: QuestionRepository) -> None:
    load(documents, a="x|y", b="x|y")
    pairs = [("what is x?", "a"), ("what is x?", "b"), ("else?", "gone")]
    assert questions.import_judgments("s", pairs, train) == (2, ["gone"])
    assert questions.import_judgments("s", pairs, train) == (0, ["gone"])
    canonical = min(document_id("s", "a"), document_id("s", "b"))
    assert {(row.document_id, row.writer) for row in stored_questions(questions._conn)} == {(canonical, "human")}
    load(documents, a="new|y", b="new|y")
    assert len(stored_questions(questions._conn)) == 2
    purge_superseded(documents._conn)
    texts = {chunk.chunk_id: chunk.text for chunk in live_chunks(documents._conn)}
    assert [texts[row.chunk_id] for row in stored_questions(questions._conn)] == ["new", "new"]


def test_a_deletion_takes_questions_and_replies_with_it(
    documents: DocumentRepository, questions: QuestionRepository
) -> None:
    chunks = load(documents, a="x", b="y")
    ask(questions, chunks["x"], ["qx"])
    ask(questions, chunks["y"], ["qy"])
    documents.delete([document_id("s", "a")])
    assert [row.text for row in stored_questions(questions._conn)] == ["qy"]
    replies = documents._conn.execute("SELECT chunk_id, raw_reply IS NULL FROM heal.llm_call ORDER BY 2").fetchall()
    assert replies == [(chunks["y"].chunk_id, False), (chunks["x"].chunk_id, True)]
