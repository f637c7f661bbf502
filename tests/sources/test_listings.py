"""Listings of buckets that repeat themselves or do not end."""

from pathlib import Path

import pytest

from heal_tasks.core import listings
from heal_tasks.core.errors import SourceError
from heal_tasks.core.listings import ListingError, ending
from tests.sources.test_clouds import KEY, STRING, Answering, FakeBlobs, opened


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([["a", "b"], ["c"], ["a", "b"]], "the listing repeats the page that begins with 'a'"),
        ([["a"], [], [], []], "the listing has had 3 pages without an object"),
        ([["a", "b"], ["c", "d"], ["e"]], "the listing has more than 4 objects; name a smaller prefix"),
    ],
)
def test_pages_that_cannot_be_believed_end_the_listing(
    pages: list[list[str]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "MOST_OBJECTS", 4)
    monkeypatch.setattr(listings, "MOST_EMPTY_PAGES", 2)
    with pytest.raises(ListingError, match=words):
        list(ending(pages, str))
    assert list(ending([["a", "b"], [], ["c"]], str)) == ["a", "b", "c"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_listing_that_repeats_itself_ends_at_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("azure.storage.blob")
    with FakeBlobs() as server:
        server.blobs |= {f"{number}.txt": b"text" for number in range(5)}
        server.fault = "repeats"
        address = server.base_url.removesuffix("/v1")
        account = f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey={KEY};BlobEndpoint={address}/account;"
        monkeypatch.setenv("BLOBS", account)
        with pytest.raises(
            SourceError, match=r"azure container docs: the listing repeats the page that begins with '1"
        ):
            list(opened(tmp_path, "azure", "docs", STRING).list_files())


def test_a_listing_that_repeats_itself_ends_at_google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.cloud.storage")
    page = b'{"items": [{"name": "a.txt", "size": "4", "generation": "1"}], "nextPageToken": "again"}'
    with Answering(200, body=page) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.base_url.removesuffix("/v1"))
        with pytest.raises(SourceError, match=r"gs://docs: the listing repeats the page that begins with 'a\.txt'"):
            list(opened(tmp_path, "gcs", "docs").list_files())
