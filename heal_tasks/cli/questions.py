"""View of questions: those of a document with answer, evidence and entity maps, dropped ones, and counts."""

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
            _print_counts(conn, console, dropped)
        else:
            _print_document(conn, console, document_id, chunk_id, dropped)


def _print_counts(conn: Connection, console: Console, dropped: bool) -> None:
    table = Table("writer", "kind", "split", "questions")
    table.columns[-1].justify = "right"
    counts = QuestionRepository(conn).counts()
    for writer, kind, split, number in counts:
        table.add_row(writer, kind, split, str(number))
    if counts:
        console.print(table)
    else:
        print_line(console, "there are no questions yet; run the heal_realign DAG, or `python -m heal_tasks run`")
    if not dropped:
        return
    latest = latest_dropped(conn, LATEST)
    print_line(console, "dropped last:" if latest else "nothing dropped is stored")
    for document, item in latest:
        _print_dropped(console, item, f"document {document}, ")


def _print_document(conn: Connection, console: Console, document_id: int, chunk_id: int | None, dropped: bool) -> None:
    document = document_view(conn, document_id)
    print_line(
        console, f"document {document_id}: {document.title or '(no title)'} ({document.source}, {document.path})"
    )
    if document.duplicate_of is not None:
        print_line(console, f"has the same text as document {document.duplicate_of}, whose questions stand for both:")
        document_id = document.duplicate_of
    chunks = chunk_views(conn, document_id)
    for chunk in chunks:
        if chunk_id in (None, chunk.chunk_id):
            _print_chunk(console, chunk, len(chunks), dropped)


def _print_chunk(console: Console, chunk: ChunkView, chunks: int, dropped: bool) -> None:
    text = " ".join(chunk.text.split())
    print_line(
        console,
        f"\nchunk {chunk.chunk_id} ({chunk.number} of {chunks}): {text[:TEXT_CHARS]}{'…' * (len(text) > TEXT_CHARS)}",
    )
    for item in chunk.questions:
        _print_kept(console, item)
    if not chunk.questions:
        print_line(console, "  no questions" + ("" if chunk.writers else "; none were asked for yet"))
    for found in chunk.maps:
        print_line(console, f"  entity map by {found.model}, {found.status}:")
        for line in render(parse_map(found.map)).splitlines():
            print_line(console, f"    {line}")
    if not dropped:
        return
    if chunk.dropped:
        shown = "" if len(chunk.samples) == chunk.dropped else f"; {len(chunk.samples)} of them stored"
        print_line(console, f"  {chunk.dropped} dropped{shown}")
    for sample in chunk.samples:
        _print_dropped(console, sample)


def _print_kept(console: Console, item: Question) -> None:
    model = f" ({item.model})" if item.model else ""
    print_line(console, f"  {item.kind} by {item.writer}{model}, {item.split}: {item.text}")
    for name in ("answer", "evidence"):
        if value := getattr(item, name):
            print_line(console, f"    {name}: {value}")


def _print_dropped(console: Console, item: Dropped, where: str = "") -> None:
    print_line(console, f"  dropped by filter {item.reason}: {where}{item.kind} by {item.writer}: {item.text}")
    if item.evidence:
        print_line(console, f"    evidence: {item.evidence}")
