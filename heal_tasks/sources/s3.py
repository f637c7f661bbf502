"""Documents from an S3 bucket, or from any server of its protocol.

An object counts as unchanged while its ETag and size stay. Both come with the listing, so an unchanged bucket costs one
request per thousand objects.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from heal_tasks.core.errors import SourceError
from heal_tasks.core.s3 import list_objects, named_errors, read_body, s3_client
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.buckets import listed, split_location

CHECK = "check the spec, the credentials and HEAL_S3_ENDPOINT_URL"
RIGHTS = "give the credentials s3:ListBucket on the bucket and s3:GetObject on its objects"


class S3Source:
    """The objects of ``s3://BUCKET/PREFIX``; the prefix is a folder, so ``docs`` does not include ``docs-old/a.txt``.

    ``endpoint_url`` is an S3-compatible endpoint; None means AWS. boto3 finds credentials and region in the
    environment, in shared files or in the instance role.
    """

    def __init__(self, spec: str, *, endpoint_url: str | None) -> None:
        self.name = spec
        self._bucket, self._prefix = split_location(spec.removeprefix("s3://"))
        if not self._bucket:
            raise SourceError(f"source {spec!r} names no bucket; write s3://BUCKET/PREFIX")
        self._endpoint_url = endpoint_url

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; folder markers are left out."""
        with self._explained(self._bucket):
            for item in list_objects(self._client, self._bucket, self._prefix):
                version = f"{_tag(item)}-{item['Size']}"
                if file := listed(item["Key"], self._prefix, version, item["Size"]):
                    yield file

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``."""
        key = self._prefix + file.real_path
        with self._explained(f"{self._bucket}/{key}"):
            reply = self._client.get_object(Bucket=self._bucket, Key=key)
            data = b"".join(read_body(reply, limit))
        # Overwritten since the listing it may have any size. A part of it would pass for the whole document.
        same = file.fingerprint.startswith(f"{_tag(reply)}-")
        if same and len(data) != min(file.size_bytes, limit + 1):
            raise SourceError(
                f"s3://{self._bucket}/{key} is listed with {file.size_bytes:,} bytes, and the same version of it was "
                f"sent with {len(data):,}; upload it again, or ask whoever runs the server. It is not read before that"
            )
        return data

    @cached_property
    def _client(self) -> Any:
        return s3_client(self._endpoint_url)

    def _explained(self, what: str) -> AbstractContextManager[None]:
        return named_errors(what, SourceError, RIGHTS, CHECK)


def _tag(described: dict[str, Any]) -> str:
    """The ETag of an object, in a listing or in a reply."""
    return str(described.get("ETag", "")).strip('"')
