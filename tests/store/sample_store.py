"""A store with a small corpus and planted vectors, filled like the pipeline fills it."""

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import document_id
from heal_tasks.core.types import Record
from heal_tasks.lexicon.lexicon import fit_lexicon
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.terms import count_stems
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.documents.moves import hand_on
from heal_tasks.store.documents.topics import Labels
from heal_tasks.store.generations.generations import Generation, GenerationRepository, IndexKind
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.lexicon import LexiconRepository, StemDictionary, StoredLexicon
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

SOURCE, DIMS = "s", 8


def chunker(title: str, body: str) -> list[tuple[str, str]]:
    """One chunk per bar-separated part."""
    del title
    return [("", part) for part in body.split("|") if part]


def encode(texts: list[str], dims: int = DIMS, model: str = "m") -> NDArray[np.float32]:
    """Unit vectors that depend on model and text only; float32, shape (n, dims)."""
    rows = [np.random.default_rng(zlib.crc32(f"{model}:{text}".encode())).normal(size=dims) for text in texts]
    vectors = np.array(rows, dtype=np.float32).reshape(len(texts), dims)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class QuestionRow(NamedTuple):
    """A stored question of a live chunk."""

    question_id: int
    chunk_id: int
    document_id: int
    text: str
    split: str
    writer: str


def stored_questions(conn: Connection) -> list[QuestionRow]:
    """Questions of live chunks, by id."""
    rows = conn.execute(
        "SELECT q.question_id, q.chunk_id, c.document_id, q.text, q.split, q.writer "
        "FROM heal.question q JOIN heal.chunk c USING (chunk_id) WHERE c.superseded_at IS NULL ORDER BY q.question_id"
    )
    return [QuestionRow._make(row) for row in rows]


def stored_labels(conn: Connection, topic_run_id: int) -> Labels:
    """All labels of a topic tree, by document id."""
    rows = conn.execute(
        "SELECT document_id, leaf, path, membership, residual FROM heal.document_topic "
        "WHERE topic_run_id = %s ORDER BY document_id",
        (topic_run_id,),
    ).fetchall()
    ids, leaves, paths, memberships, residuals = zip(*rows, strict=True) if rows else ((),) * 5
    return Labels(np.array(ids), np.array(leaves), list(paths), np.array(memberships), np.array(residuals))


class SampleStore:
    """A database with documents, spaces and generations."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.documents = DocumentRepository(conn)
        self.spaces = SpaceRepository(conn)
        self.generations = GenerationRepository(conn)
        self.served = ServedRepository(conn)
        self.lexicons = LexiconRepository(conn)

    def load(self, **bodies: str) -> None:
        """Store documents."""
        with self.conn.transaction():
            self.documents.apply_records(SOURCE, [Record(name, "T", body) for name, body in bodies.items()], chunker)
            hand_on(self.conn, [])

    def load_many(self, count: int) -> None:
        """Store documents d0, d1, .. of one chunk each."""
        self.documents.apply_records(SOURCE, [Record(f"d{n}", "T", f"text {n}") for n in range(count)], chunker)

    def delete(self, *names: str) -> None:
        """Delete documents."""
        self.documents.delete([document_id(SOURCE, name) for name in names])

    def space(self, model: str = "m", dims: int = DIMS) -> Space:
        """The space of a model, with a vector for every live chunk."""
        space = self.spaces.ensure(f"/models/{model}", model, dims)
        self.embed(space)
        return space

    def embed(self, space: Space) -> int:
        """Store vectors of the live chunks that have none; returns their number."""
        chunks = self.spaces.missing_chunks(space)
        ids = np.array([chunk.chunk_id for chunk in chunks], dtype=np.int64)
        vectors = encode([chunk.text for chunk in chunks], space.dims, space.model_sha256)
        return self.spaces.write_chunks(space, ids, vectors)

    def generation(self, model: str = "m", dims: int = DIMS, **fields: object) -> Generation:
        """A new generation of a model's space, with empty tables."""
        made = self.generations.create(run_id="r", space=self.space(model, dims), **fields)  # type: ignore[arg-type]
        self.generations.create_tables(made)
        return made

    def space_of(self, generation: Generation) -> Space:
        """The space that a generation serves."""
        return self.spaces.get(generation.space_id)

    def wanted(self, generation: Generation, leaf: int | None = None) -> Served:
        """All live chunks with their vectors, and with the leaves of the topic run or one leaf."""
        ids, vectors = self.spaces.load_chunks(self.space_of(generation))
        chunks = Corpus(self.conn).chunks(generation.topic_run_id)
        assert np.array_equal(ids, chunks.chunk_ids)
        leaves = chunks.leaves if leaf is None else np.full_like(chunks.leaves, leaf)
        return Served(chunks.chunk_ids, chunks.document_ids, leaves, vectors)

    def write_lexicon(self, generation: Generation, wanted: Served, **fields: object) -> StoredLexicon:
        """Fit the lexicon to rows and write it, with a record that has some fields."""
        dictionary = StemDictionary()
        found = self.lexicons.chunk_stems(dictionary, wanted.chunk_ids)
        shape = (len(wanted.chunk_ids), len(dictionary))
        counts = count_stems(found.texts, found.stems, found.counts, shape)
        lexicon = fit_lexicon(counts, wanted.vectors, ridge=0.3)
        stored = StoredLexicon(dictionary.stems, lexicon.chunks, lexicon.weights, lexicon.vectors)
        self.lexicons.write(generation, stored, wanted.chunk_ids)
        record = LexiconRecord(chunks=len(wanted.chunk_ids), **fields)  # type: ignore[arg-type]
        self.generations.set_fields(generation.generation_id, lexicon=record.to_json())
        return stored

    def publish(
        self, generation: Generation, wanted: Served | None = None, kind: IndexKind = "vector", **fields: object
    ) -> StoredLexicon:
        """Write rows (default: the wanted ones) and a lexicon with some fields, index, switch."""
        rows = wanted or self.wanted(generation)
        self.served.write_served(generation, rows)
        lexicon = self.write_lexicon(generation, rows, **fields)
        build_indexes(self.conn, generation, memory_mb=64, parallel=0, kind=kind)
        self.generations.set_state(generation.generation_id, "ready")
        self.generations.activate(generation.generation_id, lock_timeout_ms=500)
        return lexicon

    def texts(self, chunk_ids: NDArray[np.int64]) -> list[str]:
        """Texts of chunks, sorted."""
        rows = self.conn.execute("SELECT text FROM heal.chunk WHERE chunk_id = ANY(%s)", (chunk_ids.tolist(),))
        return sorted(row[0] for row in rows)
