"""The encoders of the active and the previous generation, loaded ahead of every switch's first request."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import HealError, StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import TokenCounter
from heal_tasks.lexicon.lexicon import with_lexicon
from heal_tasks.serve.batching import Batcher
from heal_tasks.serve.connections import Connections
from heal_tasks.sources.chunking import token_counter
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository
from heal_tasks.training.encoder import Encoder, Role

POLL_S = 2.0
NOTHING_LIVE = "no generation is active yet; run the heal_realign DAG, or `python -m heal_tasks run`"

logger = logging.getLogger(__name__)


class NothingLiveError(StoreError):
    """No generation is active, or its encoder is not loaded yet."""


@dataclass(frozen=True)
class Loaded:
    """A searchable generation with its encoder."""

    generation: Generation
    space: Space
    encoder: Encoder
    count_tokens: TokenCounter

    @property
    def generation_id(self) -> int:
        """The generation's number."""
        return self.generation.generation_id


class Encoders:
    """Follows switches: ``refresh`` loads the encoder of a new generation, and only then takes it into use."""

    def __init__(self, settings: Settings, connections: Connections, batcher: Batcher) -> None:
        self._settings, self._connections, self._batcher = settings, connections, batcher
        self._artifacts = artifact_store(settings)
        self._loaded: tuple[Loaded, ...] = ()  # replaced as a whole; a request keeps what it took from it
        self._problem = "the encoder is being loaded; try again in some seconds"
        self._loading = threading.Lock()
        self._checked_at = float("-inf")
        self._stop = threading.Event()

    def active(self) -> Loaded:
        """The generation that answers now; NothingLiveError if there is none."""
        loaded = self.active_or_none()
        if loaded is None:
            raise NothingLiveError(self._problem)
        return loaded

    def active_or_none(self) -> Loaded | None:
        """The generation that answers now, or None."""
        return next((loaded for loaded in self._loaded if loaded.generation.state == "active"), None)

    def loaded(self) -> tuple[Loaded, ...]:
        """The active and the previous generation."""
        return self._loaded

    def get(self, generation_id: int) -> Loaded | None:
        """A generation by its number, None if it is neither active nor previous; looks again if it is unknown."""
        for look_again in (True, False):
            for loaded in self._loaded:
                if loaded.generation_id == generation_id:
                    return loaded
            if look_again:
                self.refresh()
        return None

    def encode(self, loaded: Loaded, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        """Unit vectors of n texts by an encoder alone, float32, shape (n, d)."""
        return self._batcher.encode(loaded.encoder, texts, role)

    def query_vectors(self, loaded: Loaded, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of n questions by encoder and lexicon, float32, shape (n, d), as ``heal.search`` wants them.

        Raises:
            NotSearchable: the generation has been retired meanwhile.
        """
        encoded = self.encode(loaded, texts, "query")
        weight = float((loaded.generation.lexicon or {}).get("lexicon_weight", 0))
        if not weight:
            return encoded
        with self._connections.take() as conn:
            by_lexicon = LexiconRepository(conn).query_vectors(loaded.generation, texts)
        return with_lexicon(encoded, by_lexicon, weight)

    def refresh(self, max_age_s: float = 1.0) -> None:
        """Load what has become searchable, unless that was done ``max_age_s`` ago; errors are logged, the old stays."""
        with self._loading:
            if time.monotonic() - self._checked_at < max_age_s:
                return
            try:
                self._refresh()
            except Exception as error:
                self._problem = str(error)
                (logger.warning if isinstance(error, HealError) else logger.exception)("not refreshed: %s", error)
            self._checked_at = time.monotonic()

    def _refresh(self) -> None:
        with self._connections.take() as conn:
            generations = GenerationRepository(conn).list("active", "previous")
            spaces = {item.space_id: SpaceRepository(conn).get(item.space_id) for item in generations}
        by_hash = {item.space.model_sha256: item for item in self._loaded}
        new: list[Loaded] = []
        # The active one first: if the previous one's files are gone, it is served all the same.
        for generation in sorted(generations, key=lambda item: item.state):
            space = spaces[generation.space_id]
            known = by_hash.get(space.model_sha256)
            try:
                encoder, count = (known.encoder, known.count_tokens) if known else self._load(space)
            except Exception as error:
                if generation.state == "active":
                    raise
                logger.warning("generation %d is not loaded: %s", generation.generation_id, error)
                continue
            new.append(Loaded(generation, space, encoder, count))
            by_hash[space.model_sha256] = new[-1]
        if [item.generation_id for item in new] != [item.generation_id for item in self._loaded]:
            logger.info("serving generations %s", ", ".join(f"{item.generation_id}" for item in new) or "none")
        self._loaded, self._problem = tuple(new), NOTHING_LIVE

    def _load(self, space: Space) -> tuple[Encoder, TokenCounter]:
        path = self._artifacts.model_path(space.model_uri)
        encoder = Encoder(path, device=self._settings.device, sha256=space.model_sha256)
        encoder.encode(["warm up"], role="query")
        return encoder, token_counter(path)

    def follow(self) -> None:
        """Refresh every ``POLL_S`` seconds on a thread, until ``close``."""

        def poll() -> None:
            while not self._stop.is_set():
                self.refresh()
                self._stop.wait(POLL_S)

        threading.Thread(target=poll, name="follow switches", daemon=True).start()

    def close(self) -> None:
        """End the thread of ``follow``, after what it is doing."""
        self._stop.set()
