"""Files that outlive a task and are too large for the database: models, topic trees, training sets, reports.

They are in a folder on one machine, in S3 in a deployment; their URI tells. A folder of files is written beside its
final name and then renamed (on S3: completed by a marker object), so a reader never sees half of one.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heal_tasks.core.batches import batched
from heal_tasks.core.errors import StepError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings

COMPLETE = "_complete.json"
MOST_DELETED = 1000  # keys of one call, by the protocol of S3


class ArtifactStore:
    """Folders of files by key, in a local folder or in S3.

    Args:
        root: folder or ``s3://bucket/prefix``.
        cache_dir: keeps folders fetched from S3.
        s3_endpoint_url: S3-compatible endpoint; None means AWS.
    """

    def __init__(self, root: str, cache_dir: Path, s3_endpoint_url: str | None = None) -> None:
        self._root, self._cache_dir, self._endpoint = root.rstrip("/"), cache_dir, s3_endpoint_url

    def uri(self, key: str) -> str:
        """The URI of a key."""
        return f"{self._root}/{key}"

    def exists(self, uri: str) -> bool:
        """True if a completely written artifact is at a URI."""
        if not _is_remote(uri):
            return (Path(uri) / COMPLETE).exists()
        bucket, prefix = self._split(uri)
        found = self._client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/{COMPLETE}", MaxKeys=1)
        return bool(found.get("KeyCount"))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Publish a folder under a key such as ``models/3f2a``, if the block ends without an error.

        Yields:
            An empty local folder to fill.
        """
        remote = _is_remote(self._root)
        staging_root = self._cache_dir if remote else Path(self._root)
        staging_root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=staging_root))
        try:
            yield staging
            (staging / COMPLETE).write_text(json.dumps({"key": key}))
            if remote:
                self._upload(staging, key)
            else:
                target = Path(self._root) / key
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():
                    shutil.rmtree(target)
                staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def local(self, uri: str) -> Path:
        """A local folder with the artifact's files, fetched once if it is in S3.

        Raises:
            StepError: there is no complete artifact at that URI.
        """
        target = Path(uri)
        if _is_remote(uri):
            bucket, prefix = self._split(uri)
            target = self._cache_dir / bucket / prefix
        if (target / COMPLETE).exists():
            return target
        if not self.exists(uri):
            raise StepError(f"artifact {uri} is missing or incomplete; run the step that writes it again")
        client = self._client()
        for key in self._keys(bucket, prefix):
            name = key[len(prefix) + 1 :]
            if name != COMPLETE:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, key, str(target / name))
        (target / COMPLETE).write_text("{}")
        return target

    def model_path(self, model_uri: str) -> str:
        """Folder to load a model from: an artifact's, or the one that ``resolve_model`` finds."""
        return str(self.local(model_uri)) if model_uri.startswith(f"{self._root}/") else resolve_model(model_uri)

    def delete(self, uri: str) -> None:
        """Remove an artifact; nothing happens where there is none."""
        if not _is_remote(uri):
            shutil.rmtree(uri, ignore_errors=True)
            return
        bucket, prefix = self._split(uri)
        shutil.rmtree(self._cache_dir / bucket / prefix, ignore_errors=True)
        for keys in batched(self._keys(bucket, prefix), MOST_DELETED):
            self._client().delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})

    def _upload(self, folder: Path, key: str) -> None:
        bucket, prefix = self._split(self.uri(key))
        client = self._client()
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE)
        for path in [*files, folder / COMPLETE]:
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")

    def _keys(self, bucket: str, prefix: str) -> Iterator[str]:
        for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            yield from (item["Key"] for item in page.get("Contents", []))

    def _client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self._endpoint)

    @staticmethod
    def _split(uri: str) -> tuple[str, str]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return bucket, prefix


def _is_remote(uri: str) -> bool:
    return uri.startswith("s3://")


def artifact_store(settings: Settings) -> ArtifactStore:
    """The store that the settings name."""
    return ArtifactStore(settings.artifacts_uri, settings.var_dir / "artifact_cache", settings.s3_endpoint_url)
