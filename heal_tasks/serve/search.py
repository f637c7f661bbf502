"""Search by text: the encoder and the generation that it belongs to are loaded, and replaced, together."""

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.serve.encoders import NOTHING_LIVE
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.search import HybridHit, NotSearchable, hybrid_search
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import Encoder


class Searcher:
    """Answers text queries, through any number of switches; StoreError where no generation is active."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._conn = connect(settings.require_database_url(), autocommit=True)
        self.generation, self._encoder = self._load()  # the next query is pinned to them

    def search(self, text: str, k: int = 10, topic: int | None = None) -> list[HybridHit]:
        """The ``k`` chunks that match a text best, by encoder, lexicon and words; ``topic``: only of its subtree."""
        try:
            return self._search(text, k, topic)
        except NotSearchable:
            self.generation, self._encoder = self._load()
            return self._search(text, k, topic)

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()

    def _search(self, text: str, k: int, topic: int | None) -> list[HybridHit]:
        (vector,) = self._encoder.encode([text], role="query")
        return hybrid_search(self._conn, text, vector, self.generation.generation_id, k=k, topic=topic)

    def _load(self) -> tuple[Generation, Encoder]:
        active = GenerationRepository(self._conn).active()
        if active is None:
            raise StoreError(NOTHING_LIVE)
        space = SpaceRepository(self._conn).get(active.space_id)
        path = artifact_store(self._settings).model_path(space.model_uri)
        return active, Encoder(path, device=self._settings.device, sha256=space.model_sha256)
