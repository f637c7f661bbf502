"""A model behind an embeddings API from end to end: the vectors of the model in files, each paid for once."""

from collections.abc import Iterator

import numpy as np
import pytest

from heal_tasks.core.errors import HealError
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.db import connect
from heal_tasks.store.spaces.spaces import Space, SpaceRepository
from heal_tasks.training.encoder import Encoder
from tests.conftest import fresh_database
from tests.e2e.conftest import BRIEF, Deployment, short
from tests.fake_embeddings import FAULTS, FakeEmbeddings

MODEL = "openai:minilm"


@pytest.fixture(scope="module")
def local() -> Encoder:
    return Encoder(resolve_model("all-MiniLM-L6-v2"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def server(local: Encoder) -> Iterator[FakeEmbeddings]:
    """The packaged model behind the protocol; the first request of every batch fails, each time in another way."""
    with FakeEmbeddings(
        local.encode, lambda texts, attempt: FAULTS[len(texts[0]) % len(FAULTS)] if not attempt else None
    ) as made:
        yield made


@pytest.fixture(scope="module")
def deployment(
    postgres: EmbeddedPostgres, server: FakeEmbeddings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    var_dir = tmp_path_factory.mktemp("api")
    with fresh_database(postgres) as url:
        settings = load_settings(
            var_dir=var_dir,
            database_url=url,
            model=MODEL,
            embed_base_url=server.base_url,
            llm_run_spend_limit_usd=1.0,
            **BRIEF,
        )
        made = Deployment(settings, {})
        made.write("first.jsonl", short(sample(("sklearn", "networkx"), 44, seed=5)))
        made.run("first")
        yield made


def space_of(deployment: Deployment) -> Space:
    with connect(deployment.settings.require_database_url()) as conn:
        (space,) = SpaceRepository(conn).list()
    return space


def test_its_vectors_are_those_of_the_model_in_files(deployment: Deployment, local: Encoder) -> None:
    space = space_of(deployment)
    assert (space.model_uri, space.dims) == (MODEL, 384)
    with connect(deployment.settings.require_database_url()) as conn:
        ids, vectors = SpaceRepository(conn).load_chunks(space)
        rows = dict(conn.execute(
            "SELECT c.chunk_id, d.title || E'\\n' || c.text FROM heal.chunk c JOIN heal.document d USING (document_id)"
        ).fetchall())  # fmt: skip
        asked, question_vectors = SpaceRepository(conn).load_questions(space)
        questions = dict(conn.execute("SELECT question_id, text FROM heal.question").fetchall())
    np.testing.assert_allclose(vectors, local.encode([rows[chunk_id] for chunk_id in ids.tolist()]), atol=1e-3)
    texts = [questions[question_id] for question_id in asked.tolist()]
    np.testing.assert_allclose(question_vectors, local.encode(texts, role="query"), atol=1e-3)


def test_nothing_is_trained_and_a_generation_is_live(deployment: Deployment) -> None:
    notes = {manifest.step: manifest.note for manifest in deployment.manifests["first"]}
    assert "behind an API" in notes["mine"]
    with connect(deployment.settings.require_database_url()) as conn:
        systems = {row[0] for row in conn.execute("SELECT system FROM heal.evaluation").fetchall()}
        assert not any("answers" in system for system in systems)
        assert {"base model", "base model + lexicon"} <= systems
        hits = conn.execute("SELECT title FROM heal.find('how are clusters found', 3)").fetchall()
        state = conn.execute("SELECT count(*) FROM heal.generation WHERE state = 'active'").fetchone()
    assert len(hits) == 3
    assert state == (1,)


def test_every_text_is_paid_for_once_and_booked(deployment: Deployment, server: FakeEmbeddings) -> None:
    assert {text: times for text, times in server.paid.items() if times > 1} == {}
    with connect(deployment.settings.require_database_url()) as conn:
        booked = conn.execute(
            "SELECT sum(input_tokens), sum(cost_usd) FROM heal.llm_call WHERE purpose = 'embeddings' AND status = 'ok'"
        ).fetchone()
    assert booked is not None
    tokens = sum(1 + len(text) // 4 for text in server.paid if text != "length")
    assert booked[0] == tokens
    assert booked[1] == pytest.approx(tokens * 0.02 / 1e6)


def test_a_night_embeds_only_new_texts(deployment: Deployment, server: FakeEmbeddings) -> None:
    before = dict(server.paid)
    deployment.write("second.jsonl", short(sample(("scipy",), 3, seed=2)))
    made = deployment.run("second", force_route="nudge")
    assert "nudge_live" in {manifest.step for manifest in made}
    again = {text for text, times in server.paid.items() if times > before.get(text, 1)}
    assert len(again) <= 1, "one chunk may be sent again, to see that the model is still the same"
    assert set(server.paid) - set(before)


def test_another_model_under_the_same_name_is_refused(deployment: Deployment, server: FakeEmbeddings) -> None:
    deployment.write("third.jsonl", [{"id": "x", "title": "New", "text": "Valves and pumps in water works."}])
    model, server.vectors = server.vectors, lambda texts: np.roll(model(texts), 7, axis=1)
    try:
        with pytest.raises(HealError, match="other vectors than when space"):
            deployment.run("third", force_route="nudge")
    finally:
        server.vectors = model


def test_a_spend_limit_stops_with_what_is_left_to_embed(deployment: Deployment) -> None:
    with pytest.raises(HealError, match=r"spend limit is reached: \d+ texts have no vector.* kept"):
        deployment.run("fourth", force_route="nudge", llm_run_spend_limit_usd=1e-9)
    deployment.run("fifth", force_route="nudge")


def test_another_model_is_compared_with_what_is_live_and_pays_nothing(
    deployment: Deployment, server: FakeEmbeddings
) -> None:
    requests = len(server.bodies)
    made = deployment.run("local", model="all-MiniLM-L6-v2")
    (reason,) = (manifest.note for manifest in made if manifest.step == "route")
    assert "HEAL_MODEL was openai:minilm at the last realignment and is all-MiniLM-L6-v2" in reason
    assert len(server.bodies) == requests
    with connect(deployment.settings.require_database_url()) as conn:
        assert {space.model_uri for space in SpaceRepository(conn).list()} >= {MODEL, "all-MiniLM-L6-v2"}
        assert len(conn.execute("SELECT title FROM heal.find('how are clusters found', 3)").fetchall()) == 3
    (reason,) = (manifest.note for manifest in deployment.run("back") if manifest.step == "route")
    assert "HEAL_MODEL was all-MiniLM-L6-v2" in reason
    assert len(server.bodies) == requests, "the vectors of the first time are still there"
