"""Judgments, human questions with the documents that answer them: import from a file, list, removal."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from rich.table import Table
from typer.core import TyperGroup

from heal_tasks.cli.base import app, console, print_line, settings_for_command
from heal_tasks.core.errors import InputError
from heal_tasks.core.ids import stable_id
from heal_tasks.core.source_settings import NO_SOURCE
from heal_tasks.core.types import Rejected, Split
from heal_tasks.questions.splits import Purpose, judgment_split, purpose_of
from heal_tasks.sources.csv_rows import csv_rows
from heal_tasks.sources.json_rows import json_rows, jsonl_rows
from heal_tasks.sources.records import external_id_of, is_visible, storage_problem
from heal_tasks.sources.table_rows import Columns, RowReader
from heal_tasks.store.db import connect
from heal_tasks.store.questions.questions import QuestionRepository

SHOWN = 10
MAX_QUERY_CHARS = 2000
"""A longer one is a document; the encoder reads a few hundred tokens."""
MAX_LINE_CHARS = 100_000

READERS: dict[str, RowReader] = {".json": json_rows, ".csv": csv_rows, ".tsv": csv_rows}
"""Every other suffix is read as JSON Lines."""
COLUMNS = Columns((("query",), ("document",)), ("split",), ids="document")


def _usable(text: str) -> str:
    if (problem := storage_problem(text)) is not None:
        raise ValueError(problem)
    if not is_visible(text):
        raise ValueError("is empty")
    return text


class Judgment(BaseModel, extra="forbid", str_strip_whitespace=True):
    """One line of the file: a query, a document that answers it, and optionally the query's split."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS), AfterValidator(_usable)]
    document: Annotated[str, BeforeValidator(external_id_of), AfterValidator(_usable)]
    split: Purpose | None = None


class _ImportByDefault(TyperGroup):
    """The commands below ``judgments``; ``judgments FILE`` imports the file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``import`` before arguments that name no command."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["import", *args]
        return super().parse_args(ctx, args)


judgments_app = typer.Typer(
    cls=_ImportByDefault, no_args_is_help=True, help="Import human questions from a file, list or remove them."
)
app.add_typer(judgments_app, name="judgments")


@judgments_app.command("import")
def judgments(
    file: Annotated[
        Path,
        typer.Argument(
            help='JSON Lines: {"query": ..., "document": id in its source, "split": train|test}; or JSON, CSV, TSV.'
        ),
    ],
    source: Annotated[str | None, typer.Option(help="The documents' source; needed where there are several.")] = None,
) -> None:
    """Import human questions with the documents that answer them; valid lines are stored although others are not."""
    settings = settings_for_command()
    if source is None and len(settings.sources) > 1:
        raise InputError(
            f"HEAL_SOURCES has several; name the documents' source by --source, one of {', '.join(settings.sources)}"
        )
    if not settings.sources:
        raise InputError(NO_SOURCE)
    source = source or settings.sources[0]
    if source not in settings.sources:
        raise InputError(f"source {source!r} is not in HEAL_SOURCES ({' '.join(settings.sources)})")
    given, bad = _read(file)
    if not given and not bad:
        raise InputError(f"{file} has no line")
    lines = len(given) + len(bad)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        repository = QuestionRepository(conn)
        purposes: dict[str, Purpose] = {query: purpose_of(split) for query, _, _, split in repository.judgments()}
        pairs = list(_of_one_split(given, purposes, bad))

        def split_of(document_id: int, query: str) -> Split:
            return judgment_split(document_id, stable_id(query), purposes.get(query))

        stored, missing = repository.import_judgments(source, pairs, split_of)
    print_line(f"{stored} new judgments of {len(pairs)}; the next run embeds their queries")
    refused = list[str]()
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        refused.append(f"{len(bad)} invalid lines: {'; '.join(bad[:SHOWN])}{more}")
    if missing:
        more = f", and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        refused.append(
            f"{len(missing)} documents are not in {source} (ingest them first): {', '.join(missing[:SHOWN])}{more}"
        )
    if refused:
        unknown = set(missing)
        usable = sum(document not in unknown for _, document in pairs)
        raise InputError(f"{usable} of {lines} lines were taken, the others refused: {'; '.join(refused)}")


@judgments_app.command("list")
def list_judgments(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines, as they are imported.")] = False,
) -> None:
    """Print all judgments."""
    table = Table("query", "document", "source", "split")
    with connect(settings_for_command().require_database_url(), autocommit=True) as conn:
        for query, document, source, split in QuestionRepository(conn).judgments():
            if as_json:
                typer.echo(json.dumps({"query": query, "document": document, "split": purpose_of(split)}))
            table.add_row(query, document, source, split)
    if not as_json:
        if table.row_count:
            console.print(table)
        else:
            print_line("there are no judgments; `python -m heal_tasks judgments FILE` imports some")


@judgments_app.command("remove")
def remove(
    query: Annotated[str, typer.Argument(help="The question, as `judgments list` prints it.")] = "",
    document: Annotated[str | None, typer.Option(help="Only with this document: its id in its source.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all judgments.")] = False,
) -> None:
    """Remove a human question; the next run takes back what it moved."""
    query = query.strip()  # both as they are imported
    try:
        document = None if document is None else external_id_of(document)
    except ValueError as error:
        raise InputError(f"--document {error}") from None
    if bool(query) is everything:
        raise InputError("name a question, or give --all")
    with connect(settings_for_command().require_database_url(), autocommit=True) as conn:
        removed = QuestionRepository(conn).remove_judgments(None if everything else query, document)
    if not removed:
        raise InputError("there is no such judgment; `python -m heal_tasks judgments list` prints all")
    print_line(f"{removed} judgments removed")


def _of_one_split(
    given: list[tuple[str, Judgment]], purposes: dict[str, Purpose], bad: list[str]
) -> Iterator[tuple[str, str]]:
    """Query and document of each judgment that leaves its query in one split: a query trains or tests, never both.

    ``purposes``, of the queries that are stored, receives those of the others; ``bad`` a message per refused line.
    """
    for place, item in given:
        if item.split and purposes.setdefault(item.query, item.split) != item.split:
            bad.append(
                f"{place}: split: {item.split}, but the query is for {purposes[item.query]} already; give all its "
                "documents one split, or remove the query first (judgments remove)"
            )
        else:
            yield item.query, item.document


def _read(path: Path) -> tuple[list[tuple[str, Judgment]], list[str]]:
    """The judgments of a file, which gzip may have compressed, with their places, and one message per wrong line."""
    good, bad = [], []
    compressed = path.suffix.lower() == ".gz"
    kind = Path(path.stem if compressed else path.name).suffix.lower()
    try:
        data = gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
        rows = list(READERS.get(kind, jsonl_rows)(str(path), data, COLUMNS, MAX_LINE_CHARS))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for row in rows:
        if isinstance(row, Rejected):
            bad.append(f"{path}:{row.line}: {row.reason}")
            continue
        try:
            good.append((f"{path}:{row.line}", Judgment.model_validate(row.values)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = "".join(f" {part}:" for part in first["loc"])
            bad.append(f"{path}:{row.line}:{where} {first['msg']}")
    return good, bad
