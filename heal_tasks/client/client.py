"""The client: search by text, by vector or by both, through any number of switches."""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import psycopg

from heal_tasks.client.connections import Connections
from heal_tasks.client.following import Following, NothingLiveError, Searchable, live, wakeups
from heal_tasks.core.errors import InputError, RetryableError
from heal_tasks.store.db import Connection, password_of
from heal_tasks.store.generations.search import (
    Hit,
    HybridHit,
    TextHit,
    Vector,
    find_by_text,
    hybrid_search,
    reading_as,
    search,
    similar,
)

Encode = Callable[[str], Vector]
"""Gives the vector of a question; is called from any thread."""
Filter = Mapping[str, Any] | None
Principals = Sequence[str] | None
"""Whose documents to search, besides those of everybody; None: those of the database user."""

T = TypeVar("T")


class Client:
    """Searches, for any number of threads; every hit has the number of its generation.

    ``find``, ``similar`` and ``search`` with a vector are answered by the database alone. The first call that needs an
    encoder loads it, and begins to follow switches: from then on the next encoder is loaded in the background while the
    previous generation, which stays searchable, answers. A switch is noticed by notification, or, where a pooler keeps
    notifications back, within two seconds.

    ``principals`` are those of the person who searches: hits are of documents that they may read (docs/permissions.md).

    Every method may raise RetryableError, if the database does not answer, and StoreError, if no generation is active.

    Args:
        database_url: ``postgresql://…`` of a role with the rights of ``heal_reader``.
        encoder: makes the encoder of a generation from its ``model_uri``; by default sentence-transformers loads it
            from the files, where the settings (``HEAL_ARTIFACTS_URI``, ``HEAL_DEVICE``) say.
    """

    def __init__(self, database_url: str, *, encoder: Callable[[Searchable], Encode] | None = None) -> None:
        password_of(database_url)  # refuses a malformed one
        self._connections = Connections(database_url, vectors=False)
        self._following = Following(self._connections, encoder or _encoder_from_files)
        self._started = False
        self._starting = threading.Lock()
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs in the background, and close the connections."""
        self._stop.set()
        self._following.close()
        self._connections.close()

    def find(
        self,
        text: str,
        k: int = 10,
        topic: int | None = None,
        filter: Filter = None,  # noqa: A002 - the name of the SQL function's argument
        language: str | None = None,
        *,
        principals: Principals = None,
    ) -> list[TextHit]:
        """The ``k`` chunks of the live generation that answer a question best, without a model: ``heal.find``."""
        with self._connections.take() as conn, reading_as(conn, principals):
            return find_by_text(conn, text, k, topic, filter, language)

    def similar(
        self, document_id: int, k: int = 10, topic: int | None = None, *, principals: Principals = None
    ) -> list[Hit]:
        """The ``k`` chunks of other documents nearest to a document, in the live generation: ``heal.similar``."""
        with self._connections.take() as conn, reading_as(conn, principals):
            return similar(conn, document_id, k, topic)

    def search(
        self,
        query: str | Vector,
        k: int = 10,
        topic: int | None = None,
        filter: Filter = None,  # noqa: A002 - as above
        *,
        generation_id: int | None = None,
        principals: Principals = None,
    ) -> list[Hit]:
        """The ``k`` chunks nearest to a text, by its encoder's vector alone, or to a vector: ``heal.search``.

        A vector comes with the generation whose encoder made it. Where that is not live any more the database's notice,
        that new documents are not in it or that the vector was mapped to the live one, is a ``UserWarning``.

        Raises:
            NotSearchable: that generation is retired and its vectors cannot be mapped, or there is none: make the
                vector anew.
        """
        if isinstance(query, str):
            return self._with_vector(
                query, principals, lambda conn, vector, number: search(conn, vector, number, k, topic, filter)
            )
        if generation_id is None:
            raise InputError("a vector can be compared with one generation only: give its generation_id")
        notices: list[str] = []

        def hear(notice: psycopg.errors.Diagnostic) -> None:
            notices.append(notice.message_primary or "")

        with self._connections.take() as conn:
            conn.add_notice_handler(hear)
            try:
                with reading_as(conn, principals):
                    hits = search(conn, query, generation_id, k, topic, filter)
            finally:
                conn.remove_notice_handler(hear)
        for notice in notices:
            warnings.warn(notice, stacklevel=2)
        return hits

    def hybrid_search(
        self,
        text: str,
        k: int = 10,
        topic: int | None = None,
        filter: Filter = None,  # noqa: A002 - as above
        language: str | None = None,
        *,
        principals: Principals = None,
    ) -> list[HybridHit]:
        """The ``k`` chunks that match a text best by encoder, lexicon and words: ``heal.hybrid_search``."""
        return self._with_vector(
            text,
            principals,
            lambda conn, vector, number: hybrid_search(conn, text, vector, number, k, topic, filter, language),
        )

    def feedback(
        self,
        question: str,
        chunk_id: int,
        good: bool | None,
        voter: str | None = None,
        *,
        principals: Principals = None,
    ) -> None:
        """Say whether the document of a chunk that was found answers the question: ``heal.feedback``."""
        from heal_tasks.store.questions.feedback import record_feedback  # loads NumPy, which searches do without

        with self._connections.take() as conn, reading_as(conn, principals):
            record_feedback(conn, question, chunk_id, good, voter)

    def live(self) -> Searchable:
        """The active generation."""
        with self._connections.take() as conn:
            return live(conn)

    def changes(self) -> Iterator[Searchable]:
        """Yield the active generation, again whenever stored answers are out of date, until ``close``.

        So it is after every switch, and after rows were added, moved or deleted. While the database does not answer
        nothing is yielded.
        """
        last = None
        for _ in wakeups(self._connections, self._stop):
            try:
                now = self.live()
            except (RetryableError, NothingLiveError):
                continue
            if now != last:
                yield now
            last = now

    def _with_vector(
        self, text: str, principals: Principals, work: Callable[[Connection, Vector, int], list[T]]
    ) -> list[T]:
        if not self._started:
            with self._starting:
                if not self._started:
                    self._following.refresh()
                    self._following.follow()
                    self._started = True

        def answer(encode: Encode, generation_id: int) -> list[T]:
            vector = encode(text)
            with self._connections.take() as conn, reading_as(conn, principals):
                return work(conn, vector, generation_id)

        return self._following.answer(lambda loaded: answer(loaded.encoder, loaded.generation_id))[1]


def _encoder_from_files(generation: Searchable) -> Encode:
    try:
        from heal_tasks.client.encoders import query_encoder
    except ImportError as error:
        raise InputError(
            f"the encoder of generation {generation.generation_id} cannot be loaded here ({error}): install "
            "requirements.txt, give Client another encoder, or search by text with find"
        ) from error
    return query_encoder(generation)
