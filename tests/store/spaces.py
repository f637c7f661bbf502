"""A small corpus with planted vectors, shared by the tests of vectors, generations and search."""

import zlib

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.vectors import Served, VectorRepository

SOURCE, DIMS = "s", 8


def chunker(title: str, body: str) -> list[str]:
    """One chunk per bar-separated part."""
    del title
    return [part for part in body.split("|") if part]


def encode(texts: list[str], dims: int = DIMS, model: str = "m") -> NDArray[np.float32]:
    """Unit vectors that depend on model and text only; float32, shape (n, dims)."""
    rows = [np.random.default_rng(zlib.crc32(f"{model}:{text}".encode())).normal(size=dims) for text in texts]
    vectors = np.array(rows, dtype=np.float32).reshape(len(texts), dims)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Space:
    """A database with documents and generations, driven like the pipeline does."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.documents = DocumentRepository(conn)
        self.generations = GenerationRepository(conn)
        self.vectors = VectorRepository(conn)

    def load(self, **bodies: str) -> None:
        """Store documents."""
        self.documents.apply_records(SOURCE, [Record(name, "T", body) for name, body in bodies.items()], chunker)

    def load_many(self, count: int) -> None:
        """Store documents d0, d1, .. of one chunk each."""
        self.documents.apply_records(SOURCE, [Record(f"d{n}", "T", f"text {n}") for n in range(count)], chunker)

    def delete(self, *names: str) -> None:
        """Delete documents."""
        self.documents.delete([document_id(SOURCE, name) for name in names])

    def generation(self, model: str = "m", dims: int = DIMS, kind: str = "trained", **fields: object) -> Generation:
        """A new generation with base vectors of everything live."""
        made = self.generations.create(
            kind=kind, run_id="r", model_uri=f"/models/{model}", model_sha256=model, dims=dims, **fields
        )  # type: ignore[arg-type]
        self.embed(made)
        return made

    def embed(self, generation: Generation) -> int:
        """Base vectors of what lacks them; returns how many."""
        chunks = list(self.vectors.missing_base(generation))
        ids = np.array([chunk.chunk_id for chunk in chunks], dtype=np.int64)
        matrix = encode([chunk.text for chunk in chunks], generation.dims, generation.model_sha256)
        return self.vectors.write_base(generation, ids, matrix)

    def served(self, generation: Generation, leaf: int | None = None) -> Served:
        """The wanted state: all live chunks with their base vectors; leaves as the topic run says."""
        ids, vectors = self.vectors.load_base(generation)
        chunks = Corpus(self.conn).chunks(generation.topic_run_id)
        assert np.array_equal(ids, chunks.chunk_ids)
        leaves = chunks.leaves if leaf is None else np.full_like(chunks.leaves, leaf)
        return Served(chunks.chunk_ids, chunks.document_ids, leaves, vectors)

    def publish(self, generation: Generation) -> None:
        """Load, index, switch."""
        self.vectors.write_served(generation, self.served(generation))
        build_indexes(self.conn, generation, memory_mb=64, parallel=0)
        self.generations.set_state(generation.generation_id, "ready")
        self.generations.activate(generation.generation_id, lock_timeout_ms=500)

    def texts(self, chunk_ids: NDArray[np.int64]) -> list[str]:
        """Texts of chunks, sorted."""
        rows = self.conn.execute("SELECT text FROM heal.chunk WHERE chunk_id = ANY(%s)", (chunk_ids.tolist(),))
        return sorted(row[0] for row in rows)
