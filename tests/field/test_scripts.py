"""Words of every script: PostgreSQL and Python make the same ones, and ASCII texts keep theirs."""

import re
import unicodedata
from collections.abc import Iterator
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from heal_tasks.core.errors import StoreError
from heal_tasks.core.scripts import script_of, spaced
from heal_tasks.core.types import Record
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.migrate import apply_files, migrate
from heal_tasks.topics.tfidf import count_terms, readable
from tests.field.texts import ENGLISH, SAMPLES

TEXTS = [*(sample.text for samples in SAMPLES.values() for sample in samples), ENGLISH]
UNSPECIFIC = ("Cn", "Cs", "Co", "Cc")
ALPHABET = "".join(sorted(set("".join(TEXTS)))) + "ab 12.-'\n“”—，。Ａ１ﾊﾞ゙゚́นํ้ำ펌"


@pytest.fixture(scope="module")
def shared(module_database_url: str) -> Iterator[Connection]:
    """One connection for the tests that only read."""
    with connect(module_database_url, autocommit=True) as conn:
        yield conn


def in_sql(conn: Connection, texts: list[str]) -> list[str]:
    query = "SELECT heal.spaced(t) FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, place) ORDER BY place"
    return [text for (text,) in conn.execute(query, (texts,))]


def test_postgres_and_python_agree_on_every_character(shared: Connection) -> None:
    letters = map(chr, [*range(0xA0, 0x11000), *range(0x1F000, 0x20010), *range(0x323A0, 0x323C0)])
    texts = [f"x压{c}力y{c}{c}のก{c}" for c in letters if unicodedata.category(c) not in UNSPECIFIC]
    assert in_sql(shared, texts) == [spaced(text) for text in texts]


@given(st.lists(st.text(alphabet=ALPHABET, max_size=40), min_size=1, max_size=20))
def test_postgres_and_python_agree_on_any_text(shared: Connection, texts: list[str]) -> None:
    non_ascii = [text for text in texts if not text.isascii()]
    assert in_sql(shared, non_ascii) == [spaced(text) for text in non_ascii]


@pytest.mark.parametrize("language", SAMPLES)
def test_terms_of_topics_are_lexemes(shared: Connection, language: str) -> None:
    text = " ".join(sample.text for sample in SAMPLES[language])
    rows = shared.execute("SELECT lexeme FROM unnest(heal.to_words('simple', %s))", (text,)).fetchall()
    lexemes = {lexeme for (lexeme,) in rows}
    _, terms = count_terms([text])
    assert terms
    assert set(terms) <= lexemes
    left = {lexeme for lexeme in lexemes - set(terms) if len(re.sub(r"[\W\d_]", "", lexeme)) > 1}
    assert left <= ENGLISH_STOP_WORDS, "beside these only numbers and single letters are no terms"


@given(st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=200))
def test_ascii_texts_keep_their_words(shared: Connection, text: str) -> None:
    assert spaced(text) is text
    for language in ("english", "simple", "german"):
        ((same,),) = shared.execute(
            "SELECT heal.to_words(%(language)s, %(text)s) = to_tsvector(%(language)s::regconfig, %(text)s)",
            {"language": language, "text": text},
        ).fetchall()
        assert same


def test_pairs_are_in_the_order_of_the_text_and_marks_stay_with_their_letters(shared: Connection) -> None:
    assert spaced("压力表x").split() == ["压", "压力", "力", "力表", "表", "x"]
    assert spaced("か\u3099は\u309a").split() == ["が", "がぱ", "ぱ"], "composed"
    assert spaced("ปั๊มน้ำ").split() == ["ปั๊", "ปั๊ม", "ม", "มน้", "น้", "น้ำ", "ำ"]
    rows = shared.execute(
        "SELECT lexeme FROM unnest(heal.to_words('simple', 'ตา压力表')) ORDER BY positions[1]"
    ).fetchall()
    assert [lexeme for (lexeme,) in rows][-3:] == ["力", "力表", "表"]


def test_a_long_chunk_has_bounded_words(shared: Connection) -> None:
    text = "".join(chr(0x4E00 + number * 7 % 20000) for number in range(2000))
    ((stems, size, last),) = shared.execute(
        "SELECT length(w), pg_column_size(w), (SELECT max(p) FROM unnest(w) u, unnest(u.positions) p) "
        "FROM heal.to_words('simple', %s) w", (text,)
    ).fetchall()  # fmt: skip
    assert (stems, last) == (3999, 3999)
    assert size < 100_000


def test_an_existing_database_gets_the_words_again(auto: Connection) -> None:
    auto.execute("DELETE FROM heal.schema_migration WHERE name = '011_words.sql'")
    auto.execute(
        "CREATE OR REPLACE FUNCTION heal.set_words() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "SELECT to_tsvector('english', NEW.text) INTO NEW.words; RETURN NEW; END $$"
    )
    auto.execute("DROP FUNCTION heal.to_words, heal.spaced")
    records = [Record("zh", "", "压力表", {}), Record("en", "", "plain words", {}), Record("é", "", "café", {})]
    DocumentRepository(auto).apply_records("s", records, lambda title, body: [("", body)])
    row_versions = "SELECT d.external_id, c.xmin::text FROM heal.chunk c JOIN heal.document d USING (document_id)"
    before = dict(auto.execute(row_versions).fetchall())
    file = files("heal_tasks.store") / "sql" / "011_words.sql"
    apply_files(auto, {"011_words.sql": file.read_text("utf-8")})
    after = dict(auto.execute(row_versions).fetchall())
    assert {name for name in after if after[name] != before[name]} == {"zh"}
    found = auto.execute("SELECT text FROM heal.chunk WHERE words @@ '力表'::tsquery").fetchall()
    assert found == [("压力表",)]


def test_a_database_that_cannot_hold_all_scripts_is_refused(postgres: EmbeddedPostgres) -> None:
    with connect(postgres.url(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE_PROVIDER 'libc' LOCALE 'C' TEMPLATE template0")
    with (
        connect(postgres.url("narrow")) as conn,
        pytest.raises(StoreError, match=r"encoding is LATIN1.*ENCODING 'UTF8'"),
    ):
        migrate(conn)


def test_terms_of_topics_are_joined_to_words() -> None:
    terms = ["感器", "传感", "pump", "电动", "现泄", "动机", "出现", "umbrella"]
    assert readable(terms, [1.0, 0.99, 0.9, 0.8, 0.79, 0.78, 0.77, 0.1]) == (
        "传感器",
        "pump",
        "电动机",
        "出现泄",
        "umbrella",
    )
    assert readable(["水泵", "的水"], [1.0, 0.5]) == ("水泵", "的水"), "in other texts, too"
    assert readable([], []) == ()


@pytest.mark.parametrize(
    ("text", "script"),
    [("压力", "Chinese"), ("圧力が", "Japanese"), ("펌프 x", "Korean"), ("насос", "Cyrillic"), ("pump é", "Latin"),
     ("ปั๊ม", "Thai"), ("12 !", "")],
)  # fmt: skip
def test_the_script_of_a_text(text: str, script: str) -> None:
    assert script_of(text) == script
