"""Documents from a container of Azure Blob Storage; a blob counts as unchanged while its ETag stays.

``requirements-cloud.txt`` has the client.
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
from heal_tasks.sources.gcs import INSTALL

CONNECT_S, READ_S, ATTEMPTS = 10, 60, 3
EMPTY = 416
"""The status of a range of a blob without bytes."""
CURES = {
    "ContainerNotFound": "correct the location, or create the container",
    "BlobNotFound": "it was deleted after the listing; the next run will see that",
    "AuthenticationFailed": "check the key or token, and the clock of this machine",
    "AuthorizationFailure": "let the network of this machine reach the account, and check the rights of the token",
    "AuthorizationPermissionMismatch": "give the identity the role Storage Blob Data Reader, the token read and list",
    "BlobArchived": "it is archived; restore it or exclude it",
}


class AzureSource:
    """The blobs of ``CONTAINER/PREFIX``; the prefix is a folder."""

    def __init__(self, table: SourceTable) -> None:
        try:
            import azure.storage.blob  # noqa: F401
        except ImportError:
            raise table.wrong("kind", f"is 'azure', and azure-storage-blob is not installed; {INSTALL}") from None
        self._table = table
        self._container, self._prefix = split_location(table.location)
        if bool(table.text("connection_string")) == bool(table.text("account_url")):
            raise table.wrong("account_url", "give either account_url or connection_string_env, and not both")

    def list_files(self) -> Iterator[SourceFile]:
        """See ``Source``."""
        with self._explained(self._container):
            pages = self._client.list_blobs(name_starts_with=self._prefix or None).by_page()
            for blob in ending((list(page) for page in pages), lambda blob: str(blob.name)):
                version = (blob.etag or "").strip('"')
                if file := listed(blob.name, self._prefix, f"{version}-{blob.size}", blob.size):
                    yield file

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``."""
        from azure.core.exceptions import HttpResponseError

        name = self._prefix + file.real_path
        with self._explained(f"{self._container}/{name}"):
            try:
                data = self._client.download_blob(name, offset=0, length=limit + 1).readall()
            except HttpResponseError as error:
                if error.status_code == EMPTY:
                    return b""
                raise
        return bytes(data)[: limit + 1]

    @cached_property
    def _client(self) -> Any:
        from azure.storage.blob import ContainerClient

        options = {"connection_timeout": CONNECT_S, "read_timeout": READ_S, "retry_total": ATTEMPTS}
        if text := self._table.text("connection_string"):
            return ContainerClient.from_connection_string(text, self._container, **options)
        credential: Any = self._table.text("credential")
        if not credential:
            from azure.identity import DefaultAzureCredential

            credential = DefaultAzureCredential()
        return ContainerClient(self._table.text("account_url"), self._container, credential=credential, **options)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn the client's errors into retryable and other errors that say what to do."""
        from azure.core import exceptions as azure

        where = f"azure container {what}"
        try:
            yield
        except ListingError as error:
            raise SourceError(error.sentence(where, "check the location")) from error
        except (azure.ServiceRequestError, azure.ServiceResponseError, azure.IncompleteReadError) as error:
            raise RetryableError(f"{where}: connection failed ({error}); try again later") from error
        except azure.HttpResponseError as error:
            status, named = error.status_code or 0, getattr(error, "error_code", None) or error.reason
            code = str(getattr(named, "value", named))
            if status == 0 and isinstance(error, azure.ClientAuthenticationError):
                raise SourceError(f"{where}: no credentials ({error.message}); set credential_env") from error
            if status == 0:
                raise RetryableError(f"{where}: connection failed ({error.message}); try again later") from error
            if status >= 500 or status in (408, 429):
                raise RetryableError(f"{where}: the server is busy ({code}); try again later") from error
            cure = CURES.get(code, "check location, account and credentials")
            raise SourceError(f"{where} refused ({code}); {cure}") from error
        except (azure.AzureError, ValueError) as error:
            raise SourceError(f"{where}: {error}; check account and credentials") from error
