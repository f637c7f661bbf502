"""Encoders from files: search by text through switches of real models."""

import functools
import time
from pathlib import Path

import numpy as np
import pytest

from heal_tasks.client import Client
from heal_tasks.client.encoders import query_encoder
from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from tests.serve.published import TEXTS, Published, add_documents, publish, turned_model


def test_encoder_and_generation_are_replaced_together(auto: Connection, settings: Settings, tmp_path: Path) -> None:
    add_documents(auto)
    question = "Which rock comes from volcanoes?"
    other, made = turned_model(tmp_path / "other", settings, 48), dict[int, list[float]]()

    def expected(published: Published) -> list[float]:
        vector = published.query_vector(auto, question)
        return sorted(float(1 - value) for value in published.encoder.encode(TEXTS) @ vector)

    load = functools.partial(query_encoder, settings=settings)
    with Client(settings.require_database_url(), encoder=load) as client:
        for model, weight in ((settings.model, 0.5), (other, 0.0)):
            published = publish(auto, model, lexicon_weight=weight)
            made[published.generation_id] = expected(published)
            hits = client.hybrid_search(question)
            while hits[0].generation_id != published.generation_id:
                assert hits[0].generation_id == published.generation_id - 1
                np.testing.assert_allclose([hit.distance for hit in hits], made[hits[0].generation_id], atol=1e-4)
                time.sleep(0.1)
                hits = client.hybrid_search(question)
            assert hits[0].text == TEXTS[2]
            np.testing.assert_allclose([hit.distance for hit in hits], made[published.generation_id], atol=1e-4)
        (best, *others) = client.hybrid_search("What has strings?")
        assert (best.text, best.vector_rank, best.word_rank) == (TEXTS[1], 1, 1)
        assert {hit.word_rank for hit in others} == {None}
        near = client.search(question)
        vector = published.encoder.encode([question], role="query")[0]
        assert [hit.chunk_id for hit in near] == [hit.chunk_id for hit in client.search(vector, generation_id=2)]
        assert near[0].distance == pytest.approx(made[2][0], abs=1e-4)
