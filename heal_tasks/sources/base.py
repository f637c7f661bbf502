"""The protocol of a source, and opening one by its spec."""

from collections.abc import Callable, Iterator
from typing import Protocol

from heal_tasks.core.errors import SourceError
from heal_tasks.core.specs import FILE, FORMS, PYDOCS, S3, TABLE
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.adopted_table import AdoptedTable, TableRows
from heal_tasks.sources.files import FolderSource
from heal_tasks.sources.pydocs import PyDocsSource
from heal_tasks.sources.s3 import S3Source


class Source(Protocol):
    """A place that documents come from: it lists files and reads their bytes.

    ``name`` is the spec it was opened with. It is part of every document id, so another spelling of the same source
    makes its documents new ones.
    """

    @property
    def name(self) -> str:
        """The spec it was opened with."""

    def list_files(self) -> Iterator[SourceFile]:
        """List every file that is not hidden and not still being written, sorted by path, unknown kinds included.

        A file that is there but cannot be a document, such as a link that leads away, comes with ``left_out``.

        Raises:
            SourceError: the source cannot be listed as a whole; nothing may be concluded about its documents.
            RetryableError: a lost connection or throttling.
        """

    def read(self, file: SourceFile, limit: int) -> bytes:
        """Read one listed file; of one that has more than ``limit`` bytes, whatever its listing said, one byte more.

        Raises:
            SourceError: this file cannot be read, for example because it was deleted after the listing.
            RetryableError: a lost connection or throttling.
        """


def open_source(
    spec: str, *, s3_endpoint_url: str | None, open_table: Callable[[str], TableRows] | None = None
) -> Source:
    """Open a source without listing it.

    ``s3_endpoint_url`` is an S3-compatible endpoint; None means AWS. ``open_table`` opens an adopted table by its spec.

    Raises:
        SourceError: the spec is none of the forms, or its folder, package or adopted table does not exist.
    """
    if spec.startswith(FILE):
        return FolderSource(spec)
    if spec.startswith(S3):
        return S3Source(spec, endpoint_url=s3_endpoint_url)
    if spec.startswith(PYDOCS):
        return PyDocsSource(spec)
    if spec.startswith(TABLE) and open_table:
        return AdoptedTable(spec, open_table(spec))
    raise SourceError(f"unknown source {spec!r}; {FORMS}")
