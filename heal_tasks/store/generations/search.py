"""Search as SQL users do it, for the command line and for tests."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from heal_tasks.core.errors import HealError, InputError, StoreError
from heal_tasks.store.db import Connection


class NotSearchable(StoreError):  # noqa: N818 - reads as what it says where it is caught
    """The generation is not active or previous (any more): load the active one's encoder and encode again."""


class Hit(NamedTuple):
    """One found chunk; a smaller distance is nearer."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    distance: float


class HybridHit(NamedTuple):
    """One chunk found by words, by vector or by both; a larger score is better. What did not find it gives no rank."""

    chunk_id: int
    document_id: int
    title: str
    text: str
    score: float
    distance: float
    vector_rank: int | None
    word_rank: int | None


@contextmanager
def named_errors() -> Iterator[None]:
    """Turn the errors that ``api.sql`` names into this project's own, hint included.

    Raises:
        NotSearchable: HEA01.
        StoreError: HEA02 (wrong dimension).
        InputError: HEA03 (bad argument).
    """
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


def search(
    conn: Connection,
    vector: NDArray[np.float32] | Sequence[float],
    generation_id: int,
    k: int = 10,
    topic: int | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - as the SQL function calls it
) -> list[Hit]:
    """The chunks nearest to a query vector.

    Args:
        conn: an open connection.
        vector: float32, shape (d,), made by the encoder of that generation.
        generation_id: an active or previous generation.
        k: how many, 1 to 1000.
        topic: search this topic's subtree only.
        filter: search documents only whose metadata contain this.

    Returns:
        At most k hits, nearest first.

    Raises:
        NotSearchable: the generation is neither active nor previous.
        StoreError: the vector has another dimension.
        InputError: k or topic is wrong.
    """
    query = np.asarray(vector, dtype=np.float32)
    with named_errors():
        rows = conn.execute(
            "SELECT * FROM heal.search(%s, %s::bigint, %s::int, %s::bigint, %s::jsonb)",
            (query, generation_id, k, topic, None if filter is None else Jsonb(filter)),
        ).fetchall()
    return [Hit._make(row) for row in rows]


def hybrid_search(
    conn: Connection,
    words: str,
    vector: NDArray[np.float32] | Sequence[float],
    generation_id: int,
    k: int = 10,
    topic: int | None = None,
) -> list[HybridHit]:
    """The chunks that match a text by its words and its vector, the two scores added.

    Args:
        conn: an open connection.
        words: free text.
        vector: float32, shape (d,), of that text, made by the encoder of that generation.
        generation_id: an active or previous generation.
        k: how many, 1 to 1000.
        topic: search this topic's subtree only.

    Returns:
        At most k hits, the best first.

    Raises:
        NotSearchable: the generation is neither active nor previous.
        StoreError: the vector has another dimension.
        InputError: k or topic is wrong.
    """
    with named_errors():
        rows = conn.execute(
            "SELECT * FROM heal.hybrid_search(%s, %s, %s::bigint, %s::int, %s::bigint)",
            (words, np.asarray(vector, dtype=np.float32), generation_id, k, topic),
        ).fetchall()
    return [HybridHit._make(row) for row in rows]


def similar(conn: Connection, document_id: int, k: int = 10, topic: int | None = None) -> list[Hit]:
    """The chunks of other documents nearest to a document's first chunk, in the active generation.

    Args:
        conn: an open connection.
        document_id: a live document; a duplicate is taken for the one that stands for it.
        k: how many, 1 to 1000.
        topic: search this topic's subtree only.

    Returns:
        At most k hits, nearest first.

    Raises:
        NotSearchable: no generation is active.
        InputError: the document has no vector, or k or topic is wrong.
    """
    with named_errors():
        rows = conn.execute(
            "SELECT * FROM heal.similar(%s::bigint, %s::int, %s::bigint)", (document_id, k, topic)
        ).fetchall()
    return [Hit._make(row) for row in rows]
