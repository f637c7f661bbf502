"""The protocol of a source, and opening one by its spec."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from heal_tasks.core.errors import SourceError
from heal_tasks.core.source_tables import Rule, SourceTable
from heal_tasks.core.specs import FILE, FORMS, PYDOCS, S3, SOURCE, TABLE
from heal_tasks.core.types import SourceFile
from heal_tasks.sources.adopted_table import AdoptedTable, TableRows
from heal_tasks.sources.files import FolderSource
from heal_tasks.sources.patterns import is_chosen
from heal_tasks.sources.pydocs import PyDocsSource
from heal_tasks.sources.registry import open_table
from heal_tasks.sources.s3 import S3Source


class Source(Protocol):
    """A place that documents come from: it lists files and reads their bytes."""

    def list_files(self) -> Iterator[SourceFile]:
        """List every file that is not hidden and not still being written, sorted by path, unknown kinds included.

        A file that is there but cannot be a document, such as a link that leads away, comes with ``left_out``. The
        documents of a file that was listed before and is not any more are deleted.

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


@runtime_checkable
class ConditionalSource(Protocol):
    """A source that asks a server file by file whether it has changed since the version that is known."""

    def list_since(self, known: Mapping[str, str]) -> Iterator[SourceFile]:
        """List as ``list_files`` does; ``known`` has the fingerprints of the last run by path."""


@dataclass(frozen=True)
class OpenSource:
    """A source under its name, with what its table says about its files and documents.

    ``name`` is the spec it was opened with. It is part of every document id, so another spelling of the same source
    makes its documents new ones.
    """

    name: str
    source: Source
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rule: Rule = field(default_factory=Rule)

    def list_files(self, known: Mapping[str, str] | None = None) -> Iterator[SourceFile]:
        """List the files that the patterns choose; see ``Source``, and ``ConditionalSource`` for ``known``.

        The rule is a part of every fingerprint, so that all files are read again after a change of it.
        """
        mark = f" rule={version}" if (version := self.rule.version()) else ""
        if isinstance(self.source, ConditionalSource):
            known = {path: text.removesuffix(mark) for path, text in (known or {}).items() if text.endswith(mark)}
            files = self.source.list_since(known)
        else:
            files = self.source.list_files()
        for file in files:
            if is_chosen(file.path, self.include, self.exclude):
                yield replace(file, fingerprint=file.fingerprint + mark) if mark and not file.left_out else file

    def read(self, file: SourceFile, limit: int) -> bytes:
        """See ``Source``."""
        return self.source.read(file, limit)


def open_source(
    spec: str,
    *,
    s3_endpoint_url: str | None,
    tables: Mapping[str, SourceTable] | None = None,
    open_adopted: Callable[[str], TableRows] | None = None,
) -> OpenSource:
    """Open a source without listing it.

    Args:
        spec: as in ``HEAL_SOURCES``.
        s3_endpoint_url: an S3-compatible endpoint; None means AWS.
        tables: of ``sources.toml``, by name.
        open_adopted: opens an adopted table by its spec.

    Raises:
        SourceError: the spec has none of the forms, or its folder, package or table does not exist.
        SettingsError: a table is wrong.
    """
    if spec.startswith(FILE):
        return OpenSource(spec, FolderSource(spec))
    if spec.startswith(S3):
        return OpenSource(spec, S3Source(spec, endpoint_url=s3_endpoint_url))
    if spec.startswith(PYDOCS):
        return OpenSource(spec, PyDocsSource(spec))
    if spec.startswith(TABLE) and open_adopted:
        return OpenSource(spec, AdoptedTable(spec, open_adopted(spec)))
    table = (tables or {}).get(spec.removeprefix(SOURCE)) if spec.startswith(SOURCE) else None
    if table is None:
        raise SourceError(f"unknown source {spec!r}; {FORMS}")
    return OpenSource(spec, open_table(table, s3_endpoint_url), table.include, table.exclude, table.rule)
