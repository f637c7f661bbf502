"""Buckets as a source, on a fake S3 server."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from heal_tasks.core.errors import HealError, RetryableError, SourceError
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.base import open_source

MANY = 1005


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def client(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint)


def test_lists_more_than_one_page_in_order_and_knows_what_is_unchanged(client: Any, endpoint: str) -> None:
    client.create_bucket(Bucket="many")
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # the server's own; a thousand requests take half a minute
    for number in range(MANY):
        backend.put_object("many", f"docs/{number:05d}.txt", b"text %d" % number)
    source = open_source("s3://many/docs", s3_endpoint_url=endpoint)
    first = list(source.list_files())
    assert [file.path for file in first] == [f"{number:05d}.txt" for number in range(MANY)]
    client.put_object(Bucket="many", Key="docs/00007.txt", Body=b"tixt 7")
    client.put_object(Bucket="many", Key="docs/00008.txt", Body=b"text 8")
    changed = [new.path for old, new in zip(first, source.list_files(), strict=True) if old != new]
    assert changed == ["00007.txt"]


def test_a_prefix_is_a_folder_and_paths_are_relative_to_it(client: Any, endpoint: str) -> None:
    client.create_bucket(Bucket="folders")
    for key in ("docs/", "docs/a b+é.txt", "docs/sub/c.md", "docs/.x/d.txt", "docs/e.part", "docs-old/f.txt", "g.txt"):
        client.put_object(Bucket="folders", Key=key, Body=key.encode())
    source = open_source("s3://folders/docs/", s3_endpoint_url=endpoint)
    files = list(source.list_files())
    assert [file.path for file in files] == ["a b+é.txt", "sub/c.md"]
    assert [source.read(file, 10**6).decode() for file in files] == ["docs/a b+é.txt", "docs/sub/c.md"]
    assert [file.size_bytes for file in files] == [len("docs/a b+é.txt".encode()), len("docs/sub/c.md")]
    whole = open_source("s3://folders", s3_endpoint_url=endpoint)
    assert [file.path for file in whole.list_files()] == ["docs-old/f.txt", "docs/a b+é.txt", "docs/sub/c.md", "g.txt"]


def test_an_empty_prefix_has_no_files_and_a_missing_bucket_is_an_error(client: Any, endpoint: str) -> None:
    client.create_bucket(Bucket="empty")
    assert list(open_source("s3://empty/x", s3_endpoint_url=endpoint).list_files()) == []
    with pytest.raises(SourceError, match=r"s3://missing refused \(NoSuchBucket\); create the bucket"):
        list(open_source("s3://missing/x", s3_endpoint_url=endpoint).list_files())


def test_an_object_that_went_away_is_an_error_about_that_object(client: Any, endpoint: str) -> None:
    client.create_bucket(Bucket="gone")
    with pytest.raises(SourceError, match=r"s3://gone/x/a\.txt refused \(NoSuchKey\); it was deleted"):
        open_source("s3://gone/x", s3_endpoint_url=endpoint).read(SourceFile("a.txt", "", 1), 10**6)


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (503, "SlowDown", RetryableError, "the server is busy"),
        (500, "InternalError", RetryableError, "the server is busy"),
        (403, "AccessDenied", SourceError, "give the credentials s3:ListBucket"),
        (403, "SignatureDoesNotMatch", SourceError, "check AWS_SECRET_ACCESS_KEY"),
        (400, "Strange", SourceError, "check the spec, the credentials"),
    ],
)
def test_only_what_can_pass_is_worth_a_retry(
    status: int, code: str, kind: type[HealError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    with _answering(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()) as url:
        source = open_source("s3://bucket/x", s3_endpoint_url=url)
        with pytest.raises(kind, match=f"\\({code}\\); .*") as listing:
            list(source.list_files())
        with pytest.raises(kind, match=message):
            source.read(SourceFile("a.txt", "", 1), 10**6)
    assert isinstance(listing.value, RetryableError) is (kind is RetryableError)


def test_a_broken_connection_is_worth_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    with _answering(200, b"half", announced=100) as url, pytest.raises(RetryableError, match="connection failed"):
        open_source("s3://bucket", s3_endpoint_url=url).read(SourceFile("a.txt", "", 100), 10**6)
    with pytest.raises(RetryableError, match="connection failed"):  # nobody listens there any more
        list(open_source("s3://bucket", s3_endpoint_url=url).list_files())


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(SourceError, match="no credentials found; set AWS_ACCESS_KEY_ID"):
        list(open_source("s3://bucket", s3_endpoint_url=endpoint).list_files())


class _answering:  # noqa: N801
    """A server that gives every request the same answer."""

    def __init__(self, status: int, body: bytes, announced: int | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if announced is None else announced))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
