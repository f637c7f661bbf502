"""Parsing of tables, refusals of whole files, and that no content raises."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.types import Record, Rejected, SourceFile
from heal_tasks.sources.base import open_source
from heal_tasks.sources.parse import PARSERS, read_records
from tests.sources.parsing import LIMIT, FakeSource, accepted, parse, refused


def test_jsonl_fields_and_metadata() -> None:
    lines = [
        {"id": "a", "text": "one\r\ntwo ", "title": " a\n title ", "year": 1999, "metadata": {"by": ["x"]}},
        {"id": 7, "body": "three", "metadata": "plain", "none": None},
    ]
    first, second = parse("in/x.JSONL", "\n".join(json.dumps(line) for line in lines))
    assert first == Record("a", "a title", "one\ntwo", {"year": 1999, "by": ["x"]}, "in/x.JSONL", 1)
    assert second == Record("7", "", "three", {"none": None, "metadata": "plain"}, "in/x.JSONL", 2)


def test_one_bad_line_costs_one_line() -> None:
    data = b'{"id": 1, "text": "good"}\r\n\n{"id": 2, "text": "caf\xe9"}\n{"id": 3\n  \n{"id": 4, "text": "good"}'
    first, undecodable, broken, last = parse("x.jsonl", data)
    assert isinstance(first, Record) and isinstance(last, Record)
    assert (first.line, last.line) == (1, 6)
    assert undecodable == Rejected(
        "x.jsonl", 3, "not utf-8: byte 0xe9 at offset 22; convert it to UTF-8", '{"id": 2, "text": "caf\ufffd"}\n'
    )
    assert isinstance(broken, Rejected) and broken.line == 4
    assert broken.reason.startswith("broken JSON: Expecting ',' delimiter at column 9")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "x"}', "id is missing; every record needs one"),
        ('{"id": null, "text": "x"}', "id is missing"),
        ('{"id": " ", "text": "x"}', "id is empty"),
        ('{"id": true, "text": "x"}', "id is of type bool; make it a string or an integer"),
        ('{"id": 1.5, "text": "x"}', "id is of type float"),
        ('{"id": "a\\u0000", "text": "x"}', "id contains a NUL character"),
        ('{"id": 1}', "text is missing; give a string in field text or body"),
        ('{"id": 1, "text": 5}', "text is of type int"),
        ('{"id": 1, "text": " \\n "}', "text is empty"),
        ('{"id": 1, "text": "%s"}' % ("x" * (LIMIT + 1)), "text has 10001 characters, at most 10000 are taken"),
        ('{"id": 1, "text": "a\\u0000b"}', "text contains a NUL character (U+0000), which Postgres cannot store"),
        ('{"id": 1, "text": "a\\ud800b"}', "text contains half of a surrogate pair"),
        ('{"id": 1, "text": "x", "title": ["t"]}', "title is of type list"),
        ('{"id": 1, "text": "x", "title": "\\udfff"}', "title contains half of a surrogate pair"),
        ('{"id": 1, "text": "x", "m": {"k": ["\\u0000"]}}', "metadata contains a NUL character"),
        ('{"id": 1, "text": "x", "m": {"\\ud83d": 1}}', "metadata contains half of a surrogate pair"),
        ('{"id": 1, "text": "x", "m": ' + "[" * 60 + "]" * 60 + "}", "metadata is nested deeper than 50"),
        ('{"id": 1, "text": "x", "m": %s' % ("[" * 100_000), "JSON that cannot be read (RecursionError"),
        ('{"id": 1, "text": "x", "m": %s}' % ("9" * 5000), "JSON that cannot be read (ValueError: Exceeds the limit"),
        ("[1, 2]", "JSON list where an object is wanted"),
        ('"text"', "JSON str where an object is wanted"),
    ],
)
def test_jsonl_records_that_arerefused(line: str, reason: str) -> None:
    rejected = refused("x.jsonl", line)
    assert rejected.reason.startswith(reason)
    assert rejected.line == 1
    assert rejected.raw == line[:500]


def test_numbers_that_json_does_not_know_become_null() -> None:
    record = accepted("x.jsonl", '{"id": 1, "text": "x", "a": NaN, "b": -Infinity, "c": 1e999, "d": [1.5, 2]}')
    assert record.metadata == {"a": None, "b": None, "c": None, "d": [1.5, 2]}


def test_surrogate_pairs_are_one_character() -> None:
    assert accepted("x.jsonl", '{"id": 1, "text": "\\ud83d\\ude00"}').body == "😀"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding: str) -> None:
    assert accepted("x.jsonl", '{"id": "é", "text": "ü"}\n'.encode(encoding)).external_id == "é"
    assert accepted("x.csv", "id,text\né,ü\n".encode(encoding)).body == "ü"
    assert accepted("x.txt", "ü".encode(encoding)).body == "ü"
    assert accepted("x.md", "# ü\ntext".encode(encoding)).title == "ü"
    assert accepted("x.html", "<title>ü</title>é".encode(encoding)).title == "ü"


@pytest.mark.parametrize("path", ["x.txt", "x.md", "x.html"])
def test_bytes_in_no_known_encoding(path: str) -> None:
    assert refused(path, b"\xff\xfea").reason.startswith("not utf-16")


def test_a_second_record_with_the_same_id_names_the_first() -> None:
    lines = ['{"id": 1, "text": "a"}', '{"id": 2}', '{"id": 2, "text": "b"}', '{"id": "1 ", "text": "c"}']
    _, missing, second, duplicate = parse("x.jsonl", "\n".join(lines))
    assert isinstance(missing, Rejected) and isinstance(second, Record)  # a refused record does not hold its id
    assert duplicate == Rejected("x.jsonl", 4, "id '1' is already on line 1; make ids unique", "c")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_delimiters_quotes_and_line_numbers(delimiter: str) -> None:
    rows = [["title", "id", "body", "year"], [" A  b", "1", 'two\nlines, "quoted"; tab\t.', "1999"], ["", "2", "x", ""]]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([*rows, ["", "", "", " "]])
    first, second = parse("x.csv", out.getvalue())
    assert first == Record("1", "A b", 'two\nlines, "quoted"; tab\t.', {"year": "1999"}, "x.csv", 2)
    assert second == Record("2", "", "x", {}, "x.csv", 4)


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        ("id,text\n1,a\n2,b,c\n3,d", 3, "the row has 3 cells, the header 2; quote cells"),
        ("id,text\n1,a\n2\n3,d", 3, "text is missing"),
        ('id,text\n1,a\n2,"b"b\n3,d', 3, "broken row (',' expected after '\"')"),
        ("id,text\n1,a\n2,\n3,d", 3, "text is missing"),
        ("id,text\n1,a\n2,b\0\n3,d", 3, "text contains a NUL character"),
    ],
)
def test_one_bad_row_costs_one_row(data: str, line: int, reason: str) -> None:
    first, rejected, last = parse("x.csv", data)
    assert isinstance(first, Record) and isinstance(last, Record)
    assert (first.external_id, last.external_id) == ("1", "3")
    assert isinstance(rejected, Rejected)
    assert rejected.line == line
    assert rejected.reason.startswith(reason)


def test_a_quote_that_is_never_closed_costs_its_row() -> None:
    first, rejected, *rest = parse("x.csv", 'id,text\n1,a\n2,"b\n3,c\n4,d\n')
    assert [item.external_id for item in (first, *rest) if isinstance(item, Record)] == ["1", "3", "4"]
    assert isinstance(rejected, Rejected)
    assert (rejected.line, rejected.reason[:31]) == (3, "broken row (unexpected end of d")


def test_a_csv_field_may_be_longer_than_the_modules_default_limit() -> None:
    (record,) = parse("x.csv", "id,text\n1," + "x" * 200_000, max_chars=200_000)
    assert isinstance(record, Record)
    assert len(record.body) == 200_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("name,text\n1,a", "the first row names no columns id and text"),
        ("1,2,3", "the first row names no columns id and text"),
        ("id,text,x,x\n1,a,b,c", "the first row names a column twice"),
    ],
)
def test_csv_headers_that_arerefused(data: str, reason: str) -> None:
    assert refused("x.csv", data).reason.startswith(reason)


@pytest.mark.parametrize("path", [f"x{suffix}" for suffix in PARSERS])
def test_an_empty_file_isrefused(path: str) -> None:
    assert refused(path, b"").reason.startswith("the file is empty (0 bytes)")
    assert refused(path, b"\xef\xbb\xbf \n").reason.startswith("the file is empty (5 bytes)")


@pytest.mark.parametrize(
    ("file", "error", "reason"),
    [
        (
            SourceFile("x.txt", "f", 101),
            None,
            "the file has 101 bytes, at most 100 are read; split it or raise HEAL_MAX",
        ),
        (SourceFile("x.txt", "f", 10), SourceError("x.txt cannot be read"), "x.txt cannot be read"),
    ],
)
def test_read_records_refuses_files(file: SourceFile, error: Exception | None, reason: str) -> None:
    (rejected,) = read_records(FakeSource(error), file, max_bytes=100, max_chars=100)
    assert isinstance(rejected, Rejected)
    assert rejected.reason.startswith(reason)


def test_read_records_lets_retryable_errors_through() -> None:
    with pytest.raises(RetryableError, match="busy"):
        list(read_records(FakeSource(RetryableError("busy")), SourceFile("x.txt", "f", 1), max_bytes=9, max_chars=9))


def test_read_records_reads(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    source = open_source(f"file:{tmp_path}", s3_endpoint_url=None)
    (file,) = source.list_files()
    assert list(read_records(source, file, max_bytes=9, max_chars=9)) == [Record("a.txt", "a", "text", {}, "a.txt", 0)]


_JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(st.characters()), st.lists, max_leaves=5)
_PARTS = [
    b"<p>", b"</", b"<!--", b"<![", b"&#x110000;", b'"', b",", b"\n", b"id,text\n", b'{"id":1,"text":"', b"\0", b"\xff",
    b"%PDF-1.4\n", b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj ", b"trailer<</Root 1 0 R>>startxref 0 %%EOF",
]  # fmt: skip
_FRAGMENTS = st.lists(st.sampled_from(_PARTS) | st.binary(max_size=8)).map(b"".join)
_OBJECTS = st.dictionaries(st.sampled_from(["id", "text", "title", "m"]), _JSON).map(
    lambda value: json.dumps(value).encode()
)


@pytest.mark.parametrize("suffix", PARSERS)
@settings(max_examples=60)
@given(data=st.binary(max_size=200) | _FRAGMENTS | _OBJECTS)
@example(data=b"\xff\xfe\x00\xd8")
@example(data=b"<![x")
@example(data=b"&#" + b"9" * 5000 + b";")
def test_whatever_the_bytes_nothing_raises_and_everything_can_be_stored(suffix: str, data: bytes) -> None:
    for item in parse(f"x{suffix}", data):
        if isinstance(item, Record):
            assert item.external_id and item.body.strip()
            texts = [
                item.external_id,
                item.title,
                item.body,
                json.dumps(item.metadata, ensure_ascii=False, allow_nan=False),
            ]
            assert "\\u0000" not in texts[-1]
        else:
            assert item.reason and len(item.reason) <= 300 and len(item.raw) <= 500
            texts = [item.reason, item.raw]
        for text in texts:
            assert "\0" not in text
            text.encode("utf-8")
