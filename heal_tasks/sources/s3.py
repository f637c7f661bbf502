"""Documents from an S3 bucket, or from any server of its protocol.

An object counts as unchanged while its ETag and size stay. Both come with the listing, so an unchanged bucket costs one
request per thousand objects. Broken connections and throttling are retryable errors; missing rights, keys and buckets
are not, and the message says which it was.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.buckets import listed, split_location
from heal_tasks.sources.files import read_at_most

RETRYABLE_CODES = frozenset({
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException",
    "RequestTimeout", "InternalError", "ServiceUnavailable",
})  # fmt: skip

CHECK = "check the spec, the credentials and HEAL_S3_ENDPOINT_URL"
CURES = {
    "AccessDenied": "give the credentials s3:ListBucket on the bucket and s3:GetObject on its objects",
    "403": "give the credentials s3:ListBucket on the bucket and s3:GetObject on its objects",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, and that HEAL_S3_ENDPOINT_URL is the server that knows it",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the session token",
    "NoSuchBucket": "create the bucket, or correct the spec or HEAL_S3_ENDPOINT_URL",
    "NoSuchKey": "it was deleted after the listing; the next run will see that",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the bucket's region",
    "InvalidObjectState": "it is archived; restore it or move it out of the prefix",
}


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
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    version = f"{item['ETag'].strip(chr(34))}-{item['Size']}"
                    if file := listed(item["Key"], self._prefix, version, item["Size"]):
                        yield file

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``."""
        key = self._prefix + file.real_path
        with (
            self._explained(f"{self._bucket}/{key}"),
            # Not the body's own context, which gives the raw stream: that does not notice a reply that breaks off.
            closing(self._client.get_object(Bucket=self._bucket, Key=key)["Body"]) as body,
        ):
            return read_at_most(body.read, limit)

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "max_attempts": 3}, connect_timeout=10, read_timeout=60, tcp_keepalive=True
        )
        return boto3.client("s3", endpoint_url=self._endpoint_url, config=config)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn botocore's errors into retryable and other errors that say what to do."""
        from botocore import exceptions as boto

        try:
            yield
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as error:
            raise RetryableError(f"s3://{what}: connection failed ({error}); try again later") from error
        except boto.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code in RETRYABLE_CODES or status >= 500 or status == 429:
                raise RetryableError(f"s3://{what}: the server is busy ({code}); try again later") from error
            cure = CURES.get(code, CHECK)
            raise SourceError(f"s3://{what} refused ({code}); {cure}") from error
        except boto.NoCredentialsError as error:
            raise SourceError(
                f"s3://{what}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role"
            ) from error
        except (boto.BotoCoreError, ValueError) as error:
            raise SourceError(f"s3://{what}: {error}; {CHECK}") from error
