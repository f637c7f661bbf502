"""The search box: the hits of heal.find with their reasons, marks in the texts, and sentences instead of errors."""

import pytest

from heal_tasks.core.types import Record
from heal_tasks.report.store_search import Piece, Query, read_choices, search_store
from heal_tasks.report.templates import render_template
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.search import find_by_text
from tests.store.sample_store import SOURCE, SampleStore

EVIL = "<script>alert('x & y')</script>"
TEXTS = {
    "files": (
        "Reading files",
        f"The reader reads a file line by line. {EVIL} \x02running\x03",
        {"department": "sales"},
    ),
    "valves": ("Valves", "A valve is cleaned every year.", {"department": "service"}),
    "pumps": ("ポンプ", "緊急停止ボタンを押すとポンプが停止します。", {"language": "simple"}),
}


@pytest.fixture
def live(auto: Connection) -> Connection:
    """Three documents, searchable by text."""
    store = SampleStore(auto)
    records = [Record(name, *fields) for name, fields in TEXTS.items()]
    store.documents.apply_records(SOURCE, records, lambda title, body: [("", body)])
    made = store.generation()
    store.publish(made, store.wanted(made, leaf=0), kind="none")
    return auto


def test_every_hit_has_its_reasons(live: Connection) -> None:
    query = Query("who reads files or zirconium", language="english")
    answer = search_store(live, query)
    hits = find_by_text(live, query.text, language="english")
    assert [found.hit for found in answer.found] == hits
    for found in answer.found:
        assert found.similarity + found.words == pytest.approx(found.hit.score)
        assert found.similarity == pytest.approx(1 - found.hit.distance)
    first = answer.found[0]
    assert (sorted(first.stems), first.source) == (["file", "read"], "s: files")
    assert {stem.stem: stem.chunks for stem in answer.stems} == {"read": 1, "file": 1, "zirconium": 0}
    assert answer.unknown == ["zirconium"]
    assert first.words > 0
    assert [found.stems for found in answer.found[1:]] == [[]] * (len(hits) - 1)


def test_the_words_with_its_stems_are_marked(live: Connection) -> None:
    (first, *_) = search_store(live, Query("who reads files", language="english")).found
    assert [piece.text for piece in first.title if piece.marked] == ["Reading", "files"]
    assert [piece.text for piece in first.text if piece.marked] == ["reads", "file"]
    assert "".join(piece.text for piece in first.text) == TEXTS["files"][1].replace("\x02", "").replace("\x03", "")


def test_words_without_blanks_are_marked(live: Connection) -> None:
    (first, *_) = search_store(live, Query("ポンプの停止")).found
    assert first.title == [Piece("ポンプ", True)] or [piece.text for piece in first.title if piece.marked] == [
        "ポン",
        "プ",
    ]
    assert "停止" in [piece.text for piece in first.text if piece.marked]
    assert "".join(piece.text for piece in first.text) == TEXTS["pumps"][1]


def test_a_filter_and_a_language_are_passed_on(live: Connection) -> None:
    found = search_store(live, Query("file valve", filter='{"department": "service"}')).found
    assert [item.hit.title for item in found] == ["Valves"]
    assert read_choices(live).languages == ["english", "simple"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (Query("file", topic="99"), "has no topic 99 (HEA03)"),
        (Query("file", topic="x"), "the topic must be the id of a topic"),
        (Query("file", filter="[1]"), "the filter must be a JSON object"),
        (Query("file", filter="{"), "the filter must be a JSON object"),
        (Query("file", filter="[" * 100_000), "the filter must be a JSON object"),
        (Query("file", filter='{"department": "none"}'), "no document passes topic and filter"),
        (Query("file", language="klingon"), "no text search configuration 'klingon' (HEA03)"),
        (Query("file", language="\0"), "no text search configuration"),
        (Query("x" * 40_000), "32768 are the most (HEA03)"),
        (Query("zirconium"), "The lexicon has none of the words of this question."),
        (Query("\0 \ud800"), "The lexicon has none of the words of this question."),
    ],
    ids=range(11),
)  # fmt: skip
def test_a_refusal_is_a_sentence(live: Connection, query: Query, sentence: str) -> None:
    answer = search_store(live, query)
    assert answer.found == []
    assert sentence in answer.problem


def test_nothing_is_live(auto: Connection) -> None:
    assert "No generation is active yet" in search_store(auto, Query("file")).problem
    assert read_choices(auto) == ([], [])


def test_the_page_is_escaped(live: Connection) -> None:
    query = Query(f"files {EVIL}", filter=EVIL, language=EVIL)
    frame = {"nav": [], "here": "", "script": "", "dag_id": "", "run_id": "", "airflow": "../", "corpora": {}}
    for asked in (query, Query(f"files {EVIL}")):
        answer = search_store(live, asked)
        page = render_template("search.html.jinja", **frame, query=asked, choices=read_choices(live), answer=answer)
        assert EVIL not in page
        assert "&lt;script&gt;alert(&#39;x &amp; y&#39;)&lt;/script&gt;" in page


def test_a_document_that_is_not_for_everybody_is_not_found(live: Connection) -> None:
    query = Query("who reads files", language="english")
    assert "s: files" in [found.source for found in search_store(live, query).found]
    live.execute("UPDATE heal.document SET acl = '{alice}' WHERE external_id = 'files'")
    answer = search_store(live, query)
    assert "s: files" not in [found.source for found in answer.found]
