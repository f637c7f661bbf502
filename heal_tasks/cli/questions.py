"""View of questions: those of a document with answer, evidence and entity maps, dropped ones, and counts."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from heal_tasks.cli.console import print_line
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question
from heal_tasks.questions.maps.rendering import render
from heal_tasks.questions.maps.replies import parse_map
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.questions.question_views import (
    ChunkView,
    chunk_views,
    document_of_chunk,
    document_view,
    latest_dropped,
)
from heal_tasks.store.questions.questions import Dropped, QuestionRepository

TEXT_CHARS = 200
LATEST = 20


def print_questions(
    settings: Settings,
    console: Console,
    *,
    document_id: int | None = None,
    chunk_id: int | None = None,
    dropped: bool = False,
) -> None:
    """Print the questions of a document or chunk; without either, their number by writer, kind and split.

    Args:
        settings: database.
        console: receives the text.
        document_id: all chunks of this document.
        chunk_id: only this chunk.
        dropped: print dropped questions with the filter, too.

    Raises:
        StoreError: there is no such document or chunk, or the chunk is another document's.
    """
    with connect(settings.require_database_url(), autocommit=True) as conn:
        if chunk_id is not None:
            owner = document_of_chunk(conn, chunk_id)
            if document_id not in (None, owner):
                raise StoreError(f"chunk {chunk_id} is of document {owner}, not of {document_id}; leave --document out")
            document_id = owner
        if document_id is None:
            _print_counts(conn, console)
            lines = _latest_dropped(conn) if dropped else ()
        else:
            lines = _document_lines(conn, document_id, chunk_id, dropped)
        for line in lines:
            print_line(console, line)


def _print_counts(conn: Connection, console: Console) -> None:
    table = Table("writer", "kind", "split", "questions")
    table.columns[-1].justify = "right"
    for writer, kind, split, number in QuestionRepository(conn).counts():
        table.add_row(writer, kind, split, str(number))
    if table.row_count:
        console.print(table)
    else:
        print_line(console, "there are no questions yet; run the heal_realign DAG, or `python -m heal_tasks run`")


def _latest_dropped(conn: Connection) -> Iterator[str]:
    latest = latest_dropped(conn, LATEST)
    yield "dropped last:" if latest else "nothing dropped is stored"
    for document, item in latest:
        yield from _dropped_lines(item, f"document {document}, ")


def _document_lines(conn: Connection, document_id: int, chunk_id: int | None, dropped: bool) -> Iterator[str]:
    document = document_view(conn, document_id)
    yield f"document {document_id}: {document.title or '(no title)'} ({document.source}, {document.path})"
    if document.duplicate_of is not None:
        yield f"has the same text as document {document.duplicate_of}, whose questions count for both:"
        document_id = document.duplicate_of
    chunks = chunk_views(conn, document_id)
    for chunk in chunks:
        if chunk_id in (None, chunk.chunk_id):
            yield from _chunk_lines(chunk, len(chunks), dropped)


def _chunk_lines(chunk: ChunkView, chunks: int, dropped: bool) -> Iterator[str]:
    text = " ".join(chunk.text.split())
    short = text[:TEXT_CHARS] + "…" * (len(text) > TEXT_CHARS)
    yield f"\nchunk {chunk.chunk_id} ({chunk.number} of {chunks}): {short}"
    for item in chunk.questions:
        yield from _question_lines(item)
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


def _question_lines(item: Question) -> Iterator[str]:
    model = f" ({item.model})" if item.model else ""
    yield f"  {item.kind} by {item.writer}{model}, {item.split}: {item.text}"
    for name, value in (("answer", item.answer), ("evidence", item.evidence)):
        if value:
            yield f"    {name}: {value}"


def _dropped_lines(item: Dropped, where: str = "") -> Iterator[str]:
    yield f"  dropped by filter {item.reason}: {where}{item.kind} by {item.writer}: {item.text}"
    if item.evidence:
        yield f"    evidence: {item.evidence}"
