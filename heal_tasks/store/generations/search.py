"""The search functions of SQL users, called from Python."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from heal_tasks.core.errors import HealError, InputError, StoreError
from heal_tasks.core.text import storable
from heal_tasks.store.db import Connection, select, storable_json

Vector = Iterable[float]


class NotSearchable(StoreError):  # noqa: N818 - names the state of the generation
    """The generation is not active or previous (any more): load the active one's encoder and encode again."""


class Hit(NamedTuple):
    """One found chunk; a smaller distance is nearer."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    distance: float
    generation_id: int


class HybridHit(NamedTuple):
    """One chunk found by words (word_rank), by vector (vector_rank) or by both; a larger score is better."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    score: float
    distance: float
    vector_rank: int | None
    word_rank: int | None
    relevance: float | None
    generation_id: int


class TextHit(NamedTuple):
    """One chunk found by text; a larger score is better.

    ``relevance`` is the probability that it answers; None if the generation has no curve of it.
    """

    chunk_id: int
    document_id: int
    title: str
    text: str
    score: float
    distance: float
    relevance: float | None
    generation_id: int


@contextmanager
def named_errors() -> Iterator[None]:
    """Raise the errors that ``api.sql`` names as this project's own, with their hints."""
    try:
        yield
    except psycopg.DatabaseError as error:
        code = error.sqlstate or ""
        if not code.startswith("HEA"):
            raise
        kinds: dict[str, type[HealError]] = {"HEA01": NotSearchable, "HEA03": InputError}
        raise kinds.get(code, StoreError)(
            f"{error.diag.message_primary} ({code}). {error.diag.message_hint or ''}".strip()
        ) from error


@contextmanager
def reading_as(conn: Connection, principals: Sequence[str] | None) -> Iterator[Connection]:
    """Search in the block as somebody with these principals; None: as the connection's own session.

    The setting ends with the transaction, so that nobody who gets the connection next reads as somebody else.

    Raises:
        InputError: principals are one text, whose letters would be the principals.
    """
    if principals is None:
        yield conn
        return
    if isinstance(principals, str):
        raise InputError(f"principals must be a list of texts, got the text {principals[:80]!r}")
    with conn.transaction():
        names = [storable(name) for name in principals]
        conn.execute("SELECT set_config('heal.principals', %s::text[]::text, true)", (names,))
        yield conn


@named_errors()
def search(
    conn: Connection,
    vector: Vector,
    generation_id: int,
    k: int = 10,
    topic: int | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - the name of the SQL function's argument
) -> list[Hit]:
    """The k (1 to 1000) chunks nearest to a query vector, nearest first.

    The vector, float32, shape (d,), is made by the encoder of that generation. ``topic`` limits the search to a topic's
    subtree, ``filter`` to documents whose metadata contain it.

    Raises:
        NotSearchable: the generation is neither active nor previous.
        StoreError: the vector has another dimension, or no length.
        InputError: k, topic or filter is wrong.
    """
    values = (_text(vector), generation_id, k, topic, _jsonb(filter))
    return select(conn, Hit, "FROM heal.search(%s, %s::bigint, %s::int, %s::bigint, %s::jsonb)", values)


@named_errors()
def find_by_text(
    conn: Connection,
    question: str,
    k: int = 10,
    topic: int | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as above
    language: str | None = None,
) -> list[TextHit]:
    """The k chunks of the live generation that answer a question best, by its lexicon and the words; needs no model.

    ``language`` is the text search configuration of the question; None tries those of all documents. The rest, and
    errors, as ``search``.
    """
    values = (storable(question), k, topic, _jsonb(filter), language)
    return select(conn, TextHit, "FROM heal.find(%s, %s::int, %s::bigint, %s::jsonb, %s::text)", values)


@named_errors()
def unknown_words(conn: Connection, question: str) -> list[str]:
    """The words of a question if the lexicon has none of them; else an empty list."""
    rows = conn.execute("SELECT stem, weight FROM heal.explain_find(%s)", (storable(question),)).fetchall()
    return [] if any(weight for _, weight in rows) else list(dict.fromkeys(stem for stem, _ in rows))


@named_errors()
def hybrid_search(
    conn: Connection,
    words: str,
    vector: Vector,
    generation_id: int,
    k: int = 10,
    topic: int | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as above
    language: str | None = None,
) -> list[HybridHit]:
    """The k chunks that match a text best by its words and its vector, whose scores are added.

    ``words`` is free text, and ``vector`` that text encoded, to which the generation's lexicon is added; ``language``
    as in ``find_by_text``, the rest, and errors, as ``search``.
    """
    values = (storable(words), _text(vector), generation_id, k, topic, _jsonb(filter), language)
    rest = "FROM heal.hybrid_search(%s, %s, %s::bigint, %s::int, %s::bigint, %s::jsonb, %s::text)"
    return select(conn, HybridHit, rest, values)


@named_errors()
def similar(conn: Connection, document_id: int, k: int = 10, topic: int | None = None) -> list[Hit]:
    """The k chunks of other documents nearest to a document's first chunk, in the live generation.

    A duplicate is represented by its canonical document; errors, ``k`` and ``topic`` are as in ``search``.
    """
    return select(conn, Hit, "FROM heal.similar(%s::bigint, %s::int, %s::bigint)", (document_id, k, topic))


def _jsonb(value: Mapping[str, Any] | None) -> object:
    return None if value is None else storable_json(value)


def _text(vector: Vector) -> str:
    """A vector as Postgres reads it: without pgvector's package, and wherever its type is."""
    return str([float(value) for value in vector])
