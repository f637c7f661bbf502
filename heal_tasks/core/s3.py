"""S3 and servers of its protocol: replies and listings that end, whatever a server sends, and errors with a cure.

Broken connections, throttling and replies that do not come are retryable errors; missing rights, keys and buckets are
not, and the message says which it was.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from heal_tasks.core.errors import HealError, RetryableError
from heal_tasks.core.listings import ListingError, ending

CONNECT_S, READ_S, ATTEMPTS = 10.0, 60.0, 3
SLOWEST_BYTES_S = 64 << 10
"""A body that comes more slowly does not come: the timeouts of the client begin anew with every byte."""
_PIECE_BYTES = 1 << 18

_RETRYABLE_CODES = frozenset({
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException",
    "RequestTimeout", "InternalError", "ServiceUnavailable",
})  # fmt: skip
_CURES = {
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, and that HEAL_S3_ENDPOINT_URL is the server that knows it",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "ExpiredToken": "renew the session token",
    "NoSuchBucket": "create the bucket, or correct the spec or HEAL_S3_ENDPOINT_URL",
    "NoSuchKey": "it was deleted after the listing; the next run will see that",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the bucket's region",
    "InvalidObjectState": "it is archived; restore it or move it out of the prefix",
}


def s3_client(endpoint_url: str | None) -> Any:
    """A boto3 client whose requests end; boto3 finds credentials and region in the environment or in the instance role.

    Args:
        endpoint_url: an S3-compatible endpoint; None means AWS.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        tcp_keepalive=True,
    )
    return boto3.client("s3", endpoint_url=endpoint_url, config=config)


def list_objects(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The objects whose keys begin with a prefix, as ``ListObjectsV2`` describes them.

    Raises:
        ListingError: pages come again, or without an end, or the listing breaks off.
    """

    def pages() -> Iterator[list[dict[str, Any]]]:
        token, seen = "", set[str]()
        while True:
            more = {"ContinuationToken": token} if token else {}
            page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **more)
            yield page.get("Contents", [])
            if not page.get("IsTruncated"):
                return
            token = str(page.get("NextContinuationToken") or "")
            if not token:
                raise ListingError("the listing breaks off without the token of its next page")
            if token in seen:
                raise ListingError(f"the listing repeats the token of a page ({token[:40]!r})")
            seen.add(token)

    return ending(pages(), lambda item: str(item["Key"]))


def read_body(reply: Any, limit: int) -> Iterator[bytes]:
    """The body of a reply of ``GetObject`` in pieces, of a longer one ``limit`` bytes and one.

    Raises:
        RetryableError: it broke off, or came too slowly.
    """
    from urllib3.exceptions import HTTPError

    received, announced = 0, int(reply.get("ContentLength") or 0)
    deadline = time.monotonic() + READ_S + min(announced, limit) / SLOWEST_BYTES_S
    with reply["Body"] as raw:  # it gives what has come, and does not wait for more
        try:
            while received <= limit and (part := raw.read1(min(limit + 1 - received, _PIECE_BYTES))):
                received += len(part)
                yield part
                if time.monotonic() > deadline:
                    raise RetryableError(f"only {received:,} of {announced:,} bytes came in time; try again later")
        except (HTTPError, ConnectionError, TimeoutError) as error:
            raise RetryableError(
                f"connection failed after {received:,} of {announced:,} bytes ({error}); try again later"
            ) from error
    if received < min(announced, limit):
        raise RetryableError(f"connection failed after {received:,} of {announced:,} bytes; try again later")


@contextmanager
def named_errors(what: str, refused: type[HealError], rights: str, check: str) -> Iterator[None]:
    """Turn errors of the client into retryable ones and, as ``refused``, others that say what to do.

    Args:
        what: bucket, or bucket and key.
        refused: the kind of an error that will come again.
        rights: the rights that are needed, as a cure.
        check: the cure of an error that nothing else is known about.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions as boto

    where = f"s3://{what}"
    try:
        yield
    except RetryableError as error:
        raise RetryableError(f"{where}: {error}") from error
    except ListingError as error:
        raise refused(error.sentence(where, check)) from error
    except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as error:
        raise RetryableError(f"{where}: connection failed ({error}); try again later") from error
    except boto.ClientError as error:
        raise _of_reply(error, where, refused, rights, check) from error
    except S3UploadFailedError as error:
        cause = error.__context__
        if isinstance(cause, boto.ClientError):
            raise _of_reply(cause, where, refused, rights, check) from error
        raise RetryableError(f"{where}: the upload failed ({error}); try again later") from error
    except boto.NoCredentialsError as error:
        raise refused(
            f"{where}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role"
        ) from error
    except (boto.BotoCoreError, ValueError) as error:
        raise refused(f"{where}: {error}; {check}") from error


def _of_reply(error: Any, where: str, refused: type[HealError], rights: str, check: str) -> HealError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _RETRYABLE_CODES or status >= 500 or status == 429:
        return RetryableError(f"{where}: the server is busy ({code}); try again later")
    cure = rights if code in ("AccessDenied", "403") else _CURES.get(code, check)
    return refused(f"{where} refused ({code}); {cure}")
