"""Command that shows questions: those of a document with answer, evidence and entity maps, dropped ones, counts."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Column, Table

from heal_tasks.cli.base import app, console, print_line, settings_for_command
from heal_tasks.core.errors import StoreError
from heal_tasks.questions.maps.map_prompt import parse_map
from heal_tasks.questions.maps.rendering import render
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.questions import question_views as views
from heal_tasks.store.questions.questions import Dropped, QuestionRepository

TEXT_CHARS = 200
LATEST = 20


@app.command()
def questions(
    document: Annotated[int | None, typer.Option(help="document_id, from heal.document; all if left out.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Only this chunk; its document need not be named.")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="Also the questions that the filters dropped.")] = False,
) -> None:
    """Print a document's questions with answer and evidence, chunk by chunk; or counts by writer, kind and split."""
    with connect(settings_for_command().require_database_url(), autocommit=True) as conn:
        if chunk is not None:
            owner = views.document_of_chunk(conn, chunk)
            if document not in (None, owner):
                raise StoreError(f"chunk {chunk} is of document {owner}, not of {document}; leave --document out")
            document = owner
        if document is not None:
            print_line("\n".join(document_lines(conn, document, chunk, dropped)))
            return
        table = Table("writer", "kind", "split", Column("questions", justify="right"))
        for writer, kind, split, number in QuestionRepository(conn).counts():
            table.add_row(writer, kind, split, str(number))
        if table.row_count:
            console.print(table)
        else:
            print_line("there are no questions yet; run the heal_realign DAG, or `python -m heal_tasks run`")
        if dropped:
            latest = views.latest_dropped(conn, LATEST)
            print_line("dropped last:" if latest else "nothing dropped is stored")
            for document, item in latest:
                print_line("\n".join(_dropped_lines(item, f"document {document}, ")))


def document_lines(conn: Connection, document_id: int, chunk_id: int | None, dropped: bool) -> Iterator[str]:
    """The questions of a document, or only of one of its chunks, with the dropped ones on demand."""
    document = views.document_view(conn, document_id)
    yield f"document {document_id}: {document.title or '(no title)'} ({document.source}, {document.path})"
    if document.duplicate_of is not None:
        yield f"has the same text as document {document.duplicate_of}, whose questions count for both:"
        document_id = document.duplicate_of
    chunks = views.chunk_views(conn, document_id)
    for chunk in chunks:
        if chunk_id in (None, chunk.chunk_id):
            yield from _chunk_lines(chunk, len(chunks), dropped)


def _chunk_lines(chunk: views.ChunkView, chunks: int, dropped: bool) -> Iterator[str]:
    text = " ".join(chunk.text.split())
    short = text[:TEXT_CHARS] + "…" * (len(text) > TEXT_CHARS)
    yield f"\nchunk {chunk.chunk_id} ({chunk.number} of {chunks}): {short}"
    for item in chunk.questions:
        model = f" ({item.model})" if item.model else ""
        yield f"  {item.kind} by {item.writer}{model}, {item.split}: {item.text}"
        if item.answer:
            yield f"    answer: {item.answer}"
        if item.evidence:
            yield f"    evidence: {item.evidence}"
    if not chunk.questions:
        yield "  no questions" + ("" if chunk.writers else "; none were asked for yet")
    for found in chunk.maps:
        yield f"  entity map by {found.model}, {found.status}:"
        yield from (f"    {line}" for line in render(parse_map(found.map)).splitlines())
    if dropped and chunk.dropped:
        stored = "" if len(chunk.samples) == chunk.dropped else f"; {len(chunk.samples)} of them stored"
        yield f"  {chunk.dropped} dropped{stored}"
        for sample in chunk.samples:
            yield from _dropped_lines(sample)


def _dropped_lines(item: Dropped, where: str = "") -> Iterator[str]:
    yield f"  dropped by filter {item.reason}: {where}{item.kind} by {item.writer}: {item.text}"
    if item.evidence:
        yield f"    evidence: {item.evidence}"
