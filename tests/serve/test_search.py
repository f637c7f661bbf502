"""Search by text through switches: generation and encoder change together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense

from heal_tasks.core.errors import StoreError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.serve.search import Searcher
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import Encoder, model_sha256

TEXTS = ["The heart pumps blood through the body.", "A violin has four strings.", "Basalt is a volcanic rock."]


def turned_model(folder: Path, settings: Settings, dims: int) -> str:
    """Folder of the packaged model with rotated vectors of ``dims`` dimensions, which is another encoder."""
    base = SentenceTransformer(resolve_model(settings.model), device="cpu")
    dense = Dense(384, dims, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        turn, _ = torch.linalg.qr(torch.randn(384, 384, generator=torch.Generator().manual_seed(dims)))
        dense.linear.weight.copy_(turn[:dims])
    SentenceTransformer(modules=[*base, dense]).save(str(folder))
    return str(folder)


def publish(conn: Connection, model: str) -> Encoder:
    encoder, generations = Encoder(resolve_model(model), device="cpu"), GenerationRepository(conn)
    sha256, dims = model_sha256(resolve_model(model)), encoder.encode([""]).shape[1]
    made = generations.create(run_id="r", space=SpaceRepository(conn).ensure(model, sha256, dims))
    generations.create_tables(made)
    chunks = Corpus(conn).chunks(None)
    rows = conn.execute("SELECT text FROM heal.chunk ORDER BY chunk_id").fetchall()
    vectors = encoder.encode([row[0] for row in rows])
    ServedRepository(conn).write_served(made, Served(chunks.chunk_ids, chunks.document_ids, chunks.leaves, vectors))
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=500)
    return encoder


def test_encoder_and_generation_are_reloaded_together(auto: Connection, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no generation is active yet"):
        Searcher(settings)
    records = [Record(str(number), "", text) for number, text in enumerate(TEXTS)]
    DocumentRepository(auto).apply_records("s", records, lambda title, body: [body])
    question = "Which rock comes from volcanoes?"

    def expected(encoder: Encoder) -> list[float]:
        return sorted(float(1 - value) for value in encoder.encode(TEXTS) @ encoder.encode([question])[0])

    first = publish(auto, settings.model)
    searcher = Searcher(settings)
    try:
        publish(auto, turned_model(tmp_path / "turned", settings, 384))
        hits = searcher.search(question)
        assert searcher.generation.generation_id == 1, "the previous generation still answers its own encoder"
        np.testing.assert_allclose([hit.distance for hit in hits], expected(first), atol=1e-4)
        third = publish(auto, turned_model(tmp_path / "cut", settings, 48))
        hits = searcher.search(question)
        assert searcher.generation.generation_id == 3
        assert hits[0].text == TEXTS[2]
        np.testing.assert_allclose([hit.distance for hit in hits], expected(third), atol=1e-4)
        publish(auto, settings.model)
        publish(auto, turned_model(tmp_path / "turned again", settings, 384))
        (best, *others) = searcher.hybrid("What has strings?")
        assert searcher.generation.generation_id == 5
        assert (best.text, best.vector_rank, best.word_rank) == (TEXTS[1], 1, 1)
        assert {hit.word_rank for hit in others} == {None}
    finally:
        searcher.close()
