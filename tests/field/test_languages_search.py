"""Texts of every script are found by their words, in SQL and through a lexicon."""

from collections.abc import Iterator

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.core.types import Record
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from tests.field.texts import ENGLISH, SAMPLES

CODES = {"Chinese": "zh", "Japanese": "ja", "Thai": "thai", "German": "german", "Russian": "russian", "Korean": "ko"}
ALL = [(language, place) for language, samples in SAMPLES.items() for place in range(len(samples))]


@pytest.fixture(scope="module")
def live(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """All samples in one store; some documents name their language, the others count as English."""
    settings = load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)
    with connect(module_database_url, autocommit=True) as conn:
        records = [
            Record(f"{language} {place}", "", SAMPLES[language][place].text, _metadata(language))
            for language, place in ALL
        ]
        records.append(Record("English", "", ENGLISH, {}))
        DocumentRepository(conn).apply_records("s", records, lambda title, body: [("", body)])
        load_step("first_light").run(settings, Manifest(run_id="r1"))
        yield conn


def _metadata(language: str) -> dict[str, object]:
    return {"language": CODES[language]} if language in CODES else {}


def found(conn: Connection, query: str, more: str = "") -> list[str]:
    rows = conn.execute(
        "SELECT d.external_id FROM heal.find(%s, 3" + more + ") f JOIN heal.document d USING (document_id) "  # type: ignore[arg-type]
        "ORDER BY f.score DESC",
        (query,),
    )
    return [name for (name,) in rows]


@pytest.mark.parametrize(("language", "place"), ALL)
def test_a_question_finds_the_text(live: Connection, language: str, place: int) -> None:
    assert found(live, SAMPLES[language][place].query)[0] == f"{language} {place}"


@pytest.mark.parametrize(("query", "first"), [
    ("泵", "Chinese 0"), ("歯", "Japanese 2"), ("Ventil", "German 0"), ("vanne", "French 0"), ("valves", "English"),
    ("ﾎﾟﾝﾌﾟ", "Japanese 0"), ("펌프", "Korean 0"), ("clean“valve”every", "English"), ("الصمام؟", "Arabic 0"),
    ("высокая", "Russian 1"),
])  # fmt: skip
def test_one_word_finds_the_text(live: Connection, query: str, first: str) -> None:
    assert found(live, query)[0] == first


def test_hybrid_search_and_explain_find_count_the_same_words(live: Connection) -> None:
    rows = live.execute(
        "SELECT d.external_id FROM heal.hybrid_search('面包烤箱', array_fill(0.01::real, ARRAY[384])::vector, "
        "(SELECT max(generation_id) FROM heal.generation), 1) JOIN heal.document d USING (document_id)"
    ).fetchall()
    assert rows == [("Chinese 1",)]
    explained = live.execute(
        "SELECT stem, chunks FROM heal.explain_find('面包烤箱？') WHERE config = 'simple'"
    ).fetchall()
    assert dict(explained) == {"面": 1, "面包": 1, "包": 1, "包烤": 0, "烤": 1, "烤箱": 1, "箱": 1}


@pytest.mark.parametrize(("query", "first"), [("水泵", "Chinese 0"), ("วัคซีนแมว", "Thai 2")])
def test_a_language_may_be_given(live: Connection, query: str, first: str) -> None:
    """One that the server has no configuration for is ``simple``, by whatever name the documents have it."""
    assert found(live, query, ", language => 'simple'")[0] == first
    rows = live.execute("SELECT config, sum(share) FROM heal.explain_find(%s, 'simple') GROUP BY 1", (query,))
    shares = {config: share for config, share in rows if share}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares.keys() <= {"simple", "thai"}


def test_words_of_mixed_texts(auto: Connection) -> None:
    texts = {
        "PostgreSQLのインデックス": ["postgresql", "の", "のイ", "イ", "イン"],
        "第０号ＡＢＣ": ["第", "0", "号", "abc"],
        "ﾊﾞﾙﾌﾞ": ["バ", "バル", "ル", "ルブ", "ブ"],
        "Cafe\u0301 “quoted”—dash": ["café", "quot", "dash"],
        "ปั๊ม": ["ปั๊", "ปั๊ม", "ม"],
        "plain ASCII text, it's 10-20 http://a.b/c": None,
    }  # fmt: skip
    for text, expected in texts.items():
        plain, words = auto.execute(
            "SELECT to_tsvector('english', %s)::text, heal.to_words('english', %s)::text", (text, text)
        ).fetchall()[0]
        if expected is None:
            assert words == plain
        else:
            inside = [part.split("':")[0].strip("'") for part in words.split(" ")]
            assert set(expected) <= set(inside), (text, words)
