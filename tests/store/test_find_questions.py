"""heal.find, heal.query_vector and heal.explain_find: unknown, empty and hostile questions, two languages, switches."""

import time
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg.errors import Diagnostic

from heal_tasks.core.types import Record
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.lexicon import StoredLexicon
from tests.store.sample_store import DIMS, SOURCE, SampleStore

TEXTS = (
    "basalt is volcanic rock",
    "granite rock",
    "chalk cliffs of Dover",
    "it's O'Neill \\ example.com/:it's&!x",
    "Dover & basalt",
)
NOTHING_KNOWN = "no row: the lexicon has none of the words of this question"


def load(store: SampleStore, *records: Record) -> None:
    store.documents.apply_records(SOURCE, records, lambda title, body: [("", body)])


@pytest.fixture(scope="module")
def rocks(module_database_url: str) -> Iterator[SampleStore]:
    """One database for the tests that only read."""
    with connect(module_database_url, autocommit=True) as conn:
        store = SampleStore(conn)
        load(store, *[Record(text, "T", text) for text in TEXTS])
        store.publish(store.generation())
        yield store


def found(store: SampleStore, question: str | None, arguments: str = "") -> list[str]:
    return [row[0] for row in store.conn.execute(f"SELECT text FROM heal.find(%s{arguments})", (question,))]  # type: ignore[arg-type]


def noticed(store: SampleStore, question: str | None, arguments: str = "") -> list[tuple[str | None, str | None]]:
    """Messages and hints of a search that finds nothing."""
    notices: list[tuple[str | None, str | None]] = []

    def keep(notice: Diagnostic) -> None:
        notices.append((notice.message_primary, notice.message_hint))

    store.conn.add_notice_handler(keep)
    try:
        assert found(store, question, arguments) == []
    finally:
        store.conn.remove_notice_handler(keep)
    return notices


def query_vector(store: SampleStore, question: str | None, generation: int | None = None) -> np.ndarray | None:
    row = store.conn.execute("SELECT heal.query_vector(%s, %s::bigint)", (question, generation)).fetchone()
    assert row is not None
    return None if row[0] is None else row[0].to_numpy()


def explained(store: SampleStore, question: str, language: str | None = None) -> list[tuple]:
    return store.conn.execute("SELECT * FROM heal.explain_find(%s, %s)", (question, language)).fetchall()


@pytest.mark.parametrize("question", ["zirconium unobtainium", "the of and", "", " ?! ", None])
@pytest.mark.parametrize("arguments", ["", ", 50"])
def test_a_question_without_a_known_word_finds_nothing_and_says_why(
    rocks: SampleStore, question: str | None, arguments: str
) -> None:
    hint = "SELECT * FROM heal.explain_find(question) shows which words count."
    assert noticed(rocks, question, arguments) == [(NOTHING_KNOWN, hint)]
    assert query_vector(rocks, question) is None


def test_a_known_word_is_enough(rocks: SampleStore) -> None:
    assert found(rocks, "the granitic unobtainium of granite", ", 1") == ["granite rock"]
    assert len(found(rocks, "granite")) == len(TEXTS)


@pytest.mark.parametrize(
    "question",
    [
        "'; DROP TABLE heal.document; --", "basalt' | 'rock", "basalt & !rock <-> (chalk:* | dover)", "basalt\\",
        "\\'basalt", "$1 basalt %s %I %%", "it's O'Neill", "example.com/:it's&!x \\ basalt", "E'basalt'",
        "basalt\n\t\u2028 \u00e4\U0001f30b",
        "basalt" + "'" * 999, "<b>basalt</b> &amp; http://x.y/?q='\"", ":*& basalt", "basalt " + "y" * 3000,
    ],
)  # fmt: skip
def test_hostile_questions_are_words_like_others(rocks: SampleStore, question: str) -> None:
    hits = found(rocks, question)
    if any(word in question for word in ("basalt", "it's")):
        assert len(hits) == len(TEXTS)
        assert found(rocks, question, ", 30, filter => '{}'") == hits
    assert sum(row[4] for row in explained(rocks, question)) == pytest.approx(1 if hits else 0, abs=1e-5)
    assert rocks.conn.execute("SELECT count(*) FROM heal.document").fetchone() == (len(TEXTS),)


