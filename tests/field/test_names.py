"""Names of every kind: long, nested, spelled in two ways, with blanks and characters that few expect."""

import unicodedata
from pathlib import Path

import boto3
import pytest

from heal_tasks.core.ids import MAX_KEY_BYTES, natural_key
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.store.db import Connection
from tests.field.inbox import column, ingest, names, open_faults, put_all, states


@pytest.mark.parametrize("name", ["a", "x" * 1024, "é" * 512, "文" * 341, "a b\tc", ""])
def test_short_names_stay_as_they_are(name: str) -> None:
    assert natural_key(name) == name


@pytest.mark.parametrize("letter", ["x", "é", "文", "😀", "e\u0301"])
def test_long_names_are_shortened_and_stay_different(letter: str) -> None:
    long = "start/" + letter * 1500 + "/end.md"
    made = natural_key(long)
    assert len(made.encode()) <= MAX_KEY_BYTES
    assert (made[:6], made[-7:]) == ("start/", "/end.md")
    assert natural_key(made) == made
    assert natural_key(long.replace("/end", "x/end")) != made
    assert unicodedata.is_normalized("NFC", made)


def test_ids_of_any_length(settings: Settings, auto: Connection) -> None:
    ids = ["x" * 401, "文" * 1024, "y" * 5000, "y" * 5001]
    put_all(settings, {"a.jsonl": "".join(f'{{"id": "{key}", "text": "text of {key[0]}{len(key)}"}}\n' for key in ids)})
    assert ingest(settings).refs["new"] == 4
    assert names(auto) == sorted(map(natural_key, ids))
    assert ingest(settings, read_again=1).note == "4 documents: 0 new, 0 changed, 0 deleted, 0 rejected"


def test_keys_of_1024_bytes_in_a_bucket(
    settings: Settings, auto: Connection, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="keys")
    spelled = unicodedata.normalize("NFD", "café.txt")
    keys = ["k" * 1020 + ".txt", "a b/" + "文" * 300 + ".txt", "d/" * 500 + "x.txt", spelled]
    for key in keys:
        client.put_object(Bucket="keys", Key=key, Body=f"text {len(key)}".encode())
    stored = load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), s3_endpoint_url=endpoint,
        sources=("s3://keys",), source_roots=("s3://keys",),
    )  # fmt: skip
    assert ingest(stored).refs["new"] == 4
    assert names(auto) == sorted(map(natural_key, keys))
    assert ingest(stored).note == "4 documents: 0 new, 0 changed, 0 deleted, 0 rejected"
    client.delete_object(Bucket="keys", Key=keys[0])
    assert ingest(stored).refs["deleted"] == 1
    typo = stored.model_copy(update={"sources": ("s3://keys/typo",)})
    assert "s3://keys/typo lists no file; check its spelling" in ingest(typo).note


def test_two_files_whose_names_differ_only_in_spelling(settings: Settings, auto: Connection) -> None:
    composed, spelled = "café.md", unicodedata.normalize("NFD", "café.md")
    inbox = put_all(settings, {composed: "# One\n\nFirst.", spelled: "# Two\n\nSecond.", "b.md": "# B\n\nThird."})
    if len(list(inbox.iterdir())) == 2:
        pytest.skip("this file system knows one spelling only")
    made = ingest(settings)
    assert made.counts["rejected"] == 1
    assert names(auto) == ["b.md", composed]
    assert column(auto, "SELECT title FROM heal.document WHERE external_id = %s", composed) == ["One"]
    assert states(auto) == {"b.md": "read", composed: "read", spelled: "refused"}
    assert open_faults(auto) == [
        "its name is another Unicode spelling of 'café.md', which is there as well; rename one of them"
    ]
    assert ingest(settings).counts["rejected"] == 1  # as long as both are there
    (inbox / composed).unlink()
    assert ingest(settings).note == "2 documents: 0 new, 1 changed, 0 deleted, 0 rejected"
    assert states(auto) == {"b.md": "read", composed: "read"}
    assert open_faults(auto) == []


def test_names_that_few_expect(settings: Settings, auto: Connection, tmp_path: Path) -> None:
    files = [
        "My Folder/a file.md",
        "it's.md",
        'say "x".md',
        "back\\slash.md",
        "per%20cent.md",
        "new\nline.md",
        "ünï😀.md",
    ]
    files += ["-dash.md", "~home.md", "$var.md", "a;b.md", "x" * 250 + ".md", "trailing .md", "dots...md"]
    inbox = put_all(settings, {name: f"# T{place}\n\nText {place}." for place, name in enumerate(files)})
    odd = b"bytes-\xff\xe9.md"
    (inbox / "n.md").write_text("# N\n\nText.")
    Path(inbox / "n.md").rename(inbox / odd.decode("utf-8", "surrogateescape"))
    assert ingest(settings).refs["new"] == len(files) + 1
    assert names(auto) == sorted([*files, "bytes-\\xff\\xe9.md"])
    blank = load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(),
        sources=f'"file:{inbox}/My Folder"', source_roots=(f"file:{tmp_path}",),
    )  # fmt: skip
    assert ingest(blank).note.startswith(f"{len(files) + 2} documents: 1 new")
