"""Artifacts: no key, object or URI leads outside root and cache, and half of an artifact is never taken for one."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest

from heal_tasks.core.artifacts import COMPLETE, ArtifactStore
from heal_tasks.core.errors import StepError

NAMES = (
    "../evil",
    "../../evil",
    "sub/../../evil",
    "..",
    ".",
    "./x",
    "/etc/evil",
    "//evil",
    "sub//evil",
    "a\\..\\evil",
    "a\\b",
    "x\x01y",
    "n" * 256,
    "/".join(["n" * 200] * 6),
    "..\x00",
    "a\nb",
)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_an_object_whose_name_leads_elsewhere_is_refused_and_nothing_is_kept(
    endpoint: str, tmp_path: Path, name: str
) -> None:
    bucket = f"b{abs(hash((name, str(tmp_path))))}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=bucket)
    store = ArtifactStore(f"s3://{bucket}/heal", tmp_path / "cache", endpoint)
    with store.writing("models/one") as folder:
        (folder / "file.txt").write_text("weights")
    assert (store.local(store.uri("models/one")) / "file.txt").read_text() == "weights"
    store.delete(store.uri("models/one"))
    with store.writing("models/one") as folder:
        (folder / "file.txt").write_text("weights")
    before = files(tmp_path)
    try:
        client.put_object(Bucket=bucket, Key=f"heal/models/one/{name}", Body=b"evil")
    except Exception as error:  # a name that the server itself refuses
        pytest.skip(str(error))
    listed = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    if f"heal/models/one/{name}" not in listed:
        pytest.skip("the client has changed the name")
    with pytest.raises(StepError, match="is no name of a file in an artifact"):
        store.local(store.uri("models/one"))
    assert files(tmp_path) == before
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", [*NAMES, ""])
@pytest.mark.parametrize("remote", [False, True], ids=["folder", "s3"])
def test_a_key_that_leads_elsewhere_is_refused(tmp_path: Path, name: str, remote: bool) -> None:
    outside = tmp_path / "evil"
    outside.mkdir()
    (outside / COMPLETE).write_text("{}")
    root = "s3://bucket/heal" if remote else str(tmp_path / "artifacts")
    store = ArtifactStore(root, tmp_path / "cache", "http://127.0.0.1:1")
    for key in (name, f"models/{name}"):
        with pytest.raises(StepError):
            store.uri(key)
        with pytest.raises(StepError), store.writing(key):
            pass
        assert store.exists(f"{root}/{key}") is False
        for action in (store.local, store.delete):
            with pytest.raises(StepError):
                action(f"{root}/{key}")
    assert outside.exists()


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "s3"])
def test_a_uri_outside_the_root_is_neither_read_nor_deleted(tmp_path: Path, remote: bool) -> None:
    root = tmp_path / "artifacts"
    kept = tmp_path / "artifacts-old" / "kept"
    kept.mkdir(parents=True)
    (kept / COMPLETE).write_text("{}")
    store = ArtifactStore("s3://bucket/heal" if remote else str(root), tmp_path / "cache", "http://127.0.0.1:1")
    for uri in (
        str(kept),
        str(tmp_path),
        "/",
        "",
        str(root),
        f"{root}/../artifacts-old/kept",
        "s3://other/x",
        "s3://bucket/heal",
        "s3://bucket/heal-old/x",
        "file:///etc",
    ):
        assert store.exists(uri) is False
        for action in (store.local, store.delete):
            with pytest.raises(StepError, match=r"is not below .*HEAL_ARTIFACTS_URI"):
                action(uri)
    assert kept.exists()


def test_links_that_lead_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    with store.writing("reports/one") as folder:
        (folder / "report.html").write_text("page")
    uri = store.uri("reports/one")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "password").write_text("secret")
    (secret / COMPLETE).write_text("{}")
    page = Path(uri) / "report.html"
    page.unlink()
    page.symlink_to(secret / "password")
    with pytest.raises(StepError, match="leads out of"):
        store.local(uri)
    page.unlink()
    page.write_text("page")
    assert store.local(uri) == Path(uri)
    (Path(uri) / "sub").symlink_to(secret)
    with pytest.raises(StepError, match="leads out of"):
        store.local(uri)
    (Path(uri) / "sub").unlink()
    os.mkfifo(Path(uri) / "pipe")
    with pytest.raises(StepError, match="is no regular file"):
        store.local(uri)
    (tmp_path / "artifacts" / "reports" / "two").symlink_to(secret)
    for action in (store.local, store.delete):
        with pytest.raises(StepError, match="leads out of"):
            action(store.uri("reports/two"))
    assert (secret / "password").read_text() == "secret"


def test_a_root_that_is_itself_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk")
    store = ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    with store.writing("a/b") as folder:
        (folder / "x").write_text("1")
    assert (store.local(store.uri("a/b")) / "x").read_text() == "1"
    store.delete(store.uri("a/b"))
    assert not store.exists(store.uri("a/b"))


class LyingServer(BaseHTTPRequestHandler):
    """Lists one object of ten bytes, and sends as many as the class says."""

    sent = 10
    written = 0

    def do_GET(self) -> None:
        if "list-type" in self.path or "prefix" in self.path:
            items = "".join(
                f"<Contents><Key>heal/m/{name}</Key><Size>{size}</Size><ETag>x</ETag></Contents>"
                for name, size in ((COMPLETE, 2), ("weights.bin", 10))
            )
            self._send(f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode())
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.sent))
        self.end_headers()
        block = b"x" * min(self.sent, 1 << 20)
        LyingServer.written = 0
        try:
            while LyingServer.written < self.sent:
                self.wfile.write(block)
                LyingServer.written += len(block)
        except OSError:
            pass

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("sent", [10, 9, 0, 11, 600 << 20])
def test_an_object_sends_as_many_bytes_as_it_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int) -> None:
    monkeypatch.setattr(LyingServer, "sent", sent)
    server = ThreadingHTTPServer(("127.0.0.1", 0), LyingServer)
    Thread(target=server.serve_forever, daemon=True).start()
    store = ArtifactStore("s3://bucket/heal", tmp_path / "cache", f"http://127.0.0.1:{server.server_port}")
    try:
        if sent == 10:
            assert (store.local("s3://bucket/heal/m") / "weights.bin").read_bytes() == b"x" * 10
        else:
            with pytest.raises(StepError, match=r"is listed with 10 bytes and sent (more|\d+); run the step"):
                store.local("s3://bucket/heal/m")
            assert files(tmp_path) == set()
            assert LyingServer.written < 100 << 20
    finally:
        server.shutdown()
