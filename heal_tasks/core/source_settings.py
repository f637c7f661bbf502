"""The settings of sources, and the tables of ``sources.toml`` that they name."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.source_tables import SourceTable, read_source_tables
from heal_tasks.core.specs import SOURCE, check_spec, split_specs
from heal_tasks.core.text import nearest_name

NO_SOURCE = "no source is defined: sources.toml has no table; write one, or set HEAL_SOURCES"

# fmt: off


class SourceSettings(BaseModel):
    """Sources.

    A source's spelling is part of its documents' ids: `s3://b/x` and `s3://b/x/` are two sources. A source that is
    taken out of the list keeps its documents. S3 credentials and region are boto3's own (`AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION`) or those of an Airflow connection. A change of language or chunk
    length reaches a document when its file changes next, or with `python -m heal_tasks ingest --again`. A source with
    blanks in its name is put in double quotes: `HEAL_SOURCES='"file:/data/My Folder" s3://bucket/prefix'`.
    [sources.md](sources.md) has the other kinds of source, and what else a table of `sources.toml` can say.
    `HEAL_SOURCE_ROOTS` bounds what the trigger form may read with the rights of the workers.
    """

    sources: Annotated[tuple[str, ...], NoDecode] = Field((),
        description="Blank-separated `file:FOLDER`, `s3://BUCKET/PREFIX`, `pydocs:PACKAGE,PACKAGE`, `source:NAME` (a "
        "table of `sources.toml`), `table:SCHEMA.TABLE` (adopted); unset: all tables of that file, or else the inbox.")
    sources_file: Path | None = Field(None,
        description="File with a table per source, see sources.md; unset: `sources.toml` in the working folder.")
    source_roots: Annotated[tuple[str, ...], NoDecode] = Field((),
        description="Folders, prefixes and packages that every source must lie in, written like `HEAL_SOURCES` "
        "(`pydocs:`, `source:` and `table:` alone for all of a kind); unset: `HEAL_SOURCES`, the tables of "
        "`sources.toml`, the inbox and `pydocs:`.")
    s3_endpoint_url: str | None = Field(None, description="URL of an S3-compatible endpoint; unset: AWS.")
    max_file_mb: float = Field(64.0, gt=0, description="Largest source file in MiB; larger ones are quarantined.")
    max_rejected_share: float = Field(0.2, ge=0, le=1,
        description="Share of a source's records that may be rejected before `ingest` stops; ten never stop it.")
    max_deleted_share: float = Field(0.5, ge=0, le=1,
        description="Share of a source's documents that may vanish in one run before `ingest` stops.")
    sample_documents: int = Field(0, ge=0, description="Documents per source, chosen by hash, deleting none; 0: all.")
    text_language: str = Field("english", pattern=r"^\w{1,63}(\.\w{1,63})?$",
        description="Text search configuration (psql: `\\dF`) of documents whose metadata has no `language` or `lang`.")
    chunk_tokens: int = Field(240, ge=16,
        description="Longest chunk, title included, in tokens of the model, which cuts off longer ones.")
    chunk_overlap: int = Field(0, ge=0, le=256, description="Most tokens that a chunk repeats of the one before.")

    # fmt: on

    @field_validator("sources", "source_roots", mode="before")
    @classmethod
    def _split_sources(cls, value: Any) -> Any:
        sources = split_specs(value) if isinstance(value, str) else value
        for source in sources:
            check_spec(source)
        return sources

    @cached_property
    def source_tables(self) -> dict[str, SourceTable]:
        """The tables of ``sources.toml`` by name; SettingsError for one that is wrong."""
        return read_source_tables(self.sources_file) if self.sources_file else {}

    def place_of(self, source: str) -> str:
        """The folder, prefix or packages of a source as a spec; of other kinds the source itself.

        Raises:
            SettingsError: there is no such table.
        """
        if not source.startswith(SOURCE):
            return source
        name, tables = source.removeprefix(SOURCE), self.source_tables
        if name not in tables:
            meant = nearest_name(name, tables)
            cure = f"did you mean {SOURCE}{meant}? " if meant else ""
            where = f"{self.sources_file} has the tables {', '.join(tables)}" if tables else "there is no sources.toml"
            raise SettingsError(f"source {source!r} is no table of the deployment's sources; {cure}{where}")
        return tables[name].spec
