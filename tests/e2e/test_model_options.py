"""Prompts and fewer dimensions from end to end: training, gate, search, and a change of them on a later night."""

import functools
from collections.abc import Iterator

import numpy as np
import pytest

from heal_tasks.client import Client
from heal_tasks.client.encoders import query_encoder
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.db import connect
from heal_tasks.store.spaces.spaces import Space, SpaceRepository
from heal_tasks.training.encoder import load_encoder, model_sha256
from tests.conftest import fresh_database
from tests.e2e.conftest import SMALL, Deployment, short

pytestmark = pytest.mark.skipif("not config.getoption('--soak')", reason="make soak runs it (--soak)")
OPTIONS = {"query_prompt": "query: ", "document_prompt": "passage: ", "dimensions": 128}
URI = "all-MiniLM-L6-v2?dimensions=128&query_prompt=query%3A%20&document_prompt=passage%3A%20"


@pytest.fixture(scope="module")
def deployment(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    var_dir = tmp_path_factory.mktemp("options")
    with fresh_database(postgres) as url:
        made = Deployment(load_settings(var_dir=var_dir, database_url=url, **SMALL, **OPTIONS), {})
        made.write("first.jsonl", short(sample(("sklearn", "networkx"), 60, seed=5)))
        made.run("first")
        yield made


def spaces(deployment: Deployment) -> list[Space]:
    with connect(deployment.settings.require_database_url()) as conn:
        return list(SpaceRepository(conn).list())


def test_base_and_trained_model_have_them(deployment: Deployment) -> None:
    base, trained = spaces(deployment)
    assert (base.model_uri, base.dims, trained.dims) == (URI, 128, 128)
    assert base.model_sha256 != model_sha256(resolve_model("all-MiniLM-L6-v2"))
    model = load_encoder(artifact_store(deployment.settings).local(trained.model_uri), device="cpu")
    assert (model.prompts["query"], model.prompts["document"]) == ("query: ", "passage: ")
    assert model.get_embedding_dimension() == 128
    assert trained.model_sha256 == model_sha256(trained.model_uri)


def test_a_night_with_other_options_realigns_and_asks_what_is_live_as_before(deployment: Deployment) -> None:
    deployment.write("second.jsonl", short(sample(("scipy",), 3, seed=2)))
    assert deployment.run("unchanged")[-1].step == "report"
    url, others = deployment.settings.require_database_url(), {"query_prompt": "search: ", "dimensions": 0}
    changed = deployment.settings.model_copy(update=others)
    with Client(url, encoder=functools.partial(query_encoder, settings=changed)) as client:
        live = client.live()
        assert live.dims == 128
        hits = client.search("how are clusters found")
        assert len(hits) == 10
        assert hits[0].distance < 0.7
    made = deployment.run("other", **others)
    notes = {manifest.step: manifest.note for manifest in made}
    assert notes["route"].startswith("realign: ")
    assert {space.dims for space in spaces(deployment)} == {128, 384}
    with connect(url) as conn:
        repository = SpaceRepository(conn)
        space = repository.find_by_uri(changed.model_uri)
        assert space is not None
        _, vectors = repository.load_chunks(space)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)
