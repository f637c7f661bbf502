"""The encoders of the active and the previous generation, loaded ahead of every switch's first request."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.client.connections import Connections
from heal_tasks.client.encoders import load_encoder
from heal_tasks.client.following import Following, Loaded, Searchable
from heal_tasks.core.models import Role
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import TokenCounter
from heal_tasks.lexicon.lexicon import with_lexicon
from heal_tasks.serve.batching import Batcher
from heal_tasks.sources.chunking import token_counter
from heal_tasks.steps.vectors.encoders import TextEncoder
from heal_tasks.store.generations.lexicon import LexiconRepository


@dataclass(frozen=True)
class Model:
    """An encoder with its tokenizer."""

    encoder: TextEncoder
    count_tokens: TokenCounter


class Encoders(Following[Model]):
    """Turns texts into vectors, by the batch."""

    def __init__(self, settings: Settings, connections: Connections, batcher: Batcher) -> None:
        def load(generation: Searchable) -> Model:
            encoder, path = load_encoder(generation, settings)
            return Model(encoder, token_counter(path))

        super().__init__(connections, load, load_previous=True)
        self._batcher = batcher

    def encode(self, loaded: Loaded[Model], texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        """Unit vectors of n texts by an encoder alone, float32, shape (n, d)."""
        return self._batcher.encode(loaded.encoder.encoder, texts, role)

    def query_vectors(self, loaded: Loaded[Model], texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of n questions by encoder and lexicon, float32, shape (n, d), as ``heal.search`` wants them.

        Raises:
            NotSearchable: the generation has been retired meanwhile.
        """
        encoded = self.encode(loaded, texts, "query")
        generation = loaded.generation
        if not generation.lexicon_weight:
            return encoded
        with self._connections.take() as conn:
            repository = LexiconRepository(conn)
            by_lexicon = repository.query_vectors(generation.generation_id, generation.dims, texts)
        return with_lexicon(encoded, by_lexicon, generation.lexicon_weight)
