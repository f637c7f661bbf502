"""Buckets of Google Cloud Storage and containers of Azure, on emulators and on a server that fails."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from heal_tasks.core.errors import HealError, RetryableError, SettingsError, SourceError
from heal_tasks.core.settings import load_settings
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.base import OpenSource, open_source
from tests.loopback import LoopbackServer

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
STRING = 'connection_string_env = "BLOBS"'
Put = Callable[[str, bytes], None]


def opened(tmp_path: Path, kind: str, location: str, more: str = "") -> OpenSource:
    (tmp_path / "sources.toml").write_text(f'[cloud]\nkind = "{kind}"\nlocation = "{location}"\n{more}\n')
    tables = load_settings(var_dir=tmp_path / "var").source_tables
    return open_source("source:cloud", s3_endpoint_url=None, tables=tables)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def gcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Put, Callable[..., OpenSource]]]:
    """A bucket ``docs`` on the emulator: a function that writes an object, and one that opens a source."""
    pytest.importorskip("google.cloud.storage")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    from google.cloud import storage

    bucket = storage.Client(project="test").create_bucket("docs")
    try:
        yield (
            lambda name, body: bucket.blob(name).upload_from_string(body),
            lambda location: opened(tmp_path, "gcs", location),
        )
    finally:
        server.stop()


class FakeBlobs(LoopbackServer):
    """The two requests of Azure's protocol that are used, two blobs a page; ``fault`` answers or breaks every one."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.fault: tuple[int, str] | str = ""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(Handler)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query, name = parse_qs(parts.query), parts.path.removeprefix("/account/docs").strip("/").replace("%20", " ")
        status, headers = 200, {"Content-Type": "application/xml"}
        if isinstance(self.fault, tuple):
            status, headers, body = self.fault[0], {"x-ms-error-code": self.fault[1]}, b""
        elif query.get("comp") == ["list"]:
            body = self._listing(query)
        elif name not in self.blobs:
            status, headers, body = 404, {"x-ms-error-code": "BlobNotFound"}, b""
        else:
            body = self.blobs[name]
            first, _, last = (request.headers.get("x-ms-range") or "bytes=0-").removeprefix("bytes=").partition("-")
            if int(first) >= len(body):
                status, headers, body = 416, {"x-ms-error-code": "InvalidRange"}, b""
            else:
                whole, body = len(body), body[int(first) : int(last or 10**9) + 1]
                status = 206
                headers = {"Content-Range": f"bytes {first}-{int(first) + len(body) - 1}/{whole}", "ETag": '"e"'}
        headers["Content-Length"] = str(len(body) + (self.fault == "cut"))
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)
        if self.fault == "cut":
            request.close_connection = True

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix, start = query.get("prefix", [""])[0], int(query.get("marker", ["0"])[0])
        names = sorted(name for name in self.blobs if name.startswith(prefix))
        entries = "".join(
            f"<Blob><Name>{name}</Name><Properties><Etag>{hash(self.blobs[name])}</Etag><Content-Length>"
            f"{len(self.blobs[name])}</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name in names[start : start + 2]
        )
        following = "1" if self.fault == "repeats" else str(start + 2) if len(names) > start + 2 else ""
        marker = f"<NextMarker>{following}</NextMarker>"
        # The client takes the prefix of the next request from here.
        text = f"<EnumerationResults><Prefix>{prefix}</Prefix><Blobs>{entries}</Blobs>{marker}</EnumerationResults>"
        return text.encode()


@pytest.fixture
def fake_blobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBlobs]:
    pytest.importorskip("azure.storage.blob")
    with FakeBlobs() as server:
        address = server.base_url.removesuffix("/v1")
        text = f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey={KEY};BlobEndpoint={address}/account;"
        monkeypatch.setenv("BLOBS", text)
        yield server


@pytest.fixture
def azurite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """A function that writes a blob into the container ``docs`` on Azurite."""
    pytest.importorskip("azure.storage.blob")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed (npm install azurite)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    options = ("--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry")
    place = ("--blobHost", "127.0.0.1", "--blobPort", port)
    process = subprocess.Popen([program, *options, *place], cwd=tmp_path, stdout=subprocess.DEVNULL)
    account = f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    text = f"DefaultEndpointsProtocol=http;{account}"
    monkeypatch.setenv("BLOBS", text)
    from azure.core.exceptions import ServiceRequestError
    from azure.storage.blob import ContainerClient

    container = ContainerClient.from_connection_string(
        f"DefaultEndpointsProtocol=http;{account}", "docs", retry_total=0
    )
    try:
        for _ in range(300):
            try:
                container.create_container()
                break
            except ServiceRequestError:
                time.sleep(0.1)
        yield lambda name, body: container.upload_blob(name, body, overwrite=True)
    finally:
        process.terminate()
        process.wait()