def test_a_stem_with_a_quote_counts(rocks: SampleStore) -> None:
    stem = "example.com/:it's&!x"
    assert next(row[2:4] for row in explained(rocks, stem) if row[0] == stem) == (1, pytest.approx(np.log(6), abs=1e-6))
    for arguments in (", 1", ", 1, filter => '{}'"):
        assert found(rocks, stem, arguments) == [TEXTS[3]]


def test_a_nul_is_refused(rocks: SampleStore) -> None:
    with pytest.raises(psycopg.DataError, match="cannot contain NUL"):
        found(rocks, "bas\0alt")


def test_a_very_long_question_is_answered_or_refused_soon(rocks: SampleStore) -> None:
    start = time.monotonic()
    assert found(rocks, "basalt rock " * 2_700) == found(rocks, "basalt rock")
    assert found(rocks, "basalt " + " ".join(f"x{number}" for number in range(5_000)))[0] in (TEXTS[0], TEXTS[4])
    with pytest.raises(psycopg.DatabaseError, match="the text has 1488889 characters, and 32768 are the most"):
        found(rocks, " ".join(f"x{number}" for number in range(200_000)))
    assert time.monotonic() - start < 20


def test_arguments_are_checked(rocks: SampleStore) -> None:
    for arguments, message in (
        (", 0", "k must be between 1 and 1000, got 0"),
        (", NULL", "k must be between 1 and 1000, got null"),
        (", 1001", "k must be between 1 and 1000, got 1001"),
        (", topic => 5", "generation 1 has no topic 5"),
        (", language => 'klingon'", "there is no text search configuration 'klingon'"),
        (""", language => '"''\\'""", "there is no text search configuration"),
    ):
        with pytest.raises(psycopg.DatabaseError, match=message) as caught:
            found(rocks, "basalt", arguments)
        assert caught.value.sqlstate == "HEA03"


def test_where_nothing_is_live_the_error_says_what_to_do(store: SampleStore) -> None:
    load(store, Record("a", "T", "basalt"))
    store.write_lexicon(made := store.generation(), store.wanted(made))
    for call in ("heal.find('basalt')", "heal.query_vector('basalt')", "heal.explain_find('basalt')"):
        with pytest.raises(psycopg.DatabaseError, match="generation null is not searchable") as caught:
            store.conn.execute(f"SELECT * FROM {call}")  # type: ignore[arg-type]
        assert caught.value.sqlstate == "HEA01"
        assert caught.value.diag.message_hint == "No generation is active yet; run the heal_realign DAG."
    with pytest.raises(psycopg.DatabaseError, match=r"generation 1 is not searchable \(building\)"):
        query_vector(store, "basalt", 1)


