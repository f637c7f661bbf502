"""A bucket whose server hangs, lies about sizes, or lists without an end: named, and nothing is lost."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from heal_tasks.core import listings, s3
from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import HealError, RetryableError, SourceError, StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from tests.e2e.scarcity import row
from tests.e2e.store_state import ROWS
from tests.hostile_s3 import HostileS3

STORED = ("documents", "files", "quarantine", "chunks")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileS3]:
    """Five documents, and a client that asks once."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(listings, "MOST_OBJECTS", 50)
    monkeypatch.setattr(listings, "MOST_EMPTY_PAGES", 20)
    with HostileS3() as server:
        server.objects = {f"docs/{n}.txt": f"The first text of number {n}, of some length.".encode() for n in range(5)}
        yield server


@contextmanager
def impatient() -> Iterator[None]:
    """Have the client wait half a second, where it is to wait in vain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "READ_S", 0.5)
        patch.setattr(s3, "SLOWEST_BYTES_S", 1e9)
        yield


@pytest.fixture
def in_bucket(bucket: HostileS3, settings: Settings) -> Settings:
    return settings.model_copy(update={"sources": ("s3://bucket/docs",), "s3_endpoint_url": bucket.url})


def stored(conn: Connection) -> dict[str, Any]:
    return {name: conn.execute(ROWS[name].encode()).fetchall() for name in STORED}


def ingest(settings: Settings, run_id: str) -> Manifest:
    return load_step("ingest").run(settings, Manifest(run_id=run_id))


LISTED = [
    ("hang", RetryableError, "connection failed .*Read timeout"),
    ("same token", SourceError, "the listing repeats the token of a page .* ask who runs it"),
    ("same page", SourceError, r"the listing repeats the page that begins with 'docs/0\.txt'"),
    ("for ever", SourceError, "the listing has more than 50 objects; name a smaller prefix"),
    ("empty pages", SourceError, "the listing has had 21 pages without an object"),
    ("no token", SourceError, "the listing breaks off without the token of its next page"),
]


@pytest.mark.parametrize(("fault", "kind", "words"), LISTED, ids=[fault for fault, *_ in LISTED])
def test_nothing_is_concluded_from_a_listing_that_lies(
    fault: str,
    kind: type[HealError],
    words: str,
    bucket: HostileS3,
    in_bucket: Settings,
    auto: Connection,
    table: Callable[[str], None],
) -> None:
    ingest(in_bucket, "before")
    before = stored(auto)
    bucket.objects["docs/5.txt"] = b"A text that came later."
    bucket.fault, bucket.only, bucket.pages = fault, "list", 0
    with impatient(), pytest.raises(kind, match=f"s3://bucket: {words}") as raised:
        ingest(in_bucket, "disturbed")
    assert isinstance(raised.value, RetryableError) is (kind is RetryableError)
    assert stored(auto) == before
    assert bucket.pages <= 30
    bucket.fault = ""
    assert ingest(in_bucket, "disturbed").counts["new"] == 1
    assert len(stored(auto)["documents"]) == 6
    table(row("bucket", "ingest", f"listing: {fault}", str(raised.value), "as undisturbed"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang", "connection failed .*Read timeout"),
        ("trickle", r"only [\d,]+ of 1,000,000 bytes came in time"),
        ("long", r"connection failed after \d+ of \d+ bytes"),
    ],
)
def test_an_object_that_does_not_come_whole_is_tried_again(
    fault: str, words: str, bucket: HostileS3, in_bucket: Settings, auto: Connection, table: Callable[[str], None]
) -> None:
    ingest(in_bucket, "before")
    before = stored(auto)
    bucket.objects["docs/3.txt"] = b"The second text of number 3."
    bucket.fault, bucket.only = fault, "docs/3.txt"
    with (
        impatient(),
        pytest.raises(RetryableError, match=rf"s3://bucket/docs/3\.txt: {words}.*; try again later") as raised,
    ):
        ingest(in_bucket, "disturbed")
    assert stored(auto) == before
    bucket.fault = ""
    assert ingest(in_bucket, "disturbed").counts["changed"] == 1
    table(row("bucket", "ingest", f"object: {fault}", str(raised.value), "as undisturbed"))


def test_a_part_of_an_object_never_passes_for_the_whole(
    bucket: HostileS3, in_bucket: Settings, auto: Connection, table: Callable[[str], None]
) -> None:
    ingest(in_bucket, "before")
    bucket.objects |= {"docs/3.txt": b"The second text of number 3.", "docs/4.txt": b"The second text of number 4."}
    bucket.fault, bucket.only = "short", "docs/3.txt"
    made = ingest(in_bucket, "disturbed")
    assert (made.counts["changed"], made.counts["deleted"], made.counts["rejected"]) == (1, 0, 1)
    (failed,) = auto.execute("SELECT path, state, reason FROM heal.source_file WHERE state <> 'read'").fetchall()
    assert failed[:2] == ("3.txt", "failed")
    assert "is listed with 28 bytes, and the same version of it was sent with 14" in failed[2]
    texts = [text for (text,) in auto.execute("SELECT body FROM heal.document ORDER BY path").fetchall()]
    assert texts[3:] == ["The first text of number 3, of some length.", "The second text of number 4."]
    bucket.fault = ""
    assert ingest(in_bucket, "after").counts["changed"] == 1
    assert auto.execute("SELECT count(*) FROM heal.quarantine WHERE mended_at IS NULL").fetchone() == (0,)
    table(row("bucket", "ingest", "object: short", failed[2], "as undisturbed; the others were read"))


def test_an_object_that_was_overwritten_after_its_listing_is_read_as_it_is(
    bucket: HostileS3, in_bucket: Settings
) -> None:
    from heal_tasks.sources.base import open_source

    source = open_source("s3://bucket/docs", s3_endpoint_url=bucket.url)
    (first, *_) = source.list_files()
    bucket.objects["docs/0.txt"] = b"longer " * 20
    assert source.read(first, 10**6) == b"longer " * 20
    assert source.read(first, 10) == b"longer long"


@pytest.fixture
def artifacts(bucket: HostileS3, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore("s3://bucket/heal", tmp_path / "cache", bucket.url)


def write(store: ArtifactStore) -> str:
    with store.writing("models/m") as folder:
        (folder / "weights").write_text(json.dumps(list(range(50))))
    return store.uri("models/m")


@pytest.mark.parametrize(
    ("fault", "only", "kind", "words"),
    [
        ("hang", "", RetryableError, "connection failed"),
        ("busy", "", RetryableError, "the server is busy"),
        ("refused", "", StepError, "PutObject and DeleteObject"),
        ("hang", "heal/models/m/_complete.json", RetryableError, "connection failed"),
    ],
)
def test_an_artifact_that_is_not_whole_in_s3_is_not_there(
    fault: str, only: str, kind: type[HealError], words: str, bucket: HostileS3, artifacts: ArtifactStore
) -> None:
    bucket.fault, bucket.only = fault, only
    with impatient(), pytest.raises(kind, match=f"s3://bucket/heal/models/m/.*{words}"):
        write(artifacts)
    bucket.fault = ""
    assert not artifacts.exists(artifacts.uri("models/m"))
    assert (artifacts.local(write(artifacts)) / "weights").exists()


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("hang", RetryableError, "connection failed"),
        ("short", StepError, r"is listed with \d+ bytes and sent \d+; run the step that writes it again"),
        ("same page", StepError, "the listing repeats the page"),
        ("for ever", StepError, "the listing has more than 50 objects"),
        ("no token", StepError, "the listing breaks off"),
    ],
)
def test_an_artifact_that_does_not_come_whole_is_not_cached(
    fault: str, kind: type[HealError], words: str, bucket: HostileS3, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    uri = write(artifacts)
    artifacts = ArtifactStore("s3://bucket/heal", tmp_path / "cache", bucket.url)
    bucket.objects |= {f"heal/models/m/{number}": b"12" for number in range(3)}
    bucket.fault = fault
    with impatient(), pytest.raises(kind, match=words):
        artifacts.local(uri)
    bucket.fault = ""
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert len(list(artifacts.local(uri).iterdir())) == 5
    artifacts.delete(uri)
    assert [key for key in bucket.objects if key.startswith("heal/")] == []
