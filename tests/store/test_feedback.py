"""Votes on answers: who counts as a voter, judgments where enough people agree, and what becomes of them."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Split
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect, scalar
from heal_tasks.store.generations.search import reading_as
from heal_tasks.store.questions.feedback import FeedbackRepository, record_feedback
from heal_tasks.store.questions.questions import QuestionRepository
from tests.store.sample_store import SOURCE, SampleStore, stored_questions

READER = "feedback_reader"


def train(document: int, text: str, asked: Split | None = None) -> Split:
    del document, text
    return asked or "train"


def chunk(store: SampleStore, name: str, ordinal: int = 0) -> int:
    """Id of a live chunk."""
    values = (document_id(SOURCE, name), ordinal)
    query = "SELECT chunk_id FROM heal.chunk WHERE document_id = %s AND ordinal = %s AND superseded_at IS NULL"
    return int(scalar(store.conn, query, values))


def vote(store: SampleStore, name: str, *voters: str, good: bool | None = True, question: str = "which one?") -> None:
    for voter in voters:
        record_feedback(store.conn, question, chunk(store, name), good, voter)


def settle(store: SampleStore, people: int = 2) -> tuple[int, int]:
    return FeedbackRepository(store.conn).settle(people, train)


def judged(store: SampleStore) -> list[tuple[str, str]]:
    """Question and document of all judgments."""
    return [row[:2] for row in QuestionRepository(store.conn).judgments()]


@pytest.fixture
def reader(postgres: EmbeddedPostgres, database_url: str) -> Iterator[Connection]:
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {0} LOGIN PASSWORD 'x' IN ROLE heal_reader").format(sql.Identifier(READER)))
        try:
            with connect(f"postgresql://{READER}:x@{database_url.split('@')[1]}", autocommit=True) as conn:
                yield conn
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(READER)))


def test_agreement_makes_a_judgment_and_less_of_it_takes_it_back(store: SampleStore) -> None:
    store.load(a="about a|more of a", b="about b")
    vote(store, "a", "ann", question="Which One? ")
    assert settle(store) == (0, 0)
    assert stored_questions(store.conn) == []  # nothing is trained on before
    vote(store, "a", "bob")
    vote(store, "b", "ann", "bob", "cem", "dan", good=False)
    assert settle(store) == (1, 0)
    assert judged(store) == [("Which One?", "a")]
    assert settle(store) == (0, 0)
    vote(store, "a", "cem", good=False)  # two to one: below three to one
    assert settle(store) == (0, 1)
    vote(store, "a", "dan")  # three to one
    assert settle(store) == (1, 0)
    vote(store, "a", "dan", good=None)
    vote(store, "a", "cem", good=True)  # the last vote of a person counts
    assert settle(store) == (0, 0)
    assert settle(store, 0) == (0, 1)


def test_a_question_that_tests_goes_on_to_test_where_people_agree_on_another_document(store: SampleStore) -> None:
    store.load(a="about a", b="about b")
    repository = QuestionRepository(store.conn)
    assert repository.import_judgments(SOURCE, [("Which one?", "a")], lambda document, text: "seen_test")[0] == 1
    vote(store, "b", "ann", "bob", question=" WHICH one?")
    assert settle(store) == (1, 0)
    assert {split for *_, split in repository.judgments()} == {"seen_test"}


def test_one_person_is_one_vote_however_often_and_by_whichever_chunk_or_duplicate(store: SampleStore) -> None:
    store.load(a="first|second")
    store.load(copy="first|second")
    for ordinal in (0, 1):
        for spelling in ("which?", "WHICH?", " which?\n"):
            record_feedback(store.conn, spelling, chunk(store, "a", ordinal), True, "ann")
    assert [(item.question, item.voter) for item in FeedbackRepository(store.conn).votes()] == [("which?", "ann")]
    assert settle(store) == (0, 0)


def test_an_imported_judgment_is_left_alone(store: SampleStore) -> None:
    store.load(a="about a")
    QuestionRepository(store.conn).import_judgments(SOURCE, [("Which one?", "a")], train)
    vote(store, "a", "ann", "bob")
    assert settle(store) == (0, 0)
    FeedbackRepository(store.conn).remove("ann")
    assert settle(store) == (0, 0)
    assert judged(store) == [("Which one?", "a")]


def test_votes_of_a_person_are_removed_with_what_they_brought_about(store: SampleStore) -> None:
    store.load(a="about a", b="about b")
    vote(store, "a", "ann", "bob")
    vote(store, "b", "bob", "cem", "dan")
    assert settle(store) == (2, 0)
    assert FeedbackRepository(store.conn).remove("bob") == 2
    assert settle(store) == (0, 1)
    assert judged(store) == [("which one?", "b")]


def test_a_judgment_that_is_removed_by_hand_does_not_come_back(store: SampleStore) -> None:
    store.load(a="about a")
    vote(store, "a", "ann", "bob")
    settle(store)
    assert QuestionRepository(store.conn).remove_judgments("which one?", None) == 1
    assert settle(store) == (0, 0)
    assert FeedbackRepository(store.conn).votes() == []


def test_votes_follow_the_text_and_go_with_the_document(store: SampleStore) -> None:
    store.load(a="the same")
    store.load(heir="the same")
    vote(store, "a", "ann", "bob")
    settle(store)
    store.delete("a")  # its duplicate takes its place
    assert judged(store) == [("which one?", "heir")]
    assert {item.external_id for item in FeedbackRepository(store.conn).votes()} == {"heir"}
    assert settle(store) == (0, 0)
    store.load(heir="another text")  # a changed document keeps its judgments, and so its votes
    assert settle(store) == (0, 0)
    assert judged(store) == [("which one?", "heir")]
    store.delete("heir")
    assert FeedbackRepository(store.conn).votes() == []
    assert settle(store) == (0, 0)


def test_a_reader_votes_under_the_name_of_the_login_alone(store: SampleStore, reader: Connection) -> None:
    store.load(a="about a")
    about = chunk(store, "a")
    record_feedback(reader, "which one?", about, True)
    record_feedback(reader, "which one?", about, True, READER)
    with pytest.raises(InputError, match=f"{READER} may not vote for ann"):
        record_feedback(reader, "which one?", about, True, "ann")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("SELECT * FROM heal.feedback")
    assert [item.voter for item in FeedbackRepository(store.conn).votes()] == [READER]


def test_a_chunk_that_the_voter_may_not_read_is_like_none(store: SampleStore, reader: Connection) -> None:
    store.load(a="about a", b="about b")
    hidden, open_to_all = chunk(store, "a"), chunk(store, "b")
    record_feedback(reader, "which one?", hidden, True)
    store.conn.execute("UPDATE heal.document SET acl = '{ann}' WHERE external_id = 'a'")
    for good in (False, None):
        refusals = list[tuple[str | None, ...]]()
        for number in (hidden, hidden + 1):
            with pytest.raises(psycopg.Error) as caught:
                reader.execute("SELECT heal.feedback('which one?', %s, %s)", (number, good))
            told = caught.value.diag
            parts = (told.sqlstate, told.message_primary, told.message_detail, told.message_hint, told.context)
            refusals.append(tuple(part and part.replace(str(number), "N") for part in parts))
        assert refusals[0] == refusals[1]
        assert refusals[0][1] == "there is no chunk N"
    record_feedback(reader, "which one?", open_to_all, True)
    with reading_as(reader, ["ann"]):
        record_feedback(reader, "which one?", hidden, False)
    votes = {item.external_id: item.good for item in FeedbackRepository(store.conn).votes()}
    assert votes == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("question", "about", "voter", "message"),
    [
        ("", None, None, "the question has 0 characters"),
        (" \n", None, None, "the question has 0 characters"),
        ("x" * 2001, None, None, "the question has 2001 characters, and 1 to 2000 are allowed"),
        ("which?", 1, None, "there is no chunk 1"),
        ("which?", None, "", "the voter has 0 characters"),
        ("which?", None, "x" * 201, "the voter has 201 characters"),
    ],
)
def test_wrong_votes_are_refused(
    store: SampleStore, question: str, about: int | None, voter: str | None, message: str
) -> None:
    store.load(a="about a")
    with pytest.raises(InputError, match=message):
        record_feedback(store.conn, question, about or chunk(store, "a"), True, voter)


def test_a_program_that_votes_in_a_loop_meets_a_bound(store: SampleStore) -> None:
    store.load(a="about a")
    store.conn.execute(
        "INSERT INTO heal.feedback (document_id, question_key, voter, question, good) "
        "SELECT %s, heal.text_key('q' || n), 'loop', 'q' || n, true FROM generate_series(1, 10000) n",
        (document_id(SOURCE, "a"),),
    )
    with pytest.raises(InputError, match="loop has 10000 votes"):
        vote(store, "a", "loop")
    vote(store, "a", "ann")
    record_feedback(store.conn, "q7", chunk(store, "a"), False, "loop")
    assert [item.question for item in FeedbackRepository(store.conn).votes() if not item.good] == ["q7"]
