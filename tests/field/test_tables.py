"""Tables as people export them: delimiters, headers, ids, encodings, and broken rows that cost only themselves."""

import json

import pytest

from heal_tasks.core.types import Record, Rejected
from tests.sources.parsing import accepted, parse, refused

ROWS = "".join(f"r{number},text of row {number}\n" for number in range(2, 1000))


def ids(items: list[Record | Rejected]) -> list[str]:
    return [item.external_id for item in items if isinstance(item, Record)]


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ("id,text,,\n1,blue pump,,\n", "blue pump"),
        ("sep=;\nid;text\n1;blue, pump\n", "blue, pump"),
        ('\ufeff"sep=|"\r\nid|text\r\n1|blue\r\n', "blue"),
        ("id|text\n1|blue\n", "blue"),
        ("ID,Text,TITLE\n1,blue,t\n", "blue"),
        ('"id", "text"\n1, "has, comma"\n', "has, comma"),
        ("\n\nid,text\n1,blue\n", "blue"),
        ("id,text,note\n1,blue\n", "blue"),
        ("id,text\n1,blue,, \n", "blue"),
        ("id,\u200btext\u00a0\n1,blue\n", "blue"),
        ("id,text\r1,blue\r", "blue"),
    ],
)
def test_headers_and_ragged_rows(data: str, body: str) -> None:
    record = accepted("x.csv", data)
    assert (record.external_id, record.body) == ("1", body)
    assert not {name for name in record.metadata if not name.strip()}


def test_a_cell_below_an_empty_header_is_kept_by_its_place() -> None:
    assert accepted("x.csv", "id,text,,\n1,blue,,seen\n").metadata == {"column 4": "seen"}


def test_tabs_in_utf16_with_and_without_a_byte_order_mark() -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        assert accepted("x.tsv", "id\ttext\n1\tüber\n".encode(encoding)).body == "über"


@pytest.mark.parametrize("opened", ['r1,"never closed', 'r1,"never closed\nand more of it', 'r1,"b"b'])
def test_a_broken_quote_costs_one_row(opened: str) -> None:
    items = parse("x.csv", f"id,text\nr0,first\n{opened}\n{ROWS}")
    assert ids(items) == ["r0", *(f"r{number}" for number in range(2, 1000))]
    (rejected,) = (item for item in items if isinstance(item, Rejected))
    assert (rejected.line, rejected.records) == (3, 1)
    assert rejected.raw.startswith("r1")


def test_a_quote_that_meets_a_later_one_costs_no_row_between() -> None:
    items = parse("x.csv", 'id,text\n1,"open\n2,two\n3,"three, quoted"\n4,"multi\nline"\n5,five\n')
    assert ids(items) == ["2", "3", "4", "5"]


def test_a_lost_rest_of_a_file_weighs_as_many_records_as_it_has_lines() -> None:
    items = parse("x.csv", "id,text\n1,a\n" + '2,"x"x\n' * 500)
    assert ids(items) == ["1"]
    assert sum(item.records for item in items if isinstance(item, Rejected)) == 500
    assert refused("x.csv", "name,words\n" + "1,a\n" * 500).records == 500
    assert refused("x.json", b"\xff\xfe\n" + b"x\n" * 500).records > 100


def test_rows_that_are_not_utf8_are_read_as_windows_1252_and_noted() -> None:
    data = b"id,text\n" + b"".join(b"%d,row\n" % number for number in range(80)) + "x,5 € für Café\n".encode("cp1252")
    items = parse("x.csv", data)
    assert len(ids(items)) == 81
    assert isinstance(items[-1], Record) and isinstance(items[0], Record)
    assert (items[-1].body, items[-1].metadata) == ("5 € für Café", {"encoding_guessed": "windows-1252"})
    assert items[0].metadata == {}


def test_a_row_in_no_known_encoding_is_rejected_alone() -> None:
    data = b"id,text\n1,a\n" + "2,насос и клапан\n".encode("cp1251") + b"3,b\n"
    first, rejected, last = parse("x.csv", data)
    assert ids([first, last]) == ["1", "3"]
    assert isinstance(rejected, Rejected)
    assert rejected.reason.startswith("neither UTF-8 nor Windows-1252")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1.0", "2.0", "30.0"], ["1", "2", "30"]),
        (["1.0", "1.1", "2.0"], ["1.0", "1.1", "2.0"]),
        (["a", "2.0"], ["a", "2.0"]),
    ],
)
def test_whole_numbers_lose_their_decimals_if_all_ids_have_them(column: list[str], expected: list[str]) -> None:
    assert ids(parse("x.csv", "id,text\n" + "".join(f"{name},t\n" for name in column))) == expected


