"""Documents of planted words: every word has a true vector, a text points where its words do, the encoder errs."""

import contextlib
import copy
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import document_id, question_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Question, Record, Split
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors.systems import Systems, lexicon_record_of
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.chunks import LiveChunk, live_chunks
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository, StoredLexicon
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import model_sha256
from tests.conftest import fresh_database

Vectors = NDArray[np.float32]

DIMS, DOCUMENTS, WORDS = 16, 80, 60


def unit(rows: NDArray[np.floating]) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def noise_of(text: str) -> Vectors:
    return unit(np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMS))


def vector_of(text: str) -> Vectors:
    """The direction of a text: the sum of its words."""
    return unit(np.sum([noise_of(word) for word in text.split()], axis=0))


class LexiconWorld:
    """A base model's space over documents of eight words each."""

    def __init__(self, conn: Connection, settings: Settings, documents: int = DOCUMENTS) -> None:
        self._rng = np.random.default_rng(5)
        self._connect(conn, settings)
        sha256 = model_sha256(resolve_model(settings.model))
        self.space = self.spaces.ensure(settings.model, sha256, DIMS)
        conn.execute(
            "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
            "VALUES ('f', 'u', 1, 1, 1, 1, 0)"
        )
        self.texts = {f"d{number}": self.words(8) for number in range(documents)}
        self.add(self.texts)

    def _connect(self, conn: Connection, settings: Settings) -> None:
        self.conn, self.settings = conn, settings
        self.generations, self.lexicons = GenerationRepository(conn), LexiconRepository(conn)
        self.spaces = SpaceRepository(conn)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, url: str, var_dir: Path) -> Iterator["LexiconWorld"]:
        """A world in an empty database, to which there is no connection afterwards."""
        with connect(url, autocommit=True) as conn:
            yield cls(conn, load_settings(var_dir=var_dir, database_url=url))

    @contextlib.contextmanager
    def copied(self, server: EmbeddedPostgres, var_dir: Path) -> Iterator["LexiconWorld"]:
        """The same in a copy of its database, to which there is no connection."""
        with fresh_database(server, self.settings.require_database_url()) as url, connect(url, autocommit=True) as conn:
            made = copy.copy(self)
            made.texts, made._rng = dict(self.texts), copy.deepcopy(self._rng)
            made._connect(conn, load_settings(var_dir=var_dir, database_url=url))
            yield made

    def words(self, count: int) -> str:
        return " ".join(f"w{number}x" for number in self._rng.choice(WORDS, count, replace=False))

    def add(self, texts: dict[str, str]) -> None:
        """Documents by name, with vectors that point where their words do."""
        records = [Record(name, "", text) for name, text in texts.items()]
        DocumentRepository(self.conn).apply_records("s", records, lambda title, body: [("", body)])
        new = self.spaces.missing_chunks(self.space)
        ids = np.array([chunk.chunk_id for chunk in new], dtype=np.int64)
        vectors = [vector_of(chunk.text) + 0.2 * noise_of(f"of {chunk.text}") for chunk in new]
        self.spaces.write_chunks(self.space, ids, unit(np.array(vectors)))

    def delete(self, name: str) -> None:
        DocumentRepository(self.conn).delete([document_id("s", name)])

    def chunk(self, name: str) -> LiveChunk:
        key = document_id("s", name)
        return next(chunk for chunk in live_chunks(self.conn) if chunk.document_id == key)

    def ask(
        self,
        name: str,
        text: str,
        split: Split,
        writer: str = "llm",
        *,
        right: float = 0.5,
        vector: Vectors | None = None,
    ) -> None:
        """A question about a document; its vector by the encoder is that of the document, ``right``, and noise."""
        self.ask_each([(name, text)], split, writer, right=right, vectors=None if vector is None else [vector])

    def ask_each(
        self,
        asked: Sequence[tuple[str, str]],
        split: Split,
        writer: str = "llm",
        *,
        right: float = 0.5,
        vectors: Sequence[Vectors] | None = None,
    ) -> None:
        """Questions, each as ``ask`` stores one: names of documents and texts."""
        by_document = {chunk.document_id: chunk for chunk in live_chunks(self.conn)}
        chunks = [by_document[document_id("s", name)] for name, _ in asked]
        made = [
            Question(
                question_id(chunk.chunk_id, writer, text), chunk.chunk_id, text, "", "", "question", writer, "m", "p",
                split,
            )
            for chunk, (_, text) in zip(chunks, asked, strict=True)
        ]  # fmt: skip
        answers = [
            Asked(chunk.chunk_id, chunk.content_hash, "p", "m", [question], 0)
            for chunk, question in zip(chunks, made, strict=True)
        ]
        QuestionRepository(self.conn).store("r", answers, [])
        if vectors is None:
            vectors = [
                right * vector_of(chunk.text) + noise_of(f"asked {text}")
                for chunk, (_, text) in zip(chunks, asked, strict=True)
            ]
        self.spaces.write_questions(
            self.space, np.array([question.question_id for question in made]), unit(np.array(vectors))
        )

    def ask_of_all(self, split: Split, writer: str = "llm", *, names: Iterable[str] = (), right: float = 0.5) -> None:
        """A question of three of its words about each document."""
        asked = list[tuple[str, str]]()
        for name in names or self.texts:
            text = " ".join(self._rng.choice(self.texts[name].split(), 3, replace=False))
            asked.append((name, f"{text} q{split[0]}{name}"))
        self.ask_each(asked, split, writer, right=right)

    def systems(self) -> Systems:
        return Systems(self.conn, self.settings, 1)

    def choose(self, run_id: str = "r1", **changes: object) -> Manifest:
        settings = self.settings.model_copy(update=changes)
        return load_step("choose").run(settings, Manifest(run_id=run_id, refs={"topic_run_id": 1}))

    def publish(self, chosen: Manifest) -> Manifest:
        return load_step("publish").run(self.settings, Manifest(run_id=chosen.run_id, refs=chosen.refs))

    def go_live(self) -> Generation:
        """Choose and publish."""
        self.publish(self.choose())
        return self.active

    def night(self, run_id: str) -> Manifest:
        return load_step("nudge_live").run(self.settings, Manifest(run_id=run_id, refs={"topic_run_id": 1}))

    @property
    def active(self) -> Generation:
        active = self.generations.active()
        assert active is not None
        return active

    @property
    def record(self) -> LexiconRecord:
        record = lexicon_record_of(self.active)
        assert record is not None
        return record

    def lexicon(self) -> StoredLexicon:
        return self.lexicons.load(self.active)

    def versions(self) -> dict[str, str]:
        """The row version of every stem of the live lexicon."""
        table = f"heal.lex_g{self.active.generation_id:06d}"
        return dict(self.conn.execute(f"SELECT stem, xmin::text FROM {table}").fetchall())  # type: ignore[arg-type]

    def find(self, question: str, k: int = 10) -> list[int]:
        rows = self.conn.execute("SELECT chunk_id FROM heal.find(%s, %s)", (question, k)).fetchall()
        return [key for (key,) in rows]

    def query_vectors(self, questions: Sequence[str]) -> Vectors:
        rows = [self.conn.execute("SELECT heal.query_vector(%s)", (text,)).fetchone() for text in questions]
        return np.array([row[0].to_numpy() for row in rows if row is not None], dtype=np.float32)
