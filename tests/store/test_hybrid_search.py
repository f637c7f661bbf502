"""heal.hybrid_search: words and vectors together; duplicates, languages and hostile texts in all searches."""

import numpy as np
import psycopg
import pytest

from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Record
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.generations.generations import Generation
from tests.store.sample_store import DIMS, SOURCE, SampleStore, encode
from tests.store.test_sql_api import literal, run_psql


def made_of(text: str) -> np.ndarray:
    return encode([text])[0]


def publish(store: SampleStore, *records: Record, language: str = "english") -> Generation:
    store.documents.apply_records(SOURCE, records, lambda title, body: [("", body)], language)
    generation = store.generation()
    store.publish(generation)
    return generation


def hybrid(
    store: SampleStore, words: str, vector: np.ndarray | None, generation: Generation, **named: object
) -> list[tuple]:
    extra = "".join(f", {name} => %({name})s" for name in named)
    statement = (
        "SELECT text, vector_rank, word_rank, score FROM heal.hybrid_search(%(words)s, %(vector)s, %(gen)s::bigint"
        + extra
    )
    values = {"words": words, "vector": vector, "gen": generation.generation_id, **named}
    return store.conn.execute(statement + ")", values).fetchall()  # type: ignore[arg-type]


def test_hybrid_search_finds_by_stems_and_by_vector_and_adds_the_scores(
    store: SampleStore, postgres: EmbeddedPostgres, database_url: str
) -> None:
    texts = [f"filler number {number} about nothing" for number in range(30)]
    generation = publish(
        store,
        *[Record(f"d{number}", "T", text) for number, text in enumerate(texts)],
        Record("rare", "T", "The mitochondria were running about nothing"),
        Record("titled", "Chloroplasts", "Plants"),
    )
    query = made_of(texts[3])
    weights = {"words_weight": 0.2, "lexicon_weight": 0}
    found = hybrid(store, "about the runs of a mitochondrion", query, generation, **weights)
    by_text = {row[0]: row for row in found}
    assert by_text[texts[3]][1] == 1
    # "run" and "mitochondria" are stems that one document has; "about" is a stop word of English, "nothing" of none.
    assert by_text["The mitochondria were running about nothing"][2] == 1
    # The best by words has all of their weight; what shares no word is as good as its vector says.
    for text, _, word_rank, score in found:
        similarity = float(made_of(text) @ query)
        if word_rank in (1, None):
            assert score == pytest.approx(similarity + (0.2 if word_rank else 0.0), abs=1e-6)
    assert [row[3] for row in found] == sorted((row[3] for row in found), reverse=True)
    assert hybrid(store, "chloroplast", query, generation, **weights)[0][2] in (1, None)
    assert {row[0] for row in hybrid(store, "chloroplast", query, generation, k=40, **weights) if row[2]} == {"Plants"}
    only_vector = hybrid(store, "the of and", query, generation, k=3)
    assert [row[1:3] for row in only_vector] == [(1, None), (2, None), (3, None)]
    done = run_psql(
        postgres, database_url,
        "SELECT text, word_rank FROM heal.hybrid_search('mitochondria', "
        f"{literal(query)}, {generation.generation_id}, 40) WHERE word_rank IS NOT NULL",
    )  # fmt: skip
    assert done.stdout == "The mitochondria were running about nothing\t1\n"


@pytest.mark.parametrize("k", [1, 10, 20])
def test_hybrid_search_ranks_what_either_finds_by_both_scores(store: SampleStore, k: int) -> None:
    rng = np.random.default_rng(7)
    words = [f"w{letter}{other}" for letter in "abcdef" for other in "uvwxyz"]
    texts = [" ".join(rng.choice(words, 6)) + f" number{number}" for number in range(160)]
    generation = publish(store, *[Record(f"d{number}", "T", text) for number, text in enumerate(texts)])
    asked, query, gen = "wau wbv wcw wdx", made_of("q"), generation.generation_id
    weights = dict(
        store.conn.execute(
            "SELECT c.text, m.weight FROM heal.generation g, heal.matching(%s, g, 1000) m "
            "JOIN heal.chunk c USING (chunk_id) WHERE g.generation_id = %s",
            (asked, gen),
        ).fetchall()
    )
    similarity = {text: float(made_of(text) @ query) for text in texts}
    depth = max(50, 5 * k)
    by_vector = sorted(texts, key=lambda text: -similarity[text])[:depth]
    by_words = sorted(weights, key=lambda text: -weights[text])[:depth]
    assert set(by_words) - set(by_vector), "some are found by their words alone"
    for weight in (0.0, 0.2, 3.0):
        score = {
            text: similarity[text] + weight * weights.get(text, 0.0) / max(weights.values())
            for text in {*by_vector, *by_words}
        }
        rows = store.conn.execute(
            "SELECT text, score, distance, vector_rank FROM heal.hybrid_search(%s, %s, %s::bigint, %s::int, "
            "words_weight => %s, lexicon_weight => 0)",
            (asked, query, gen, k, weight),
        ).fetchall()
        expected = sorted(score, key=lambda text: -score[text])[:k]
        np.testing.assert_allclose([row[1] for row in rows], [score[text] for text in expected], atol=1e-6)
        for text, found, distance, vector_rank in rows:
            assert found == pytest.approx(score[text], abs=1e-6)
            assert distance == pytest.approx(1 - similarity[text], abs=1e-6)
            assert (vector_rank is None) is (text not in by_vector)


