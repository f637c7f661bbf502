"""Files that outlive a task and are too large for the database: models, topic trees, training sets, reports.

They are in a folder on one machine, in S3 in a deployment; their URI tells. A folder of files is written beside its
final name and then renamed (on S3: completed by a marker object), so a reader never sees half of one.

Keys, names of objects and URIs in the database come from elsewhere, so no file is written, read or deleted outside the
root and the cache, whatever they are and wherever links lead.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from heal_tasks.core.errors import StepError
from heal_tasks.core.files import first_stray, private_folder
from heal_tasks.core.models import resolve_model, split_uri
from heal_tasks.core.s3 import list_objects, named_errors, read_body, s3_client
from heal_tasks.core.settings import Settings

COMPLETE = "_complete.json"
CHECK = "check HEAL_ARTIFACTS_URI, the credentials and HEAL_S3_ENDPOINT_URL"
RIGHTS = "give the credentials s3:ListBucket on the bucket, s3:GetObject, PutObject and DeleteObject on its objects"

_DELETED_AT_ONCE = 1000


class ArtifactStore:
    """Folders of files by key below ``root``: a local folder, or ``s3://bucket/prefix`` with a ``cache_dir``."""

    def __init__(self, root: str, cache_dir: Path, s3_endpoint_url: str | None = None) -> None:
        self._root, self._cache_dir, self._endpoint = root.rstrip("/"), cache_dir, s3_endpoint_url
        self._remote = root.startswith("s3://")
        self._files = cache_dir if self._remote else Path(self._root)  # where local files are

    def uri(self, key: str) -> str:
        """The URI of a key, a relative path of ordinary names."""
        return f"{self._root}/{_checked(key, key)}"

    def exists(self, uri: str) -> bool:
        """True if a completely written artifact is at a URI."""
        if not self._inside(uri):
            return False
        if not self._remote:
            return (Path(uri) / COMPLETE).exists()
        return any(item["Key"].endswith(f"/{COMPLETE}") for item in self._objects(uri, COMPLETE))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield an empty local folder, and publish it under a key such as ``models/3f2a`` if the block has no error."""
        uri = self.uri(key)
        with self._staging() as staging:
            yield staging
            (staging / COMPLETE).write_text(json.dumps({"key": key}))
            if self._remote:
                bucket, prefix = _place(uri)
                files = [path for path in staging.rglob("*") if path.is_file() and path.name != COMPLETE]
                for path in [*files, staging / COMPLETE]:
                    key = f"{prefix}/{path.relative_to(staging).as_posix()}"
                    with _explained(f"{bucket}/{key}"):
                        self._client.upload_file(str(path), bucket, key)
            else:
                _publish(staging, self._folder(uri))

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """Yield a new folder, and remove what is left of it: on a full disk half a file would keep the disk full."""
        private_folder(self._files)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._files))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def local(self, uri: str) -> Path:
        """A local folder with the artifact's files, fetched once if it is in S3.

        Raises:
            StepError: it is not complete, not below the root, or has files that are not its own.
        """
        target = self._folder(uri)
        if (target / COMPLETE).exists():
            _check_files(target, self._files)
            return target
        if not self.exists(uri):
            raise StepError(f"artifact {uri} is missing or incomplete; run the step that writes it again")
        bucket, prefix = _place(uri)
        with self._staging() as staging:
            for item in self._objects(uri):
                name = item["Key"].removeprefix(f"{prefix}/")
                if name != COMPLETE and not name.endswith("/"):  # a folder marker
                    self._fetch(bucket, item, staging / _checked(name, f"s3://{bucket}/{item['Key']}"))
            (staging / COMPLETE).write_text("{}")
            if not (target / COMPLETE).exists():  # another process may have fetched it meanwhile
                _publish(staging, target)
        return target

    def model_path(self, model_uri: str) -> str:
        """Folder to load a model from: an artifact's, or the one that ``resolve_model`` finds."""
        return str(self.local(model_uri)) if self._inside(model_uri) else resolve_model(split_uri(model_uri)[0])

    def delete(self, uri: str) -> None:
        """Remove an artifact; nothing happens where there is none. StepError for what is not below the root."""
        shutil.rmtree(self._folder(uri), ignore_errors=True)
        if self._remote:
            bucket, keys = _place(uri)[0], [item["Key"] for item in self._objects(uri)]
            for start in range(0, len(keys), _DELETED_AT_ONCE):
                gone = {"Objects": [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]], "Quiet": True}
                with _explained(bucket):
                    self._client.delete_objects(Bucket=bucket, Delete=gone)

    def _folder(self, uri: str) -> Path:
        """The local folder of an artifact; in the cache if it is in S3."""
        if not self._inside(uri):
            raise StepError(f"artifact {uri!r} is not below {self._root}, the folder or bucket of HEAL_ARTIFACTS_URI")
        folder = self._cache_dir / uri.removeprefix("s3://") if self._remote else Path(uri)
        if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self._files)):
            raise _leads_out(folder, self._files)
        return folder

    def _inside(self, uri: str) -> bool:
        """True for the URI of a key below the root."""
        return uri.startswith(f"{self._root}/") and not _problem(uri.removeprefix(f"{self._root}/"))

    def _objects(self, uri: str, name: str = "") -> Iterator[dict[str, Any]]:
        """The objects of an artifact in S3, or those whose names begin so."""
        bucket, prefix = _place(uri)
        with _explained(bucket):
            yield from list_objects(self._client, bucket, f"{prefix}/{name}")

    def _fetch(self, bucket: str, item: dict[str, Any], target: Path) -> None:
        """Fetch an object of as many bytes as its listing says; StepError if it sends another number."""
        key, size = item["Key"], item["Size"]
        with _explained(f"{bucket}/{key}"):
            reply = self._client.get_object(Bucket=bucket, Key=key)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    received = sum(file.write(part) for part in read_body(reply, size))
            except (FileExistsError, NotADirectoryError) as error:
                raise StepError(f"object {key!r} is a file and a folder; run the step that writes it again") from error
        if received != size:
            raise StepError(
                f"object {key!r} is listed with {size:,} bytes and sent "
                f"{'more' if received > size else f'{received:,}'}; run the step that writes it again"
            )

    @cached_property
    def _client(self) -> Any:
        return s3_client(self._endpoint)


