"""Documents from a bucket of Google Cloud Storage; an object counts as unchanged while its generation stays.

``requirements-cloud.txt`` has the client. It finds credentials and, in tests, an emulator by Google's own variables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from heal_tasks.core.errors import RetryableError, SourceError
from heal_tasks.core.listings import ListingError, ending
from heal_tasks.core.source_tables import SourceTable
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.buckets import listed, split_location

REQUEST_S, RETRY_S = 60.0, 30.0
INSTALL = "run `pip install -c constraints.txt -r requirements-cloud.txt`"
CURES = {
    401: "check the credentials (GOOGLE_APPLICATION_CREDENTIALS)",
    403: "give the credentials the role Storage Object Viewer on the bucket",
    404: "correct the location; of an object: it was deleted after the listing, the next run will see that",
}


class GcsSource:
    """The objects of ``BUCKET/PREFIX``; the prefix is a folder."""

    def __init__(self, table: SourceTable) -> None:
        try:
            import google.cloud.storage  # noqa: F401
        except ImportError:
            raise table.wrong("kind", f"is 'gcs', and google-cloud-storage is not installed; {INSTALL}") from None
        self._bucket, self._prefix = split_location(table.location)

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``; folder markers are left out."""
        with self._explained(self._bucket):
            fields = "items(name,size,generation),nextPageToken"
            blobs = self._client.list_blobs(
                self._bucket, prefix=self._prefix or None, fields=fields, timeout=REQUEST_S, retry=self._retry
            )
            for blob in ending((list(page) for page in blobs.pages), lambda blob: str(blob.name)):
                if file := listed(blob.name, self._prefix, str(blob.generation), blob.size or 0):
                    yield file

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``."""
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        name = self._prefix + file.real_path
        with self._explained(f"{self._bucket}/{name}"):
            blob = self._client.bucket(self._bucket).blob(name)
            try:
                data = blob.download_as_bytes(
                    end=limit, raw_download=True, timeout=REQUEST_S, retry=self._retry, checksum=None
                )
            except RequestRangeNotSatisfiable:  # it is empty
                return b""
        return bytes(data)[: limit + 1]

    @cached_property
    def _retry(self) -> Any:
        from google.cloud.storage.retry import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(RETRY_S)

    @cached_property
    def _client(self) -> Any:
        from google.cloud import storage

        # The name of a project is asked for and not used: only making a bucket needs it.
        return storage.Client(project="heal")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn the client's errors into retryable and other errors that say what to do."""
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
        from requests.exceptions import RequestException

        where = f"gs://{what}"
        try:
            yield
        except ListingError as error:
            raise SourceError(error.sentence(where, "check the location")) from error
        except (RequestException, RetryError, TransportError, ConnectionError) as error:
            raise RetryableError(f"{where}: connection failed ({error}); try again later") from error
        except GoogleAPICallError as error:
            status = int(error.code or 0)
            if status >= 500 or status in (408, 429):
                raise RetryableError(f"{where}: the server is busy (HTTP {status}); try again later") from error
            raise SourceError(f"{where} refused (HTTP {status}); {CURES.get(status, 'check the location')}") from error
        except DefaultCredentialsError as error:
            cure = "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine an account"
            raise SourceError(f"{where}: no credentials found; {cure}") from error
        except GoogleAuthError as error:
            raise SourceError(f"{where}: the credentials were refused ({error}); renew them") from error
