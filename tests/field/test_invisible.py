"""What nobody sees: texts without anything visible, characters around ids, spellings of one name, bounds of titles."""

import json

import pytest

from heal_tasks.core.types import Record
from tests.sources.parsing import accepted, parse, refused

INVISIBLE = ["\u200b\ufeff", "\u00ad\u00a0", "\u2060\u3000", "\u3164\u115f", "\u2800 \u200d", "\x07\x1f", "\ufe0f"]


@pytest.mark.parametrize("text", INVISIBLE)
def test_texts_of_invisible_characters_are_empty(text: str) -> None:
    assert refused("x.jsonl", json.dumps({"id": 1, "text": text})).reason.startswith("text is empty")
    assert refused("x.txt", f"a{text}"[1:]).reason.startswith(("text is empty", "the file is empty"))
    assert accepted("x.jsonl", json.dumps({"id": 1, "text": "t", "title": text})).title == ""
    assert accepted("x.html", f"<title>{text}</title><h1>Head</h1>").title == "Head"


@pytest.mark.parametrize("text", ["→", "😀", "5", "é", "水", "~"])
def test_texts_of_one_visible_character_are_texts(text: str) -> None:
    assert accepted("x.txt", text).body == text


@pytest.mark.parametrize("name", ["\ufeffa1", "a1\u200b", " a1\u00a0", "\u200ea1\u2060"])
def test_invisible_characters_around_an_id_are_no_part_of_it(name: str) -> None:
    assert accepted("x.jsonl", json.dumps({"id": name, "text": "t"})).external_id == "a1"


def test_two_spellings_of_a_name_are_one_id() -> None:
    assert accepted("x.jsonl", json.dumps({"id": "cafe\u0301", "text": "t"})).external_id == "caf\u00e9"
    assert accepted("cafe\u0301.txt", "t").external_id == "caf\u00e9.txt"


def test_soft_hyphens_and_marks_inside_a_text_are_dropped() -> None:
    assert accepted("x.html", "<p>soft&shy;hyphen").body == "softhyphen"
    assert accepted("x.txt", "re\u00adtrieval \ufeffof text").body == "retrieval of text"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("x.md", "# {}\n\nbody"),
        ("x.md", "---\ntitle: {}\n---\nbody"),
        ("x.html", "<title>{}</title>body"),
        ("x.html", "<h1>{}</h1>body"),
        ("x.csv", "id,text,title\n1,body,{}\n"),
        ("x.jsonl", '{{"id": 1, "text": "body", "title": "{}"}}'),
    ],
)
def test_titles_are_cut(path: str, content: str) -> None:
    (record,) = parse(path, content.format("word " * 12_000), max_chars=100_000)
    assert isinstance(record, Record)
    assert 400 < len(record.title) <= 500 and record.title.endswith("…")


def test_metadata_has_a_bound() -> None:
    line = json.dumps({"id": 1, "text": "t", "extra": "x" * 70_000})
    assert refused("x.jsonl", line).reason.startswith("metadata has 70013 characters as JSON, at most 65536")