def test_two_languages_are_stemmed_each_by_its_own_rules(store: SampleStore) -> None:
    load(
        store,
        Record("de", "T", "Die Häuser am Fluss in Sydney", {"language": "de"}),
        Record("en", "T", "The houses by the river in Sydney"),
    )
    store.publish(store.generation())
    german, english = "Die Häuser am Fluss in Sydney", "The houses by the river in Sydney"
    for arguments in ("", ", 20"):
        assert found(store, "Häusern", arguments)[0] == german
        assert found(store, "housing", arguments)[0] == english
        assert len(found(store, "Sydney", ", language => 'german'" + arguments.replace(", 20", ", k => 20"))) == 2
        assert noticed(store, "Häusern", ", language => 'english'")[0][0] == NOTHING_KNOWN
        assert noticed(store, "houses", ", language => 'finnish'")[0][0] == NOTHING_KNOWN
    # A stem that both languages have is one word: its vectors are added, and it is weighed once on either path.
    stored = store.lexicons.load(store.generations.get(1), [("english", "sydney"), ("german", "sydney")])
    assert stored.chunks.tolist() == [1, 1]
    total = (stored.vectors * stored.weights[:, None]).sum(axis=0)
    np.testing.assert_allclose(query_vector(store, "Sydney"), total / np.linalg.norm(total), atol=1e-3)
    both = [
        store.conn.execute("SELECT text, score FROM heal.find('Sydney house', %s)", (k,)).fetchall() for k in (10, 20)
    ]
    assert both[0] == [(text, pytest.approx(score, abs=1e-6)) for text, score in both[1]]
    languages = {(stem, config): chunks for stem, config, chunks, *_ in explained(store, "Sydney houses")}
    assert languages == {
        ("sydney", "german"): 1, ("sydney", "english"): 1, ("hous", "english"): 1, ("hous", "german"): 0
    }  # fmt: skip
    assert {row[1] for row in explained(store, "Sydney houses", "german")} == {"german"}


def test_a_query_vector_has_unit_length_and_is_made_of_weighted_stems(rocks: SampleStore) -> None:
    generation = rocks.generations.get(1)
    stored = rocks.lexicons.load(generation, [("english", "rock"), ("english", "dover")])
    total = (stored.vectors * stored.weights[:, None]).sum(axis=0)
    for number in (None, 1):
        vector = query_vector(rocks, "rocks at Dover, unobtainium", number)
        assert vector is not None
        assert vector.shape == (DIMS,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-3)


def test_explanations_add_up_and_name_unknown_stems(rocks: SampleStore) -> None:
    rows = explained(rocks, "Are rocks at Dover or of unobtainium?")
    assert [(stem, config, chunks) for stem, config, chunks, *_ in sorted(rows)] == [
        ("dover", "english", 2), ("rock", "english", 2), ("unobtainium", "english", 0)
    ]  # fmt: skip
    weights = {stem: (weight, share) for stem, _, _, weight, share in rows}
    assert weights["unobtainium"] == (0, 0)
    assert weights["rock"][0] == pytest.approx(np.log(1 + len(TEXTS) / 2), abs=1e-6)
    assert weights["rock"][1] + weights["dover"][1] == pytest.approx(1, abs=1e-5)
    assert [row[4] for row in rows] == sorted((row[4] for row in rows), reverse=True)
    assert explained(rocks, "the of") == []
    assert explained(rocks, "unobtainium") == [("unobtainium", "english", 0, 0, 0)]


def test_relevance_is_null_without_a_curve(rocks: SampleStore) -> None:
    assert rocks.conn.execute("SELECT DISTINCT relevance FROM heal.find('basalt')").fetchall() == [(None,)]
    one = "SELECT heal.relevance(s, '{0.5}', '{0.7}') FROM unnest('{0.4, 0.5, 0.6}'::float8[]) s"
    assert rocks.conn.execute(one).fetchall() == [(0.7,)] * 3


def test_settings_of_the_search_end_with_it(rocks: SampleStore) -> None:
    with rocks.conn.transaction():
        found(rocks, "basalt")
        shown = "SELECT current_setting('hnsw.iterative_scan'), current_setting('hnsw.ef_search')"
        assert rocks.conn.execute(shown).fetchone() == ("off", "40")


def stems(store: SampleStore, generation: Generation) -> set[str]:
    return {stem for _, stem in store.lexicons.load(generation).stems}


