"""What a source is, and how the text of a setting becomes one."""

from collections.abc import Iterator
from typing import Protocol

from heal_tasks.core.errors import SourceError
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.files import FolderSource
from heal_tasks.sources.pydocs import PyDocsSource
from heal_tasks.sources.s3 import S3Source


class Source(Protocol):
    """A place that documents come from: it lists files and hands out their bytes.

    ``name`` is the spec it was opened with. It is part of every document id, so changing the spelling of
    a source makes its documents new ones.
    """

    @property
    def name(self) -> str:
        """The spec it was opened with."""

    def list_files(self) -> Iterator[SourceFile]:
        """List the files, sorted by path.

        Yields:
            Every file that is not hidden and not still being written; unknown kinds included.

        Raises:
            SourceError: the source cannot be listed as a whole; nothing may be concluded about its documents.
            RetryableError: a lost connection or throttling.
        """

    def read(self, file: SourceFile) -> bytes:
        """Read one listed file.

        Args:
            file: as listed.

        Returns:
            The whole content.

        Raises:
            SourceError: this file cannot be read, for example because it is gone by now.
            RetryableError: a lost connection or throttling.
        """


def open_source(spec: str, *, s3_endpoint_url: str | None) -> Source:
    """Open the source that a spec names.

    Args:
        spec: ``file:FOLDER``, ``s3://BUCKET/PREFIX`` or ``pydocs:PACKAGE,PACKAGE``.
        s3_endpoint_url: S3-compatible endpoint; None means AWS.

    Returns:
        The source; nothing has been listed yet.

    Raises:
        SourceError: the spec is none of these, or its folder or package is not there.
    """
    if spec.startswith("file:"):
        return FolderSource(spec)
    if spec.startswith("s3://"):
        return S3Source(spec, endpoint_url=s3_endpoint_url)
    if spec.startswith("pydocs:"):
        return PyDocsSource(spec)
    raise SourceError(f"unknown source {spec!r}; write file:FOLDER, s3://BUCKET/PREFIX or pydocs:PACKAGE,PACKAGE")
