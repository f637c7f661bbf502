"""heal.hybrid_search: words and vectors together."""

import numpy as np
import psycopg
import pytest
from spaces import SOURCE, Space

from heal_tasks.core.types import Record
from heal_tasks.local.postgres import EmbeddedPostgres
from tests.store.test_sql_api import hybrid, literal, made_of, publish, run_psql


def test_hybrid_search_finds_by_stems_and_by_vector_and_adds_the_scores(
    space: Space, postgres: EmbeddedPostgres, database_url: str
) -> None:
    texts = [f"filler number {number} about nothing" for number in range(30)]
    generation = publish(
        space,
        *[Record(f"d{number}", "T", text) for number, text in enumerate(texts)],
        Record("rare", "T", "The mitochondria were running about nothing"),
        Record("titled", "Chloroplasts", "Plants"),
    )
    query = made_of(texts[3])
    found = hybrid(space, "about the runs of a mitochondrion", query, generation)
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
    assert hybrid(space, "chloroplast", query, generation)[0][2] in (1, None)
    assert {row[0] for row in hybrid(space, "chloroplast", query, generation, k=40) if row[2]} == {"Plants"}
    only_vector = hybrid(space, "the of and", query, generation, k=3)
    assert [row[1:3] for row in only_vector] == [(1, None), (2, None), (3, None)]
    done = run_psql(
        postgres, database_url,
        "SELECT text, word_rank FROM heal.hybrid_search('mitochondria', "
        f"{literal(query)}, {generation.generation_id}, 40) WHERE word_rank IS NOT NULL",
    )  # fmt: skip
    assert done.stdout == "The mitochondria were running about nothing\t1\n"


@pytest.mark.parametrize("k", [1, 10, 20])
def test_hybrid_search_ranks_what_either_finds_by_both_scores(space: Space, k: int) -> None:
    rng = np.random.default_rng(7)
    words = [f"w{letter}{other}" for letter in "abcdef" for other in "uvwxyz"]
    texts = [" ".join(rng.choice(words, 6)) + f" number{number}" for number in range(160)]
    generation = publish(space, *[Record(f"d{number}", "T", text) for number, text in enumerate(texts)])
    asked, query, gen = "wau wbv wcw wdx", made_of("q"), generation.generation_id
    weights = dict(
        space.conn.execute(
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
        rows = space.conn.execute(
            "SELECT text, score, distance, vector_rank FROM heal.hybrid_search(%s, %s, %s::bigint, %s::int, "
            "words_weight => %s)",
            (asked, query, gen, k, weight),
        ).fetchall()
        expected = sorted(score, key=lambda text: -score[text])[:k]
        np.testing.assert_allclose([row[1] for row in rows], [score[text] for text in expected], atol=1e-6)
        for text, found, distance, vector_rank in rows:
            assert found == pytest.approx(score[text], abs=1e-6)
            assert distance == pytest.approx(1 - similarity[text], abs=1e-6)
            assert (vector_rank is None) is (text not in by_vector)


def test_the_weight_of_the_words_is_checked(space: Space) -> None:
    generation = publish(space, Record("a", "T", "a"))
    for weight in (-0.1, float("nan"), 101, None):
        with pytest.raises(psycopg.DatabaseError, match="words_weight must be between 0 and 100, got") as caught:
            hybrid(space, "a", made_of("a"), generation, words_weight=weight)
        assert caught.value.sqlstate == "HEA03"


def test_a_text_is_stemmed_in_its_own_language(space: Space) -> None:
    generation = publish(
        space,
        Record("de", "Titel", "Die Häuser am Fluss", {"language": "de"}),
        Record("en", "Title", "The houses by the river"),
        Record("xx", "Title", "Taloja taloissa", {"lang": "tlh"}),
    )
    stored = dict(space.conn.execute("SELECT external_id, language FROM heal.document").fetchall())
    assert stored == {"de": "german", "en": "english", "xx": "simple"}
    query = made_of("q")

    def matched(words: str, **named: object) -> set[str]:
        return {row[0] for row in hybrid(space, words, query, generation, **named) if row[2]}

    assert matched("Häusern") == {"Die Häuser am Fluss"}
    assert matched("house") == {"The houses by the river"}
    assert matched("taloissa") == {"Taloja taloissa"}
    assert matched("Häusern", language="english") == set()
    with pytest.raises(psycopg.DatabaseError, match="there is no text search configuration 'klingon'"):
        matched("Haus", language="klingon")
    space.documents.apply_records(
        SOURCE, [Record("en", "Title", "The houses by the river", {"lang": "simple"})], lambda title, body: [body]
    )
    assert matched("house", language="english") == set()
    assert matched("houses", language="simple") == {"The houses by the river"}
