"""The work behind the routes: texts to vectors, and questions to chunks."""

from heal_tasks.client.connections import Connections
from heal_tasks.client.following import Loaded, live
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import JsonObject
from heal_tasks.serve.batching import Batcher
from heal_tasks.serve.encoders import Encoders, Model
from heal_tasks.serve.metrics import Metrics
from heal_tasks.serve.protocol import (
    ACTIVE,
    EmbeddingsRequest,
    FeedbackRequest,
    ModelName,
    RefusedError,
    SearchRequest,
    embeddings_reply,
    model_name,
)
from heal_tasks.store.generations.search import (
    HybridHit,
    NotSearchable,
    TextHit,
    find_by_text,
    hybrid_search,
    reading_as,
)
from heal_tasks.store.questions.feedback import record_feedback


class Service:
    """Answers requests from any thread; every answer comes with the number of the generation that gave it."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self._connections = Connections(settings.require_database_url())
        self._batcher = Batcher(self.metrics.add_batch)
        self.encoders = Encoders(settings, self._connections, self._batcher)

    def start(self) -> None:
        """Begin to load encoders, and to follow switches."""
        self.encoders.follow()

    def close(self) -> None:
        """End threads and connections."""
        self.encoders.close()
        self._batcher.close()
        self._connections.close()

    def models(self) -> list[JsonObject]:
        """The models that can be asked for."""
        created = {ACTIVE: 0} if self.encoders.loaded() else {}
        for loaded in self.encoders.loaded():
            activated = int(loaded.generation.activated_at.timestamp())
            created[model_name(loaded.generation_id)] = activated
            if loaded.generation.state == "active":
                created[ACTIVE] = activated
        return [
            {"id": name + suffix, "object": "model", "created": since, "owned_by": "heal"}
            for name, since in created.items()
            for suffix in ("", ":document")
        ]

    def embed(self, asked: EmbeddingsRequest) -> tuple[int, JsonObject]:
        """Answer a request for embeddings."""
        name = ModelName.parse(asked.model)
        if name is None:
            raise self._unknown(asked.model)

        def embed(loaded: Loaded[Model]) -> JsonObject:
            dims = loaded.generation.dims
            if asked.dimensions not in (None, dims):
                raise RefusedError(400, f"dimensions: {asked.model} has {dims}, and no other number", "dimensions")
            if asked.role == "query":
                vectors = self.encoders.query_vectors(loaded, asked.input)
            else:
                vectors = self.encoders.encode(loaded, asked.input, "document")
            tokens = sum(loaded.encoder.count_tokens(text) for text in asked.input)
            return embeddings_reply(model_name(loaded.generation_id), vectors, tokens, asked.encoding_format)

        if name.generation_id is None:
            reply = self.encoders.answer(embed)
        else:
            pinned = self.encoders.get(name.generation_id)
            if pinned is None:
                raise self._unknown(asked.model)
            try:
                reply = pinned.generation_id, embed(pinned)
            except NotSearchable:  # retired meanwhile
                raise self._unknown(asked.model) from None
        self.metrics.add_texts(asked.role, len(asked.input))
        return reply

    def search(self, asked: SearchRequest) -> tuple[int, JsonObject]:
        """Answer a search."""
        limits = (asked.k, asked.topic, asked.filter, asked.language)

        def by_encoder(loaded: Loaded[Model]) -> list[HybridHit]:
            (vector,) = self.encoders.encode(loaded, [asked.question], "query")  # SQL adds the lexicon
            with self._connections.take() as conn, reading_as(conn, asked.principals):
                return hybrid_search(conn, asked.question, vector, loaded.generation_id, *limits)

        found: tuple[int, list[HybridHit]] | tuple[int, list[TextHit]]
        if asked.path == "encoder":
            found = self.encoders.answer(by_encoder)
        else:
            with self._connections.take() as conn, conn.transaction():  # in which a switch is not seen
                active = live(conn)
                with reading_as(conn, asked.principals):
                    found = active.generation_id, find_by_text(conn, asked.question, *limits)
        generation_id, hits = found
        rows = [hit._asdict() for hit in hits]
        return generation_id, {"object": "list", "path": asked.path, "generation": generation_id, "data": rows}

    def record_feedback(self, given: FeedbackRequest) -> None:
        """Store a vote."""
        with self._connections.take() as conn, reading_as(conn, given.principals):
            record_feedback(conn, given.question, given.chunk_id, given.good, given.user)

    def _unknown(self, model: str) -> RefusedError:
        names = ", ".join(item["id"] for item in self.models()) or "none yet"
        return RefusedError(404, f"there is no model {model!r}; there are: {names}", "model", "model_not_found")
