"""What arrives is bounded, whatever was announced; folders may be as deep as the system allows."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core.errors import SourceError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.base import open_source
from heal_tasks.sources.files import read_at_most
from heal_tasks.store.db import Connection
from tests.field.inbox import ingest, names, open_faults, put_all, states

LISTING = b"""<?xml version="1.0"?>
<ListBucketResult><Name>liar</Name><IsTruncated>false</IsTruncated><KeyCount>1</KeyCount>
<Contents><Key>small.txt</Key><Size>10</Size><ETag>"e"</ETag></Contents></ListBucketResult>"""
PIECE = b"text " * 20_000


@pytest.fixture(params=["length", "chunked"])
def liar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[int]]]:
    """A server that lists 10 bytes and sends 600 MB, and the number of bytes that it got rid of."""
    sent = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            listing = "list-type" in self.path
            self.send_response(200)
            if listing or request.param == "length":
                self.send_header("Content-Length", str(len(LISTING) if listing else 600_000_000))
            else:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if listing:
                self.wfile.write(LISTING)
                return
            piece = PIECE if request.param == "length" else b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
            try:
                while sent[0] < 600_000_000:
                    self.wfile.write(piece)
                    sent[0] += len(PIECE)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()


def test_an_object_that_sends_more_than_it_lists(
    settings: Settings, auto: Connection, liar: tuple[str, list[int]]
) -> None:
    url, sent = liar
    bucket = load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), s3_endpoint_url=url, max_file_mb=2,
        sources=("s3://liar",), source_roots=("s3://liar",),
    )  # fmt: skip
    made = ingest(bucket)
    assert made.counts["rejected"] == 1
    assert states(auto) == {"small.txt": "refused"}
    assert open_faults(auto) == [
        "the file was listed with 10 bytes and has more than 2097152; split it or raise HEAL_MAX_FILE_MB"
    ]
    assert sent[0] < 60_000_000  # what buffers held when the connection was closed


def test_a_file_that_grows_after_its_listing(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {"a.txt": "short"})
    source = open_source(settings.sources[0], s3_endpoint_url=None)
    (file,) = source.list_files()
    (inbox / "a.txt").write_bytes(b"x" * 10**6)
    assert len(source.read(file, 1000)) == 1001
    assert len(source.read(file, 10**6)) == 10**6
    del auto


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    source = open_source(f"file:{tmp_path}", s3_endpoint_url=None)
    with pytest.raises(SourceError, match="no regular file"):
        source.read(SourceFile("a.txt", "", 1), 100)


def test_a_device_in_the_place_of_a_file_is_not_read() -> None:
    source = open_source("file:/dev", s3_endpoint_url=None)
    with pytest.raises(SourceError, match="no regular file"):
        source.read(SourceFile("zero", "", 1), 100)


@pytest.mark.parametrize("limit", [0, 1, 10**6])
def test_reading_stops_one_byte_behind_the_limit(limit: int) -> None:
    asked = list[int]()

    def endless(size: int) -> bytes:
        asked.append(size)
        return b"x" * size

    assert len(read_at_most(endless, limit)) == limit + 1
    assert sum(asked) == limit + 1
    assert max(asked) <= 2**18


def test_folders_are_as_deep_as_the_system_allows(settings: Settings, auto: Connection) -> None:
    inbox = put_all(settings, {"top.txt": "top", "z/last.txt": "last"})
    here = os.open(inbox, os.O_RDONLY)
    for depth in range(2500):  # 5,000 characters: beyond what one path may have
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        if depth in (10, 1500, 2400):
            with os.fdopen(os.open("a.txt", os.O_WRONLY | os.O_CREAT, dir_fd=here), "w") as file:
                file.write(f"text at {depth}")
    os.close(here)
    try:
        made = ingest(settings)
        assert names(auto) == sorted([*(natural(depth) for depth in (10, 1500)), "top.txt", "z/last.txt"])
        assert made.note.endswith("1 files skipped: path too long for the system 1")
        assert ingest(settings).refs["new"] == 0
    finally:
        os.system(f"rm -rf '{inbox}/d'")  # shutil recurses


def natural(depth: int) -> str:
    from heal_tasks.core.ids import natural_key

    return natural_key("d/" * (depth + 1) + "a.txt")