def test_a_deletion_takes_a_documents_own_stems_from_every_lexicon(store: SampleStore) -> None:
    load(store, Record("a", "T", "secret basalt"), Record("b", "T", "basalt granite"))
    made = [store.generation("m1"), store.generation("m2"), store.generation("m3")]
    for generation in made[:2]:
        store.publish(generation)
    store.write_lexicon(made[2], store.wanted(made[2]))
    assert [item.state for item in store.generations.list()] == ["previous", "active", "building"]
    assert [stems(store, item) for item in made] == [{"secret", "basalt", "granit"}] * 3
    fitted_to = store.wanted(made[0]).chunk_ids
    store.delete("a")
    assert [stems(store, item) for item in made] == [{"basalt", "granit"}] * 3
    late = StoredLexicon([("english", "secret"), ("english", "granit")], np.ones(2, int), np.ones(2), np.eye(DIMS)[:2])
    other = store.generation("m4")
    assert store.lexicons.write(other, late, fitted_to) == 1, "fitted before the deletion, written after it"
    assert stems(store, other) == {"granit"}
    assert noticed(store, "secret")[0][0] == NOTHING_KNOWN
    assert found(store, "basalt") == ["basalt granite"]


def test_a_session_follows_a_switch(store: SampleStore, database_url: str) -> None:
    load(store, Record("a", "T", "basalt rock"), Record("b", "T", "granite rock"))
    store.publish(store.generation("m1"))
    with connect(database_url, autocommit=True) as conn:
        conn.prepare_threshold = 0
        session = SampleStore(conn)
        for _ in range(7):
            assert len(found(session, "granite")) == 2
        first = query_vector(session, "rock")
        load(store, Record("c", "T", "marble"))
        store.publish(store.generation("m2", dims=DIMS + 4))
        assert found(session, "marble", ", 1") == ["marble"]
        assert found(session, "granite", ", 1") == ["granite rock"]
        now, before = query_vector(session, "rock"), query_vector(session, "rock", 1)
        assert now is not None and before is not None and first is not None
        assert now.shape == (DIMS + 4,)
        np.testing.assert_array_equal(before, first)
        store.generations.activate(1, lock_timeout_ms=500)
        assert noticed(session, "marble")[0][0] == NOTHING_KNOWN
        assert len(found(session, "granite")) == 2


def test_status_shows_the_lexicon_and_dropping_takes_it(store: SampleStore) -> None:
    load(store, Record("a", "T", "basalt rock"), Record("b", "T", "granite rock"))
    made = store.generation()
    store.write_lexicon(made, store.wanted(made))
    status = "SELECT lexicon_stems, lexicon_bytes > 8000 FROM heal.generation_status"
    assert store.conn.execute(status).fetchall() == [(3, True)]
    assert store.generations.drop_tables(made.generation_id)
    assert store.conn.execute("SELECT to_regclass('heal.lex_g000001')").fetchall() == [(None,)]
    assert store.conn.execute(status).fetchall() == [(None, None)]


def test_a_generation_from_before_there_were_lexicons_is_searched_by_vector(store: SampleStore) -> None:
    load(store, Record("a", "T", "basalt"))
    made = store.generation()
    store.publish(made)
    store.conn.execute("UPDATE heal.generation SET lexicon = NULL")
    store.conn.execute("DROP TABLE heal.lex_g000001")
    store.conn.execute("CALL heal.plan_searches()")
    message, hint = noticed(store, "basalt")[0]
    assert message == "no row: generation 1 has no lexicon"
    assert hint == "The next generation that heal_realign publishes has one; until then use heal.search."
    assert (query_vector(store, "basalt"), explained(store, "basalt")) == (None, [])
    rows = store.conn.execute("SELECT text, word_rank FROM heal.hybrid_search('basalt', %s, 1)", (np.eye(DIMS)[0],))
    assert rows.fetchall() == [("basalt", None)]
    store.delete("a")


def test_bad_arguments_are_refused_whatever_the_words(store: SampleStore) -> None:
    load(store, Record("a", "T", "basalt"))
    store.publish(store.generation())
    for call in ("heal.find('unknownword', 0)", "heal.find('unknownword', NULL)", "heal.find('unknownword', 3, 99)"):
        with pytest.raises(psycopg.DatabaseError) as caught:
            store.conn.execute(f"SELECT * FROM {call}")  # type: ignore[call-overload]
        assert caught.value.sqlstate == "HEA03", call