@pytest.mark.parametrize("name", ["words_weight", "lexicon_weight"])
def test_weights_are_checked(store: SampleStore, name: str) -> None:
    generation = publish(store, Record("a", "T", "basalt"))
    for weight in (-0.1, float("nan"), 101):
        with pytest.raises(psycopg.DatabaseError, match=f"{name} must be between 0 and 100, got") as caught:
            hybrid(store, "basalt", made_of("a"), generation, **{name: weight})
        assert caught.value.sqlstate == "HEA03"


def test_a_vector_of_another_dimension_is_named(store: SampleStore) -> None:
    generation = publish(store, Record("a", "T", "basalt"))
    for vector, told in ((np.ones(DIMS + 1), str(DIMS + 1)), (None, "no")):
        for words in ("basalt", "unknown"):
            with pytest.raises(psycopg.DatabaseError, match=f"the query vector has {told} dimensions") as caught:
                hybrid(store, words, vector, generation)
            assert caught.value.sqlstate == "HEA02"
        with pytest.raises(psycopg.DatabaseError, match=f"the query vector has {told} dimensions"):
            store.conn.execute("SELECT * FROM heal.topic_search(%s, %s::bigint)", (vector, generation.generation_id))


def test_weights_are_the_generations_where_none_are_given(store: SampleStore) -> None:
    texts = ["basalt rock", "granite rock", "chalk cliff"]
    generation = publish(store, *[Record(text, "T", text) for text in texts])
    query, asked = made_of("q"), "granite rock"
    store.conn.execute('UPDATE heal.generation SET lexicon = lexicon || \'{"words_weight": 0.4, "lexicon_weight": 2}\'')
    assert hybrid(store, asked, query, generation) == hybrid(
        store, asked, query, generation, words_weight=0.4, lexicon_weight=2
    )
    row = store.conn.execute("SELECT heal.query_vector(%s, %s::bigint)", (asked, generation.generation_id)).fetchone()
    assert row is not None
    by_lexicon = row[0].to_numpy()
    assert np.linalg.norm(by_lexicon) == pytest.approx(1, abs=1e-6)
    both = (query + 2 * by_lexicon) / np.linalg.norm(query + 2 * by_lexicon)
    for text, _, _, score in hybrid(store, asked, 3 * query, generation, words_weight=0):
        assert score == pytest.approx(float(made_of(text) @ both), abs=1e-6)
    # A record is missing only where there is no lexicon, and words count a tenth.
    store.conn.execute("UPDATE heal.generation SET lexicon = NULL")
    assert hybrid(store, asked, query, generation) == hybrid(
        store, asked, query, generation, words_weight=0.1, lexicon_weight=0
    )


def test_a_text_is_stemmed_in_its_own_language(store: SampleStore) -> None:
    generation = publish(
        store,
        Record("de", "Titel", "Die Häuser am Fluss", {"language": "de"}),
        Record("en", "Title", "The houses by the river"),
        Record("xx", "Title", "Taloja taloissa", {"lang": "tlh"}),
    )
    stored = dict(store.conn.execute("SELECT external_id, language FROM heal.document").fetchall())
    assert stored == {"de": "german", "en": "english", "xx": "simple"}
    query = made_of("q")

    def matched(words: str, **named: object) -> set[str]:
        return {row[0] for row in hybrid(store, words, query, generation, **named) if row[2]}

    assert matched("Häusern") == {"Die Häuser am Fluss"}
    assert matched("house") == {"The houses by the river"}
    assert matched("taloissa") == {"Taloja taloissa"}
    assert matched("Häusern", language="english") == set()
    with pytest.raises(psycopg.DatabaseError, match="there is no text search configuration 'klingon'"):
        matched("Haus", language="klingon")
    store.documents.apply_records(
        SOURCE, [Record("en", "Title", "The houses by the river", {"lang": "simple"})], lambda title, body: [("", body)]
    )
    assert matched("house", language="english") == set()
    generation = store.generation("m2")
    store.publish(generation)
    assert matched("house", language="english") == set()
    assert matched("houses", language="simple") == {"The houses by the river"}


