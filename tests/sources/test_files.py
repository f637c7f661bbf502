"""Folders as a source: listing, reading, and wrong specs."""

import os
from pathlib import Path

import pytest

from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.base import open_source


def _paths(folder: Path) -> list[str]:
    files = open_source(f"file:{folder}", s3_endpoint_url=None).list_files()
    return [file.path for file in files if not file.left_out]


def _write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("text")


def test_lists_sorted_by_full_path_and_leaves_out_hidden_and_unfinished(tmp_path: Path) -> None:
    wanted = ["a.txt", "a/b.txt", "a/b/c.md", "a0.txt", "kind.docx", "z.jsonl"]
    _write(tmp_path, *wanted, ".hidden.txt", ".git/x.txt", "a/.x/y.txt", "up.jsonl.part", "up.csv.TMP", "a/~$b.docx")
    (tmp_path / "empty").mkdir()
    assert _paths(tmp_path) == sorted(wanted)


def test_reads_what_it_lists(tmp_path: Path) -> None:
    _write(tmp_path, "deep/er/a.txt")
    source = open_source(f"file:{tmp_path}", s3_endpoint_url=None)
    (file,) = source.list_files()
    assert source.name == f"file:{tmp_path}"
    assert file.size_bytes == 4
    assert source.read(file, 10**6) == b"text"


def test_fingerprint_follows_size_and_time_only(tmp_path: Path) -> None:
    source = open_source(f"file:{tmp_path}", s3_endpoint_url=None)
    path = tmp_path / "a.txt"

    def fingerprint(text: str, time_ns: int) -> str:
        path.write_text(text)
        os.utime(path, ns=(time_ns, time_ns))
        return next(source.list_files()).fingerprint

    first = fingerprint("one", 10**18)
    assert fingerprint("two", 10**18) == first
    assert fingerprint("one", 10**18 + 1000) != first
    assert fingerprint("three", 10**18) != first


def test_links_out_of_the_folder_and_linked_folders_are_left_out(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    _write(inbox, "real.txt")
    _write(outside, "secret.txt")
    (inbox / "inside.txt").symlink_to("real.txt")
    (inbox / "leak.txt").symlink_to(outside / "secret.txt")
    (inbox / "leak").symlink_to(outside)
    (inbox / "loop").symlink_to(inbox)
    (inbox / "circle.txt").symlink_to("circle.txt")
    (inbox / "broken.txt").symlink_to("nothing.txt")
    os.mkfifo(inbox / "pipe.txt")
    assert _paths(inbox) == ["inside.txt", "real.txt"]


@pytest.mark.parametrize("path", ["leak.txt", "../outside.txt"])
def test_does_not_read_outside_the_folder(tmp_path: Path, path: str) -> None:
    _write(tmp_path, "outside.txt", "inbox/a.txt")
    (tmp_path / "inbox" / "leak.txt").symlink_to(tmp_path / "outside.txt")
    source = open_source(f"file:{tmp_path / 'inbox'}", s3_endpoint_url=None)
    with pytest.raises(SourceError, match="leads out of"):
        source.read(SourceFile(path, "", 4), 10**6)


def test_a_file_that_went_away_is_an_error_about_that_file(tmp_path: Path) -> None:
    source = open_source(f"file:{tmp_path}", s3_endpoint_url=None)
    with pytest.raises(SourceError, match=r"gone\.txt cannot be read \(No such file"):
        source.read(SourceFile("gone.txt", "", 4), 10**6)


def test_a_name_that_is_not_utf8_is_shown_escaped_and_read(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = open_source(f"file:{tmp_path}", s3_endpoint_url=None)
    (file,) = source.list_files()
    assert file.path == "caf\\xe9.txt"
    assert source.read(file, 10**6) == b"text"


def test_a_missing_folder_is_an_error_and_not_empty(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="missing is not a folder; create it, mount it"):
        open_source(f"file:{tmp_path / 'missing'}", s3_endpoint_url=None)
    folder = tmp_path / "inbox"
    folder.mkdir()
    source = open_source(f"file:{folder}", s3_endpoint_url=None)
    folder.rmdir()
    with pytest.raises(SourceError, match="its documents would look deleted"):
        list(source.list_files())


def test_a_folder_that_goes_away_during_the_listing_is_worth_a_retry(tmp_path: Path) -> None:
    _write(tmp_path, "a.txt", "b/c.txt")
    listing = open_source(f"file:{tmp_path}", s3_endpoint_url=None).list_files()
    assert next(listing).path == "a.txt"
    (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises(RetryableError, match=r"/b was removed or renamed during the listing, .*; try again"):
        list(listing)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "ftp://host/x",
            "unknown source 'ftp://host/x'; write file:FOLDER, s3://BUCKET/PREFIX, pydocs:PACKAGE, source:NAME",
        ),
        ("", "unknown source ''"),
        ("file:", "names no folder"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("pydocs:", "names no package"),
        ("pydocs:no_such_package_here", "'no_such_package_here' is not installed"),
        ("pydocs:os.path", "'os.path' is not a top-level package name"),
        ("pydocs:_socket,json", "has no Python source|is not installed"),
    ],
)
def test_a_wrong_spec_is_named_with_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(spec, s3_endpoint_url=None)
