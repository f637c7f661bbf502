"""Stems out of PostgreSQL's tsvectors, and lexicons in and out of their tables."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.lexicon import StemDictionary, StoredLexicon
from tests.store.sample_store import DIMS, SOURCE, SampleStore

STRANGE = [
    "it's",
    "back\\slash",
    "'",
    "\\",
    "\\'",
    "a':1,2",
    "'x':3A",
    "ä\u2028é",
    "\U0001f30b",
    "日本",
    " space d ",
    "''\\\\''",
]


def counted(dictionary: StemDictionary, conn: Connection, *texts: Counter[str]) -> list[Counter[str]]:
    """Write stems as tsvectors, let the dictionary parse what the server prints, and give the stems by text."""
    rows = []
    for number, text in enumerate(texts):
        place, parts = 0, []
        for stem, count in text.items():
            quoted = stem.replace("\\", "\\\\").replace("'", "''")
            parts.append(f"'{quoted}':" + ",".join(str(place + one) for one in range(1, count + 1)))
            place += count
        row = conn.execute("SELECT %s::tsvector::text", (" ".join(parts),)).fetchone()
        assert row is not None
        rows.append((number * 10, "english", row[0]))
    found = dictionary.parse(rows, np.arange(len(texts)) * 10)
    made: list[Counter[str]] = [Counter() for _ in texts]
    for text, stem, count in zip(found.texts, found.stems, found.counts, strict=True):
        made[text][dictionary.stems[stem][1]] += int(count)
    return made


def test_strange_stems_are_parsed_as_the_server_prints_them(auto: Connection) -> None:
    texts = [Counter({stem: number % 3 + 1 for number, stem in enumerate(STRANGE)}), Counter(), Counter({"'": 2})]
    dictionary = StemDictionary()
    assert counted(dictionary, auto, *texts) == texts
    assert {stem for _, stem in dictionary.stems} == set(STRANGE)
    assert dictionary.languages == ["english"]


@given(stem=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_any_stem_is_parsed(stem: str) -> None:
    quoted = stem.replace("\\", "\\\\").replace("'", "''")
    dictionary = StemDictionary()
    found = dictionary.parse([(5, "simple", f"'{quoted}':1,7B 'z:':2")], np.array([5]))
    assert dictionary.stems == list(dict.fromkeys([("simple", stem), ("simple", "z:")]))
    assert found.counts.tolist() == [2, 1]


def test_more_positions_than_are_counted(store: SampleStore) -> None:
    store.documents.apply_records(
        SOURCE, [Record("a", "T", "basalt " * 300 + "chalk")], lambda title, body: [("", body)]
    )
    space = store.space()
    ids, _ = store.spaces.load_chunks(space)
    dictionary = StemDictionary()
    found = store.lexicons.chunk_stems(dictionary, ids)
    assert dict(zip([stem for _, stem in dictionary.stems], found.counts.tolist(), strict=True)) == {
        "basalt": 255,
        "chalk": 1,
    }
    many = dictionary.parse([(0, "english", "'basalt':" + ",".join(map(str, range(1, 400))))], np.array([0]))
    assert many.counts.tolist() == [255]


def test_a_fixed_dictionary_leaves_other_stems_out() -> None:
    dictionary = StemDictionary([("english", "b"), ("german", "a"), ("english", "b")])
    rows = [(3, "english", "'a':1 'b':2,3"), (1, "german", "'a':1")]
    found = dictionary.parse(rows, np.array([1, 3]), known=True)
    assert (found.texts.tolist(), found.stems.tolist(), found.counts.tolist()) == ([1, 0], [0, 1], [2, 1])
    assert len(dictionary) == 2
    grown = dictionary.parse(rows, np.array([1, 3]))
    assert grown.stems.tolist() == [2, 0, 1]
    nothing = dictionary.parse([], np.empty(0, dtype=np.int64))
    assert (nothing.texts.shape, nothing.stems.shape, nothing.counts.shape) == ((0,),) * 3


def test_a_lexicon_is_read_as_it_was_written(store: SampleStore) -> None:
    rng = np.random.default_rng(1)
    strange = sorted(stem for stem in STRANGE if "\\" not in stem)  # which PostgreSQL makes of no text
    stems = [("english", stem) for stem in strange] + [("german", "it's")]
    store.load(a="x")
    words = " ".join("'" + stem.replace("'", "''") + "':1" for stem in strange)
    store.conn.execute("UPDATE heal.chunk SET words = %s::tsvector", (words,))
    chunks, weights = np.arange(1, len(stems) + 1), rng.uniform(0.5, 8, len(stems)).astype(np.float32)
    chunks[1:3], weights[1] = 0, 0
    lexicon = StoredLexicon(stems, chunks, weights, rng.normal(size=(len(stems), DIMS)).astype(np.float32))
    made = store.generation()
    assert store.lexicons.load(made).vectors.shape == (0, DIMS)
    assert store.lexicons.write(made, lexicon, np.empty(0, dtype=np.int64)) == len(stems) - 1
    read = store.lexicons.load(made)
    kept = [number for number in range(len(stems)) if number != 1]
    order = [stems.index(stem) for stem in read.stems]
    assert sorted(order) == kept, "a stem without a weight is not written"
    assert [language for language, _ in read.stems] == ["english"] * (len(strange) - 1) + ["german"]
    np.testing.assert_array_equal(read.chunks, lexicon.chunks[order])
    np.testing.assert_array_equal(read.weights, lexicon.weights[order])
    np.testing.assert_allclose(read.vectors, lexicon.vectors[order], rtol=1e-3, atol=1e-5)
    some = store.lexicons.load(made, [("german", "it's"), ("english", strange[-1]), ("german", strange[-1])])
    assert some.stems == [("english", strange[-1]), ("german", "it's")]
    assert store.lexicons.load(made, []).stems == []


def test_questions_are_stemmed_in_the_languages_of_the_dictionary(store: SampleStore) -> None:
    store.load(a="houses")
    (chunk,) = store.conn.execute("SELECT chunk_id FROM heal.chunk").fetchall()[0]
    for number, text in enumerate(["Houses and Häuser?", "unknown"]):
        store.conn.execute(
            "INSERT INTO heal.question (question_id, chunk_id, text, answer, evidence, kind, writer, model, "
            "prompt_hash, split) VALUES (%s, %s, %s, '', '', 'question', 'human', '', '', 'train')",
            (number + 1, chunk, text),
        )
    dictionary = StemDictionary([("english", "hous"), ("german", "haus"), ("german", "and")])
    found = store.lexicons.question_stems(dictionary, np.array([1, 2]))
    assert sorted(zip(found.texts.tolist(), found.stems.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2)]


def test_unknown_stems_are_counted_in_live_chunks_of_their_language(store: SampleStore) -> None:
    store.load(a="basalt", b="basalt rock")
    store.publish(made := store.generation())
    records = [
        Record("c", "T", "rock marble Sydney"),
        Record("d", "T", "marble"),
        Record("e", "T", "Sydney", {"language": "de"}),
    ]
    store.documents.apply_records(SOURCE, records, lambda title, body: [("", body)])
    ids = store.conn.execute("SELECT chunk_id, text FROM heal.chunk").fetchall()
    of = {text: chunk for chunk, text in ids}
    assert store.lexicons.unknown_stems(made, np.array([of["rock marble Sydney"]])) == {
        ("english", "marbl"): 2,
        ("english", "sydney"): 1,
    }
    assert store.lexicons.unknown_stems(made, np.array([of["Sydney"], of["basalt"]])) == {
        ("german", "sydney"): 1,
        ("german", "t"): 1,
    }
    assert store.lexicons.unknown_stems(made, np.array([of["basalt rock"]])) == {}


def test_the_weights_are_those_of_the_definition(store: SampleStore) -> None:
    store.load(a="basalt rock|granite rock", b="granite rock granite")
    store.publish(made := store.generation())
    stored = store.lexicons.load(made)
    assert [stem for _, stem in stored.stems] == ["basalt", "granit", "rock"]
    assert stored.chunks.tolist() == [1, 2, 3]
    np.testing.assert_allclose(stored.weights, np.log(1 + 3 / np.array([1, 2, 3])), rtol=1e-6)


def test_a_stem_stays_while_any_chunk_has_it(store: SampleStore) -> None:
    """Also where that chunk is behind the ones that are looked at first."""
    store.load(many="|".join(f"frequent part{number}" for number in range(2100)))
    store.load(other="frequent shared solitary")
    store.load(last="shared")
    generation = store.generation()
    store.publish(generation)
    stored = {stem for _, stem in store.lexicons.load(generation).stems}
    assert {"frequent", "share", "part7"} < stored
    store.delete("other")
    left = {stem for _, stem in store.lexicons.load(generation).stems}
    assert stored - left == {"solitari"}
    store.conn.execute("ALTER TABLE heal.chunk DISABLE TRIGGER USER")
    store.conn.execute("DELETE FROM heal.chunk WHERE text IN ('shared', 'frequent part7')")
    assert store.lexicons.delete_unused(generation) == 2
    assert left - {stem for _, stem in store.lexicons.load(generation).stems} == {"share", "part7"}


def test_a_question_is_parsed_once_however_few_stems_there_are(store: SampleStore) -> None:
    store.load(a="basalt rock", b="granite rock")
    store.publish(store.generation())
    notices: list[str | None] = []
    store.conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    assert len(store.conn.execute("SELECT FROM heal.find(%s)", ("rock " + "y" * 3000,)).fetchall()) == 2
    assert notices == ["word is too long to be indexed"]
