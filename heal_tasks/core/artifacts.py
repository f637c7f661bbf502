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

from heal_tasks.core.errors import StepError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings

COMPLETE = "_complete.json"


class ArtifactStore:
    """Folders of files by key below ``root``: a local folder, or ``s3://bucket/prefix`` with a ``cache_dir``."""

    def __init__(self, root: str, cache_dir: Path, s3_endpoint_url: str | None = None) -> None:
        self._root, self._cache_dir, self._endpoint = root.rstrip("/"), cache_dir, s3_endpoint_url

    def uri(self, key: str) -> str:
        """The URI of a key."""
        return f"{self._root}/{key}"

    def exists(self, uri: str) -> bool:
        """True if a completely written artifact is at a URI."""
        if not _is_remote(uri):
            return (Path(uri) / COMPLETE).exists()
        bucket, prefix = self._bucket(uri)
        return any(bucket.objects.filter(Prefix=f"{prefix}/{COMPLETE}").limit(1))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield an empty local folder, and publish it under a key such as ``models/3f2a`` if the block has no error."""
        remote = _is_remote(self._root)
        with self._staging(self._cache_dir if remote else Path(self._root)) as staging:
            yield staging
            (staging / COMPLETE).write_text(json.dumps({"key": key}))
            if remote:
                bucket, prefix = self._bucket(self.uri(key))
                files = [path for path in staging.rglob("*") if path.is_file() and path.name != COMPLETE]
                for path in [*files, staging / COMPLETE]:
                    bucket.upload_file(str(path), f"{prefix}/{path.relative_to(staging).as_posix()}")
            else:
                _publish(staging, Path(self._root) / key)

    @contextmanager
    def _staging(self, root: Path) -> Iterator[Path]:
        """Yield a new folder, and remove what is left of it: on a full disk half a file would keep the disk full."""
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def local(self, uri: str) -> Path:
        """A local folder with the artifact's files, fetched once if it is in S3; StepError if it is not complete."""
        target = self._folder(uri)
        if (target / COMPLETE).exists():
            return target
        if not self.exists(uri):
            raise StepError(f"artifact {uri} is missing or incomplete; run the step that writes it again")
        bucket, prefix = self._bucket(uri)
        with self._staging(self._cache_dir) as staging:
            for item in bucket.objects.filter(Prefix=f"{prefix}/"):
                name = item.key.removeprefix(f"{prefix}/")
                if name != COMPLETE:
                    (staging / name).parent.mkdir(parents=True, exist_ok=True)
                    bucket.download_file(item.key, str(staging / name))
            (staging / COMPLETE).write_text("{}")
            if not (target / COMPLETE).exists():  # another process may have fetched it meanwhile
                _publish(staging, target)
        return target

    def model_path(self, model_uri: str) -> str:
        """Folder to load a model from: an artifact's, or the one that ``resolve_model`` finds."""
        return str(self.local(model_uri)) if model_uri.startswith(f"{self._root}/") else resolve_model(model_uri)

    def delete(self, uri: str) -> None:
        """Remove an artifact; nothing happens where there is none."""
        shutil.rmtree(self._folder(uri), ignore_errors=True)
        if _is_remote(uri):
            bucket, prefix = self._bucket(uri)
            bucket.objects.filter(Prefix=f"{prefix}/").delete()

    def _folder(self, uri: str) -> Path:
        """The local folder of an artifact; in the cache if it is in S3."""
        return self._cache_dir / uri.removeprefix("s3://") if _is_remote(uri) else Path(uri)

    def _bucket(self, uri: str) -> tuple[Any, str]:
        """The boto3 bucket of an S3 URI, and the prefix in it."""
        import boto3

        name, _, prefix = uri.removeprefix("s3://").partition("/")
        return boto3.resource("s3", endpoint_url=self._endpoint).Bucket(name), prefix


def _publish(staging: Path, target: Path) -> None:
    """Give a complete folder its final name, in place of an older one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)


def _is_remote(uri: str) -> bool:
    return uri.startswith("s3://")


def artifact_store(settings: Settings) -> ArtifactStore:
    """The store that the settings name."""
    return ArtifactStore(settings.artifacts_uri, settings.var_dir / "artifact_cache", settings.s3_endpoint_url)
