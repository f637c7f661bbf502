"""The chunks of a document with the questions kept and dropped and the entity maps, for display."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar

from heal_tasks.core.errors import StoreError
from heal_tasks.core.types import Question
from heal_tasks.store.db import Connection, find, select
from heal_tasks.store.questions.questions import Dropped


class DocumentView(NamedTuple):
    """A document; ``duplicate_of`` is the canonical document of an exact duplicate."""

    document_id: int
    title: str
    source: str
    path: str
    duplicate_of: int | None
    deleted_at: datetime | None


class MapView(NamedTuple):
    """An entity map of a chunk, as JSON; ``status`` says whether training uses it."""

    chunk_id: int
    model: str
    status: str
    map: str


T = TypeVar("T", Question, Dropped, MapView)


@dataclass(frozen=True, slots=True)
class ChunkView:
    """A live chunk with its questions and entity maps."""

    chunk_id: int
    number: int  # its place in the document, from 1
    text: str
    writers: int  # number of writers who wrote questions for it; 0 if none has yet
    questions: Sequence[Question]
    dropped: int  # number of questions that the filters dropped
    samples: Sequence[Dropped]  # the dropped questions that were stored
    maps: Sequence[MapView]  # its entity maps, the newest last


def document_view(conn: Connection, document_id: int) -> DocumentView:
    """Find a document; StoreError if there is none, or it was deleted."""
    document = find(conn, DocumentView, "FROM heal.document WHERE document_id = %s", (document_id,))
    if document is None:
        raise StoreError(
            f"there is no document {document_id}; SELECT document_id, title FROM heal.document lists them, and "
            "`python -m heal_tasks search` prints ids"
        )
    if document.deleted_at is not None:
        when = document.deleted_at.astimezone()
        raise StoreError(f"document {document_id} was deleted on {when:%Y-%m-%d %H:%M}, and its questions with it")
    return document


def document_of_chunk(conn: Connection, chunk_id: int) -> int:
    """The document of a live chunk; StoreError if there is none, or it is superseded."""
    row = conn.execute("SELECT document_id, superseded_at FROM heal.chunk WHERE chunk_id = %s", (chunk_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no chunk {chunk_id}; `python -m heal_tasks questions --document ID` prints ids")
    if row[1] is not None:
        raise StoreError(
            f"chunk {chunk_id} is not in the newest version of document {row[0]}; `python -m heal_tasks questions "
            f"--document {row[0]}` prints the chunks that are"
        )
    return int(row[0])


def chunk_views(conn: Connection, document_id: int) -> list[ChunkView]:
    """A document's live chunks, in order, with their questions and entity maps."""
    chunks = conn.execute(
        "SELECT c.chunk_id, c.text, count(a.chunk_id), coalesce(sum(a.dropped), 0) "
        "+ (SELECT count(*) FROM heal.question q WHERE q.chunk_id = c.chunk_id AND q.dropped_by IS NOT NULL) "
        "FROM heal.chunk c LEFT JOIN heal.chunk_asked a USING (chunk_id) "
        "WHERE c.document_id = %s AND c.superseded_at IS NULL GROUP BY c.chunk_id ORDER BY c.ordinal",
        (document_id,),
    ).fetchall()
    ids = [row[0] for row in chunks]
    rest = "FROM heal.question WHERE chunk_id = ANY(%s) AND dropped_by IS NULL ORDER BY created_at, kind, question_id"
    questions = _by_chunk(select(conn, Question, rest, (ids,)))
    rest = "FROM heal.question_dropped WHERE chunk_id = ANY(%s) ORDER BY dropped_id"
    samples = _by_chunk(select(conn, Dropped, rest, (ids,)))
    rows = conn.execute(
        "SELECT chunk_id, model, status, map::text FROM heal.entity_map WHERE chunk_id = ANY(%s) ORDER BY mapped_at",
        (ids,),
    )
    maps = _by_chunk([MapView._make(row) for row in rows])
    return [
        ChunkView(
            key, number, text, writers, questions.get(key, []), int(dropped), samples.get(key, []), maps.get(key, [])
        )
        for number, (key, text, writers, dropped) in enumerate(chunks, start=1)
    ]


def _by_chunk(rows: Sequence[T]) -> dict[int, list[T]]:
    found: dict[int, list[T]] = {}
    for row in rows:
        found.setdefault(row.chunk_id, []).append(row)
    return found


def latest_dropped(conn: Connection, limit: int) -> list[tuple[int, Dropped]]:
    """The questions that the filters dropped last, newest first, each after its document's id."""
    rows = conn.execute(
        "SELECT c.document_id, q.chunk_id, q.text, q.answer, q.evidence, q.kind, q.writer, q.reason "
        "FROM heal.question_dropped q JOIN heal.chunk c USING (chunk_id) ORDER BY q.dropped_id DESC LIMIT %s",
        (limit,),
    ).fetchall()
    return [(row[0], Dropped(*row[1:])) for row in rows]
