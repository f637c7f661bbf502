"""What was asked about a document, read for people: its chunks with the questions kept and those dropped."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import LiteralString, NamedTuple, TypeVar

from psycopg import sql
from psycopg.rows import class_row

from heal_tasks.core.errors import StoreError
from heal_tasks.core.types import Question
from heal_tasks.store.db import Connection
from heal_tasks.store.questions.questions import Dropped

T = TypeVar("T", Question, Dropped)


class AskedDocument(NamedTuple):
    """A document that is not deleted; ``duplicate_of`` stands for it where its text is exactly that one's."""

    document_id: int
    title: str
    source: str
    path: str
    duplicate_of: int | None


class AskedMap(NamedTuple):
    """An entity map of a chunk, as JSON; ``status`` says whether training uses it."""

    chunk_id: int
    model: str
    status: str
    map: str


@dataclass(frozen=True, slots=True)
class AskedChunk:
    """A live chunk with what was asked about it.

    Args:
        chunk_id: the chunk.
        number: its place in the document, from 1.
        text: its text.
        writers: how often questions were written for it; 0 where none were asked for yet.
        questions: those kept.
        dropped: how many the filters refused.
        samples: those of them that were stored.
        maps: its entity maps, the newest last.
    """

    chunk_id: int
    number: int
    text: str
    writers: int
    questions: Sequence[Question]
    dropped: int
    samples: Sequence[Dropped]
    maps: Sequence[AskedMap]


def asked_document(conn: Connection, document_id: int) -> AskedDocument:
    """Find a document.

    Args:
        conn: an open connection.
        document_id: which.

    Returns:
        The document.

    Raises:
        StoreError: there is no such document, or it was deleted.
    """
    row = conn.execute(
        "SELECT document_id, title, source, path, duplicate_of, deleted_at FROM heal.document WHERE document_id = %s",
        (document_id,),
    ).fetchone()
    if row is None:
        raise StoreError(
            f"there is no document {document_id}; SELECT document_id, title FROM heal.document lists them, and "
            "`python -m heal_tasks search` prints ids"
        )
    deleted_at: datetime | None = row[-1]
    if deleted_at is not None:
        raise StoreError(
            f"document {document_id} was deleted on {deleted_at.astimezone():%Y-%m-%d %H:%M}, and its questions with it"
        )
    return AskedDocument._make(row[:-1])


def document_of_chunk(conn: Connection, chunk_id: int) -> int:
    """The document of a live chunk.

    Raises:
        StoreError: there is no such chunk, or a later version of its document has taken its place.
    """
    row = conn.execute("SELECT document_id, superseded_at FROM heal.chunk WHERE chunk_id = %s", (chunk_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no chunk {chunk_id}; `python -m heal_tasks questions --document ID` prints ids")
    if row[1] is not None:
        raise StoreError(
            f"chunk {chunk_id} is not in the newest version of document {row[0]}; `python -m heal_tasks questions "
            f"--document {row[0]}` prints the chunks that are"
        )
    return int(row[0])


def asked_chunks(conn: Connection, document_id: int) -> list[AskedChunk]:
    """A document's live chunks, in order, with the questions and entity maps that were asked for.

    Args:
        conn: an open connection.
        document_id: whose.

    Returns:
        The chunks.
    """
    chunks = conn.execute(
        "SELECT c.chunk_id, c.text, count(a.chunk_id), coalesce(sum(a.dropped), 0) "
        "+ (SELECT count(*) FROM heal.question q WHERE q.chunk_id = c.chunk_id AND q.dropped_by IS NOT NULL) "
        "FROM heal.chunk c LEFT JOIN heal.chunk_asked a USING (chunk_id) "
        "WHERE c.document_id = %s AND c.superseded_at IS NULL GROUP BY c.chunk_id ORDER BY c.ordinal",
        (document_id,),
    ).fetchall()
    ids = [row[0] for row in chunks]
    questions = _rows(conn, Question, "question", "created_at, kind, question_id", ids, "dropped_by IS NULL")
    samples = _rows(conn, Dropped, "question_dropped", "dropped_id", ids)
    maps = conn.execute(
        "SELECT chunk_id, model, status, map::text FROM heal.entity_map WHERE chunk_id = ANY(%s) ORDER BY mapped_at",
        (ids,),
    ).fetchall()
    return [
        AskedChunk(
            chunk_id, number, text, writers, [item for item in questions if item.chunk_id == chunk_id], int(dropped),
            [item for item in samples if item.chunk_id == chunk_id],
            [AskedMap._make(row) for row in maps if row[0] == chunk_id],
        )
        for number, (chunk_id, text, writers, dropped) in enumerate(chunks, start=1)
    ]  # fmt: skip


def latest_dropped(conn: Connection, limit: int) -> list[tuple[int, Dropped]]:
    """Questions that the filters refused last, with their documents' ids.

    Args:
        conn: an open connection.
        limit: most to return.

    Returns:
        Document id and question, newest first.
    """
    rows = conn.execute(
        sql.SQL(
            "SELECT c.document_id, {} FROM heal.question_dropped q JOIN heal.chunk c USING (chunk_id) "
            "ORDER BY dropped_id DESC LIMIT %s"
        ).format(sql.SQL(", ").join(sql.Identifier("q", item.name) for item in fields(Dropped))),
        (limit,),
    ).fetchall()
    return [(row[0], Dropped(*row[1:])) for row in rows]


def _rows(
    conn: Connection, record: type[T], table: str, order: str, ids: list[int], condition: LiteralString = "true"
) -> list[T]:
    query = sql.SQL("SELECT {} FROM heal.{} WHERE chunk_id = ANY(%s) AND {} ORDER BY {}").format(
        sql.SQL(", ").join(sql.Identifier(item.name) for item in fields(record)),
        sql.Identifier(table),
        sql.SQL(condition),
        sql.SQL(", ").join(sql.Identifier(name) for name in order.split(", ")),
    )
    return conn.cursor(row_factory=class_row(record)).execute(query, (ids,)).fetchall()
