"""Generations made from three documents, with lexicons, and the service that answers from them."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
import uvicorn
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense

from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.lexicon.lexicon import fit_lexicon
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.terms import count_stems
from heal_tasks.serve.app import create_app
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository, StemDictionary, StoredLexicon
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import Encoder, model_sha256

TEXTS = ["The heart pumps blood through the body.", "A violin has four strings.", "Basalt is a volcanic rock."]
WEIGHT = 0.5

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Published:
    """A generation that was switched to."""

    generation_id: int
    encoder: Encoder

    @property
    def name(self) -> str:
        return f"heal-g{self.generation_id:06d}"

    def query_vector(self, conn: Connection, text: str) -> np.ndarray:
        """A query's vector as SQL makes it of the encoder's and the lexicon's."""
        vector = self.encoder.encode([text], role="query")[0]
        row = conn.execute(
            "SELECT l2_normalize(%(vector)s::vector + coalesce(array_fill(g.lexicon_weight, ARRAY[%(dims)s])::vector * "
            "heal.query_vector(%(text)s, %(gen)s::bigint), array_fill(0, ARRAY[%(dims)s])::vector)) "
            "FROM (SELECT coalesce((lexicon ->> 'lexicon_weight')::real, 0) AS lexicon_weight "
            "FROM heal.generation WHERE generation_id = %(gen)s) g",
            {"vector": vector, "dims": len(vector), "text": text, "gen": self.generation_id},
        ).fetchone()
        assert row is not None
        return np.asarray(row[0].to_numpy())


def add_documents(conn: Connection, texts: Sequence[str] = TEXTS) -> None:
    records = [Record(str(number), "", text, {"number": number}) for number, text in enumerate(texts)]
    DocumentRepository(conn).apply_records("s", records, lambda title, body: [("", body)])


def turned_model(folder: Path, settings: Settings, dims: int) -> str:
    """Folder of the packaged model with rotated vectors of ``dims`` dimensions, which is another encoder."""
    base = SentenceTransformer(resolve_model(settings.model), device="cpu")
    dense = Dense(384, dims, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        turn, _ = torch.linalg.qr(torch.randn(384, 384, generator=torch.Generator().manual_seed(dims)))
        dense.linear.weight.copy_(turn[:dims])
    SentenceTransformer(modules=[*base, dense]).save(str(folder))
    return str(folder)


def publish(conn: Connection, model: str, *, lexicon_weight: float | None = None) -> Published:
    """Make a generation with the vectors of a model, and a lexicon if it has a weight, and switch to it."""
    encoder = Encoder(resolve_model(model), device="cpu")
    rows = conn.execute("SELECT text FROM heal.chunk ORDER BY chunk_id").fetchall()
    vectors = encoder.encode([row[0] for row in rows])
    made = prepare(conn, encoder, model, vectors, lexicon_weight=lexicon_weight)
    GenerationRepository(conn).activate(made.generation_id, lock_timeout_ms=500)
    return made


def prepare(
    conn: Connection, encoder: Encoder, model: str, vectors: Float32Array, *, lexicon_weight: float | None = None
) -> Published:
    """Make a generation of the chunks' vectors that can be switched to."""
    generations = GenerationRepository(conn)
    sha256, dims = model_sha256(resolve_model(model)), vectors.shape[1]
    record = None if lexicon_weight is None else LexiconRecord(lexicon_weight=lexicon_weight)
    made = generations.create(
        run_id="r", space=SpaceRepository(conn).ensure(model, sha256, dims), lexicon=record and record.to_json()
    )
    generations.create_tables(made)
    chunks = Corpus(conn).chunks(None)
    ServedRepository(conn).write_served(made, Served(chunks.chunk_ids, chunks.document_ids, chunks.leaves, vectors))
    if record is not None:
        repository, dictionary = LexiconRepository(conn), StemDictionary()
        found = repository.chunk_stems(dictionary, chunks.chunk_ids)
        counts = count_stems(found.texts, found.stems, found.counts, (len(chunks.chunk_ids), len(dictionary)))
        fitted = fit_lexicon(counts, vectors, ridge=record.ridge)
        stored = StoredLexicon(dictionary.stems, fitted.chunks, fitted.weights, fitted.vectors)
        repository.write(made, stored, chunks.chunk_ids)
    generations.set_state(made.generation_id, "ready")
    return Published(made.generation_id, encoder)


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[str]:
    """The service on a free port of the loopback address; its URL."""
    with served(create_app(settings)) as url:
        yield url


@contextlib.contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """An ASGI application on a free port of the loopback address; its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_until_ready(url: str) -> None:
    """Wait until a generation is loaded."""
    for _ in range(600):
        if httpx2.get(f"{url}/healthz").status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError("no generation was loaded within a minute")
