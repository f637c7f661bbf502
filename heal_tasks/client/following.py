"""Follow switches: an encoder is loaded before its generation is taken into use, and both are replaced together."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, NamedTuple, TypeVar

import psycopg

from heal_tasks.client.connections import Connections
from heal_tasks.core.errors import HealError, StoreError
from heal_tasks.store.db import Connection, select
from heal_tasks.store.generations.search import NotSearchable

CHANNEL = "heal_switch"
POLL_S = 2.0
"""Notifications do not arrive through a pooler that shares sessions (PgBouncer in transaction mode); this does."""
ATTEMPTS = 10
NOTHING_LIVE = "no generation is active yet; run the heal_realign DAG, or `python -m heal_tasks run`"

E = TypeVar("E")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class NothingLiveError(StoreError):
    """No generation is active, or its encoder is not loaded yet."""


class Searchable(NamedTuple):
    """The active or the previous generation, as in ``heal.generation_status``.

    An answer that was stored is out of date if ``generation_id`` or ``changed_at`` of the active one has changed.
    """

    generation_id: int
    state: Literal["active", "previous"]
    changed_at: datetime
    activated_at: datetime
    dims: int
    lexicon_weight: float
    model_uri: str
    model_sha256: str


@dataclass(frozen=True)
class Loaded(Generic[E]):
    """A generation with its encoder."""

    generation: Searchable
    encoder: E

    @property
    def generation_id(self) -> int:
        """The generation's number."""
        return self.generation.generation_id


def searchable(conn: Connection) -> list[Searchable]:
    """The active generation, then the previous one."""
    return select(conn, Searchable, "FROM heal.generation_status WHERE state IN ('active', 'previous') ORDER BY state")


def live(conn: Connection) -> Searchable:
    """The active generation; NothingLiveError if there is none."""
    for generation in searchable(conn):
        if generation.state == "active":
            return generation
    raise NothingLiveError(NOTHING_LIVE)


def wakeups(connections: Connections, stop: threading.Event) -> Iterator[None]:
    """Yield now, after each notification, and at the latest every ``POLL_S`` seconds, until ``stop`` is set.

    It uses a connection of its own, and opens another one if that is lost.
    """
    while not stop.is_set():
        try:
            with connections.connect() as conn:
                conn.execute(f"LISTEN {CHANNEL}")
                while not stop.is_set():
                    yield
                    for _ in conn.notifies(timeout=POLL_S, stop_after=1):
                        pass
        except (psycopg.Error, HealError):
            yield
            stop.wait(POLL_S)


class Following(Generic[E]):
    """The active and the previous generation with their encoders.

    Args:
        connections: of a role that may read ``heal.generation_status``.
        load: loads the encoder of a generation.
        load_previous: load the previous generation's encoder as well if it is not loaded yet.
    """

    def __init__(
        self, connections: Connections, load: Callable[[Searchable], E], *, load_previous: bool = False
    ) -> None:
        self._connections, self._load, self._load_previous = connections, load, load_previous
        self._loaded: tuple[Loaded[E], ...] = ()  # replaced as a whole; a search keeps what it took from it
        self._problem = "the encoder is being loaded; try again in some seconds"
        self._told = ""
        self._loading = threading.Lock()
        self._checked_at = float("-inf")
        self._stop = threading.Event()

    def loaded(self) -> tuple[Loaded[E], ...]:
        """The active and the previous generation."""
        return self._loaded

    def active_or_none(self) -> Loaded[E] | None:
        """The generation that answers now, or None."""
        return next((loaded for loaded in self._loaded if loaded.generation.state == "active"), None)

    def active(self) -> Loaded[E]:
        """The generation that answers now; NothingLiveError if there is none."""
        loaded = self.active_or_none()
        if loaded is None:
            raise NothingLiveError(self._problem)
        return loaded

    def get(self, generation_id: int) -> Loaded[E] | None:
        """A generation by its number, None if it is neither active nor previous; looks again if it is unknown."""
        for look_again in (True, False):
            for loaded in self._loaded:
                if loaded.generation_id == generation_id:
                    return loaded
            if look_again:
                self.try_refresh(max_age_s=1.0)
        return None

    def answer(self, work: Callable[[Loaded[E]], T]) -> tuple[int, T]:
        """Do something with the active generation, and once more with the next if two switches retire it meanwhile.

        Raises:
            NothingLiveError: there is none.
            NotSearchable: one generation after the other has been retired.
        """
        for attempt in range(ATTEMPTS):
            loaded = self.active()
            try:
                return loaded.generation_id, work(loaded)
            except NotSearchable:
                if attempt == ATTEMPTS - 1:
                    raise
                self.refresh()
        raise AssertionError

    def refresh(self, max_age_s: float = 0.0) -> None:
        """Load what has become searchable, unless that was done ``max_age_s`` ago; after an error the old stays."""
        with self._loading:
            if time.monotonic() - self._checked_at < max_age_s:
                return
            try:
                self._refresh()
            finally:
                self._checked_at = time.monotonic()

    def try_refresh(self, max_age_s: float = 0.0) -> None:
        """As ``refresh``, but an error is logged, once as long as it stays the same."""
        try:
            self.refresh(max_age_s)
        except Exception as error:
            if str(error) != self._problem:
                (logger.warning if isinstance(error, HealError) else logger.exception)("not followed: %s", error)
            self._problem = str(error)

    def _refresh(self) -> None:
        with self._connections.take() as conn:
            generations = searchable(conn)
        encoders = {item.generation.model_sha256: item.encoder for item in self._loaded}
        new: list[Loaded[E]] = []
        # The active one comes first: if the previous one's files are gone, it is served all the same.
        for generation in generations:
            key = generation.model_sha256
            try:
                if key not in encoders:
                    if generation.state == "previous" and not self._load_previous:
                        continue
                    encoders[key] = self._load(generation)
            except Exception as error:
                if generation.state == "active":
                    raise
                told = f"generation {generation.generation_id} is not loaded: {error}"
                if told != self._told:  # it is tried again every two seconds
                    logger.warning(told)
                self._told = told
                continue
            new.append(Loaded(generation, encoders[key]))
        if [item.generation_id for item in new] != [item.generation_id for item in self._loaded]:
            logger.info("generations %s answer", ", ".join(f"{item.generation_id}" for item in new) or "none")
        self._loaded, self._problem = tuple(new), NOTHING_LIVE

    def follow(self) -> None:
        """Refresh at every switch, on a thread, until ``close``."""

        def work() -> None:
            for _ in wakeups(self._connections, self._stop):
                self.try_refresh()

        threading.Thread(target=work, name="follow switches", daemon=True).start()

    def close(self) -> None:
        """End the thread of ``follow``, after what it is doing."""
        self._stop.set()