def test_quoted_rows_of_several_lines_are_read_after_ids_were_looked_at() -> None:
    assert ids(parse("x.csv", 'id,text\n1.0,"a\nb"\n2.0,"c\nd"\n3.0,"open\n4.0,e\n')) == ["1", "2", "4"]


def test_ids_below_a_broken_row_are_looked_at_too() -> None:
    broken, *others = parse("x.csv", 'id,text\n1.0,a\n2.0,"b" c\n2.1,d\n3.0,e\n')[1:]
    assert isinstance(broken, Rejected)
    assert ids(others) == ["2.1", "3.0"]


@pytest.mark.parametrize("sign", ["\u2028", "\x85"])
def test_json_lines_in_a_json_file_may_have_any_sign_in_a_string(sign: str) -> None:
    first = json.dumps({"id": 1, "text": f"a{sign}b"}, ensure_ascii=False)
    assert ids(parse("x.json", f'{first}\n\n{{"id": 2, "text": "c"}}\n')) == ["1", "2"]


def test_numbers_and_names_of_fields_in_json_lines() -> None:
    lines = [
        '{"ID": 1.0, "Text": "a", "Title": "t"}',
        '{"id": 2, "text": "", "body": "b"}',
        '\ufeff{"id":3,"text":"c"}',
    ]
    first, second, third = parse("x.ndjson", "\n".join(lines))
    assert first == Record("1", "t", "a", {}, "x.ndjson", 1)
    assert second == Record("2", "", "b", {}, "x.ndjson", 2)
    assert ids([third]) == ["3"]


@pytest.mark.parametrize(
    "value",
    [
        [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}],
        {"count": 2, "documents": [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]},
    ],
)
def test_json_files_hold_an_array_of_records(value: object) -> None:
    assert ids(parse("x.json", json.dumps(value, indent=1))) == ["1", "2"]


def test_json_files_of_one_record_of_json_lines_and_of_nothing() -> None:
    one = {"id": 1, "text": "a", "authors": [{"name": "x"}]}
    assert accepted("x.json", json.dumps(one)).metadata == {"authors": [{"name": "x"}]}
    assert ids(parse("x.json", '{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n')) == ["1", "2"]
    assert refused("x.json", '{"id": 1').reason.startswith("broken JSON: ")
    assert refused("x.json", "[" * 100_000).reason.startswith("JSON that cannot be read (RecursionError")
    first, second = parse("x.json", '[{"id": 1, "text": "a"}, 7]')
    assert ids([first]) == ["1"]
    assert isinstance(second, Rejected) and second.line == 2


@pytest.mark.parametrize("path", ["x.csv", "x.jsonl"])
def test_a_broken_character_in_utf16_costs_one_row(path: str) -> None:
    rows = [(str(number), "broken \ud800" if number == 3 else "text") for number in range(9)]
    if path == "x.csv":
        data = "id,text\n" + "".join(f"{name},{text}\n" for name, text in rows)
    else:
        data = "".join(f'{{"id": "{name}", "text": "{text}"}}\n' for name, text in rows)
    for encoding in ("utf-16", "utf-16-le"):
        items = parse(path, data.encode(encoding, "surrogatepass") + b"\n")  # and half a character at the end
        assert ids(items) == [name for name, _ in rows if name != "3"]


def test_utf32_with_a_mark_and_lines_that_end_in_carriage_returns() -> None:
    assert accepted("x.csv", "id,text\n1,über\n".encode("utf-32")).body == "über"
    assert accepted("x.html", "<title>t</title>über".encode("utf-32")).body == "über"
    assert ids(parse("x.jsonl", '{"id":1,"text":"a"}\r{"id":2,"text":"b"}\r')) == ["1", "2"]


@pytest.mark.parametrize(
    ("path", "data", "records"),
    [
        ("x.json", '{"a": [{"id": 1, "text": "a"}], "b": [{"id": 2, "text": "b"}]}', 2),
        ("x.json", b"[" + b'{"id":1,"text":"\xe9"},' * 50 + b"{}]", 51),
        ("x.json", '[{"id": ' + "1" * 5000 + "}, {}]", 2),
        ("x.jsonl", '[{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]', 2),
    ],
)
def test_a_refused_file_on_one_line_weighs_as_many_records_as_it_has(
    path: str, data: str | bytes, records: int
) -> None:
    assert refused(path, data).records == records