def _place(uri: str) -> tuple[str, str]:
    """The bucket of an S3 URI, and the prefix in it."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def _explained(what: str) -> AbstractContextManager[None]:
    return named_errors(what, StepError, RIGHTS, CHECK)


def _problem(name: str) -> str:
    """The reason why a name is no relative path of ordinary names; empty if it is one."""
    parts = name.split("/")
    if ".." in parts or "." in parts:
        return "it has a part '..' or '.'"
    if "" in parts:
        return "it is absolute, or has an empty part"
    if "\\" in name or not name.isprintable():
        return "it has a backslash or a control character"
    if len(os.fsencode(name)) > 1024 or any(len(os.fsencode(part)) > 255 for part in parts):
        return "it is too long for a path"
    return ""


def _checked(name: str, shown: str) -> str:
    if problem := _problem(name):
        raise StepError(f"{shown!r} is no name of a file in an artifact: {problem}; delete it, and run the step again")
    return name


def _check_files(folder: Path, root: Path) -> None:
    """Raise StepError for a link that leads out of the root, and for anything that is neither file nor folder."""
    if stray := first_stray(folder, root):
        path, leads_out = stray
        if leads_out:
            raise _leads_out(path, root)
        raise StepError(f"{path} is no regular file; delete it, and run the step that writes it again")


def _leads_out(path: Path, root: Path) -> StepError:
    return StepError(f"{path} leads out of {root}; delete the link, and run the step that writes it again")


def _publish(staging: Path, target: Path) -> None:
    """Give a complete folder its final name, in place of an older one."""
    private_folder(target.parent)
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)


def artifact_store(settings: Settings) -> ArtifactStore:
    """The store that the settings name."""
    return ArtifactStore(settings.artifacts_uri, settings.var_dir / "artifact_cache", settings.s3_endpoint_url)