def test_words_in_and_behind_what_looks_like_a_tag_are_found(store: SampleStore) -> None:
    text = "The <style> element holds rules of a page, List<Integer> numbers, and 3 <4."
    publish(store, Record("a", "What <script> does", text), Record("b", "T", "Something else."))
    for word in ("element", "rules", "style", "integer", "script", "numbers"):
        (found,) = store.conn.execute("SELECT document_id, score FROM heal.find(%s, 1)", (f"which {word}?",)).fetchall()
        assert found[0] == document_id(SOURCE, "a"), word
    stems = store.conn.execute("SELECT stem FROM heal.explain_find('<b>rules</b> of a <style>')").fetchall()
    assert {"rule", "style"} <= {stem for (stem,) in stems}


def test_a_configuration_of_another_schema_counts_as_simple_for_texts_and_questions_alike(store: SampleStore) -> None:
    store.conn.execute("CREATE SCHEMA mine; CREATE TEXT SEARCH CONFIGURATION mine.polish (COPY = english)")
    store.conn.execute("SET search_path = public, mine")
    publish(store, Record("a", "T", "running pumps", {"language": "polish"}))
    for more in ("", ", language => 'simple'"):
        assert store.conn.execute(f"SELECT text FROM heal.find('running'{more})").fetchall() == [("running pumps",)]  # type: ignore[arg-type]
    with pytest.raises(psycopg.DatabaseError, match="there is no text search configuration 'polish'") as caught:
        store.conn.execute("SELECT * FROM heal.find('running', language => 'polish')")
    assert str(caught.value.diag.message_hint).endswith("documents in other languages are found by 'simple'.")


def test_under_a_filter_a_hit_is_the_duplicate_that_meets_it(store: SampleStore) -> None:
    generation = publish(
        store,
        Record("a", "T", "same text", {"team": "red"}),
        Record("b", "T", "same text", {"team": "blue"}),
        Record("c", "T", "other text", {"team": "green"}),
    )
    for team, name in (("red", "a"), ("blue", "b")):
        for function, arguments in (
            ("search", "%(vector)s, %(gen)s::bigint, 10"),
            ("hybrid_search", "'same', %(vector)s, %(gen)s::bigint, 10"),
            ("search_many", "ARRAY[%(vector)s]::vector[], %(gen)s::bigint, 10"),
        ):
            rows = store.conn.execute(
                f"SELECT document_id, text FROM heal.{function}({arguments}, filter => %(filter)s::jsonb)",  # type: ignore[arg-type]
                {"vector": made_of("same text"), "gen": generation.generation_id, "filter": f'{{"team": "{team}"}}'},
            ).fetchall()
            assert rows == [(document_id(SOURCE, name), "same text")], (function, team)
    rows = store.conn.execute(
        'SELECT text FROM heal.similar(%s::bigint, filter => \'{"team": "green"}\')', (document_id(SOURCE, "b"),)
    ).fetchall()
    assert rows == [("other text",)]


HOSTILE = [
    "'; DROP TABLE heal.document; --",
    "$1",
    "%s",
    "a'b\\",
    "'::tsquery",
    "a & | ! ( )",
    ":*",
    "\u00e4\u2028",
    "%I%%",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_and_filters_cannot_inject(store: SampleStore, text: str) -> None:
    generation = publish(store, Record("a", text, text, {text: text}), Record("b", "T", "b"))
    query = encode(["q"], DIMS)[0]
    found = hybrid(store, text, query, generation)
    assert {row[0] for row in found} == {text, "b"}
    rows = store.conn.execute(
        "SELECT document_id FROM heal.search(%s, %s::bigint, filter => jsonb_build_object(%s::text, %s::text))",
        (query, generation.generation_id, text, text),
    ).fetchall()
    assert rows == [(document_id(SOURCE, "a"),)]
    with pytest.raises(psycopg.DatabaseError, match="no text search configuration") as caught:
        hybrid(store, "a", query, generation, language=text)
    assert caught.value.sqlstate == "HEA03"
