"""Artifacts in a folder and in S3: complete or absent, never partial."""

from pathlib import Path

import boto3
import pytest

from heal_tasks.core.artifacts import ArtifactStore
from heal_tasks.core.errors import StepError


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    if request.param == "folder":
        return ArtifactStore(str(tmp_path / "artifacts"), tmp_path / "cache")
    endpoint = request.getfixturevalue("endpoint")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    bucket = f"bucket-{abs(hash(str(tmp_path)))}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return ArtifactStore(f"s3://{bucket}/heal", tmp_path / "cache", endpoint)


def write(store: ArtifactStore, key: str, text: str) -> str:
    with store.writing(key) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text(text)
    return store.uri(key)


def test_written_files_are_read(store: ArtifactStore) -> None:
    uri = write(store, "models/one", "weights")
    assert store.exists(uri)
    assert (store.local(uri) / "sub" / "file.txt").read_text() == "weights"


def test_an_error_leaves_nothing(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError), store.writing("models/two") as folder:
        (folder / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert not store.exists(store.uri("models/two"))
    with pytest.raises(StepError, match=r"models/two is missing or incomplete; run the step that writes it again"):
        store.local(store.uri("models/two"))


def test_a_second_writer_replaces_the_first(store: ArtifactStore) -> None:
    write(store, "models/three", "old")
    uri = write(store, "models/three", "new")
    assert (store.local(uri) / "sub" / "file.txt").read_text() == "new"


def test_a_deleted_artifact_is_gone(store: ArtifactStore) -> None:
    uri = write(store, "models/four", "weights")
    store.local(uri)
    store.delete(uri)
    assert not store.exists(uri)
    store.delete(uri)
