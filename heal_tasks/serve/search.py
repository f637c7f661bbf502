"""Search by text: the encoder and the generation that it belongs to are loaded, and replaced, together."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.search import Hit, HybridHit, hybrid_search
from heal_tasks.store.generations.search import search as nearest
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import Encoder

T = TypeVar("T")


class Searcher:
    """Answers text queries, through any number of switches; StoreError where no generation is active."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._conn = connect(settings.require_database_url(), autocommit=True)
        self.generation, self._encoder = self._load()  # the next query is pinned to them

    def search(self, text: str, k: int = 10, topic: int | None = None) -> list[Hit]:
        """The ``k`` chunks nearest to a text, nearest first; with ``topic`` only of this topic's subtree."""
        return self._pinned(text, lambda vector, pin: nearest(self._conn, vector, pin, k=k, topic=topic))

    def hybrid(self, text: str, k: int = 10, topic: int | None = None) -> list[HybridHit]:
        """The ``k`` best chunks by words and vector of a text; with ``topic`` only of this topic's subtree."""
        return self._pinned(text, lambda vector, pin: hybrid_search(self._conn, text, vector, pin, k=k, topic=topic))

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()

    def _pinned(self, text: str, ask: Callable[[NDArray[np.float32], int], T]) -> T:
        """Ask with the text's vector and its generation; once more with new ones if that generation is gone."""
        pinned = self.generation.generation_id
        try:
            return ask(self._encoder.encode([text], role="query")[0], pinned)
        except StoreError:
            self.generation, self._encoder = self._load()
            if self.generation.generation_id == pinned:
                raise
            return ask(self._encoder.encode([text], role="query")[0], self.generation.generation_id)

    def _load(self) -> tuple[Generation, Encoder]:
        active = GenerationRepository(self._conn).active()
        if active is None:
            raise StoreError("no generation is active yet; run the heal_realign DAG, or `python -m heal_tasks run`")
        model_uri = SpaceRepository(self._conn).get(active.space_id).model_uri
        return active, Encoder(artifact_store(self._settings).model_path(model_uri), device=self._settings.device)
