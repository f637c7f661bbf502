"""Files of judgments are read like tables of documents."""

import gzip
import json
from pathlib import Path

import pytest

from heal_tasks.cli.judgments import _read


def read(path: Path, data: bytes | str) -> tuple[list[tuple[str, str]], list[str]]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    good, bad = _read(path)
    return [(item.query, item.document) for _, item in good], bad


@pytest.mark.parametrize("document", ["1", '"1"', "1.0", '" 1"', '"\u200b1"'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spellings_of_an_id_and_encodings(tmp_path: Path, document: str, encoding: str) -> None:
    line = f'{{"query":"what?","document":{document}}}\n'
    assert read(tmp_path / "q.jsonl", line.encode(encoding)) == ([("what?", "1")], [])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("q.csv", "query,document\nwhat?,1\n"),
        ("q.csv", "sep=;\nQuery;Document;Split;;\nwhat?;1;;;\n"),
        ("q.TSV", "query\tdocument\nwhat?\t1.0\n"),
        ("q.json", '[{"Query": "what?", "Document": 1}]'),
        ("q.ndjson", '{"query": "what?", "document": 1}'),
    ],
)
def test_kinds_and_compression(tmp_path: Path, name: str, data: str) -> None:
    assert read(tmp_path / name, data) == ([("what?", "1")], [])
    assert read(tmp_path / f"{name}.GZ", gzip.compress(data.encode())) == ([("what?", "1")], [])


def test_every_broken_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    lines = [
        json.dumps({"query": "what?", "document": 1}).encode(),
        b'{"query": "caf\xe9", "document": 1}',
        b'{"query": "a\\u0000b", "document": 1}',
        b'{"query": "a\\ud800b", "document": 1}',
        b'{"query": "x", "document": "a\\u0000b"}',
        b'{"query": "x", "document": true}',
        b'{"query": "x", "document": 1.5}',
        b'{"query": "\\u200b", "document": 1}',
        json.dumps({"query": "x" * 2001, "document": 1}).encode(),
        b"not json",
        json.dumps({"query": "last?", "document": 2}).encode(),
    ]
    good, bad = read(tmp_path / "q.jsonl", b"\n".join(lines))
    assert good == [("what?", "1"), ("last?", "2")]
    assert [message.split(":")[1] for message in bad] == [str(number) for number in range(2, 11)]
