"""Search by text through switches: generation and encoder change together."""

from pathlib import Path

import numpy as np
import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.core.settings import Settings
from heal_tasks.serve.search import Searcher
from heal_tasks.store.db import Connection
from tests.serve.published import TEXTS, Published, add_documents, publish, turned_model


def test_encoder_and_generation_are_reloaded_together(auto: Connection, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no generation is active yet"):
        Searcher(settings)
    add_documents(auto)
    question = "Which rock comes from volcanoes?"

    def expected(made: Published) -> list[float]:
        vectors = made.encoder.encode(TEXTS)
        return sorted(float(1 - value) for value in vectors @ made.query_vector(auto, question))

    first = publish(auto, settings.model, lexicon_weight=0.5)
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
        publish(auto, settings.model, lexicon_weight=0.0)
        publish(auto, turned_model(tmp_path / "turned again", settings, 384), lexicon_weight=0.0)
        (best, *others) = searcher.search("What has strings?")
        assert searcher.generation.generation_id == 5
        assert (best.text, best.vector_rank, best.word_rank) == (TEXTS[1], 1, 1)
        assert {hit.word_rank for hit in others} == {None}
    finally:
        searcher.close()