def check(put: Put, open_at: Callable[[str], OpenSource]) -> None:
    """A prefix is a folder; an overwritten object is another version; reading is bounded; what is missing is named."""
    for name in ("in/a b+é.txt", "in/sub/c.md", "in/.x/d.txt", "in/e.part", "in-old/f.txt", "g.txt", "in/empty.txt"):
        put(name, b"" if "empty" in name else name.encode())
    source = open_at("docs/in")
    files = {file.path: file for file in source.list_files()}
    assert sorted(files) == ["a b+é.txt", "empty.txt", "sub/c.md"]
    assert source.read(files["a b+é.txt"], 100).decode() == "in/a b+é.txt"
    assert source.read(files["sub/c.md"], 3) == b"in/s"
    assert source.read(files["empty.txt"], 100) == b""
    assert files["sub/c.md"].size_bytes == len("in/sub/c.md")
    put("in/sub/c.md", b"in/sub/X.md")
    after = {file.path: file for file in source.list_files()}
    assert [path for path in files if files[path] != after[path]] == ["sub/c.md"]
    assert len(list(open_at("docs").list_files())) == 5
    assert list(open_at("docs/nothing").list_files()) == []
    with pytest.raises(SourceError, match="it was deleted after the listing"):
        source.read(SourceFile("gone.txt", "", 1), 100)


def test_a_bucket_of_google(gcs: tuple[Put, Callable[..., OpenSource]]) -> None:
    put, open_at = gcs
    check(put, open_at)
    with pytest.raises(SourceError, match=r"gs://missing refused \(HTTP 404\); correct the location"):
        list(open_at("missing/x").list_files())


def test_a_container_of_azure(tmp_path: Path, azurite: Put) -> None:
    check(azurite, lambda location: opened(tmp_path, "azure", location, STRING))
    with pytest.raises(SourceError, match=r"azure container missing refused \(ContainerNotFound\); correct the loc"):
        list(opened(tmp_path, "azure", "missing", STRING).list_files())


def test_a_container_by_its_protocol(tmp_path: Path, fake_blobs: FakeBlobs) -> None:
    fake_blobs.blobs |= {f"in/{number}.txt": b"%d" % number for number in range(5)} | {"in-old/a.txt": b""}
    source = opened(tmp_path, "azure", "docs/in", STRING)
    assert [file.path for file in source.list_files()] == [f"{number}.txt" for number in range(5)]
    assert source.read(SourceFile("3.txt", "", 1), 100) == b"3"


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ((503, "ServerBusy"), RetryableError, "the server is busy"),
        ((429, "TooManyRequests"), RetryableError, "the server is busy"),
        ((403, "AuthorizationPermissionMismatch"), SourceError, "role Storage Blob Data Reader"),
        ((403, "AuthenticationFailed"), SourceError, "check the key or token"),
        ((409, "BlobArchived"), SourceError, "it is archived"),
        ("cut", RetryableError, "connection failed"),
    ],
)
def test_only_what_can_pass_is_worth_a_retry_at_azure(
    tmp_path: Path,
    fake_blobs: FakeBlobs,
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
    kind: type[HealError],
    message: str,
) -> None:
    monkeypatch.setattr("heal_tasks.sources.azure.ATTEMPTS", 0)
    fake_blobs.blobs["a.txt"], fake_blobs.fault = b"text", fault
    source = opened(tmp_path, "azure", "docs", STRING)
    with pytest.raises(kind, match=message):
        list(source.list_files())
    with pytest.raises(kind, match=message):
        source.read(SourceFile("a.txt", "", 1), 10**6)


class Answering(LoopbackServer):
    """Gives every request one status and body, or half of what it announces."""

    def __init__(self, status: int, cut: bool = False, body: bytes = b"{}") -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2000" if cut else str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        super().__init__(Handler)


@pytest.mark.parametrize(
    ("status", "cut", "kind", "message"),
    [
        (503, False, RetryableError, "connection failed|the server is busy"),
        (403, False, SourceError, "give the credentials the role Storage Object Viewer"),
        (401, False, SourceError, "no credentials found"),
        (200, True, RetryableError, "connection failed"),
    ],
)
def test_only_what_can_pass_is_worth_a_retry_at_google(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, cut: bool, kind: type[HealError], message: str
) -> None:
    pytest.importorskip("google.cloud.storage")
    monkeypatch.setattr("heal_tasks.sources.gcs.RETRY_S", 0.1)
    with Answering(status, cut) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.base_url.removesuffix("/v1"))
        source = opened(tmp_path, "gcs", "docs")
        with pytest.raises(kind, match=message):
            list(source.list_files())
        with pytest.raises(kind, match=message):
            source.read(SourceFile("a.txt", "", 1), 10**6)


def test_missing_credentials_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.storage")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(SourceError, match="gs://docs: no credentials found; set GOOGLE_APPLICATION_CREDENTIALS"):
        list(opened(tmp_path, "gcs", "docs").list_files())


@pytest.mark.parametrize("more", ["", 'account_url = "https://a.blob.core.windows.net"\n' + STRING])
def test_a_container_has_one_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    pytest.importorskip("azure.storage.blob")
    monkeypatch.setenv("BLOBS", "AccountName=a;AccountKey=hush-hush-hush")
    with pytest.raises(SettingsError, match="account_url: give either account_url or connection_string_env"):
        opened(tmp_path, "azure", "docs", more)


@pytest.mark.parametrize(("kind", "module"), [("gcs", "google.cloud.storage"), ("azure", "azure.storage.blob")])
def test_a_client_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SettingsError, match=rf"\[cloud\] kind: is '{kind}', and .* is not installed; run `pip install"):
        opened(tmp_path, kind, "docs")
