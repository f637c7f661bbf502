"""Prompts and dimensions by setting: part of a space, used wherever its texts are encoded, also after a change."""

import functools
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from heal_tasks.cli.doctor import Finding, examine
from heal_tasks.client import Client
from heal_tasks.client.encoders import query_encoder
from heal_tasks.core.errors import InputError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository
from tests.fake_embeddings import FakeEmbeddings, planted
from tests.serve.published import add_documents, running, wait_until_ready
from tests.training.families import write_family
from tests.training.test_families import reference

TEXTS = ["d1 d2 d3", "q4 n5", "n6 d7 q8 q9"]
PROMPTS = {"query_prompt": "query : ", "document_prompt": "passage : "}


@pytest.fixture(scope="module")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("e5", tmp_path_factory.mktemp("e5-small-v2"))


@pytest.fixture
def stored(auto: Connection) -> Connection:
    add_documents(auto, TEXTS)
    return auto


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


def embedded(conn: Connection, settings: Settings) -> tuple[Space, np.ndarray]:
    """The base model's space after step embed_base, and its vectors by chunk id."""
    load_step("embed_base").run(settings, Manifest(run_id=settings.model_uri))
    space = SpaceRepository(conn).find_by_uri(settings.model_uri)
    assert space is not None
    return space, SpaceRepository(conn).load_chunks(space)[1]


def in_store(conn: Connection) -> list[str]:
    """The texts by chunk id."""
    return [text for (text,) in conn.execute("SELECT text FROM heal.chunk ORDER BY chunk_id").fetchall()]


def go_live(conn: Connection, space: Space, vectors: np.ndarray) -> int:
    """Serve the vectors of a space; returns the generation."""
    generations = GenerationRepository(conn)
    made = generations.create(run_id="r", space=space)
    generations.create_tables(made)
    chunks = Corpus(conn).chunks(None)
    ServedRepository(conn).write_served(made, Served(chunks.chunk_ids, chunks.document_ids, chunks.leaves, vectors))
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=500)
    return made.generation_id


def test_every_choice_of_prompts_and_dimensions_is_a_space_of_its_own(
    stored: Connection, settings: Settings, e5: Path
) -> None:
    plain = changed(settings, model=str(e5))
    for options, document, dims in (
        ({}, "", 32),
        (PROMPTS, "passage : ", 32),
        ({**PROMPTS, "query_prompt": "search : "}, "passage : ", 32),
        ({**PROMPTS, "dimensions": 8}, "passage : ", 8),
        ({**PROMPTS, "dimensions": 32}, "passage : ", 32),
    ):
        space, vectors = embedded(stored, changed(plain, **options))
        assert space.dims == dims
        by_prompt = {text: reference(e5, text, in_store(stored), dims) for text in ("", "passage : ")}
        cosines = {text: (vectors * expected).sum(axis=1).min() for text, expected in by_prompt.items()}
        assert cosines.pop(document) > 0.999  # the step computes in bfloat16
        assert max(cosines.values()) < 0.99
    spaces = SpaceRepository(stored).list()
    assert len({space.model_sha256 for space in spaces}) == len(spaces) == 5
    assert spaces[1].model_uri == f"{e5}?query_prompt=query%20%3A%20&document_prompt=passage%20%3A%20"
    with pytest.raises(InputError, match=r"HEAL_DIMENSIONS=33 is more than the 32 of the model in .*; lower it"):
        embedded(stored, changed(plain, dimensions=33))


def test_client_and_service_encode_with_the_prompts_of_what_is_live(
    stored: Connection, settings: Settings, e5: Path
) -> None:
    made = changed(settings, model=str(e5), dimensions=8, **PROMPTS)
    generation = go_live(stored, *embedded(stored, made))
    now = changed(settings, model=str(e5), query_prompt="search : ", dimensions=16)  # not realigned yet
    question = reference(e5, "query : ", ["q1 q2"], 8)[0]
    expected = sorted(1 - reference(e5, "passage : ", TEXTS, 8) @ question)
    load = functools.partial(query_encoder, settings=now)
    with Client(settings.require_database_url(), encoder=load) as client:
        np.testing.assert_allclose([hit.distance for hit in client.search("q1 q2")], expected, atol=1e-3)
    with running(now) as url:
        wait_until_ready(url)
        for suffix, text, vector in (
            ("", "q1 q2", question),
            (":document", TEXTS[0], reference(e5, "passage : ", TEXTS, 8)[0]),
        ):
            asked = {"model": f"heal-g{generation:06d}{suffix}", "input": text}
            reply = httpx2.post(f"{url}/v1/embeddings", json=asked, timeout=30).json()
            np.testing.assert_allclose(reply["data"][0]["embedding"], vector, atol=1e-5)


def test_prompts_are_put_before_texts_that_are_sent_to_an_api(stored: Connection, settings: Settings) -> None:
    with FakeEmbeddings() as server:
        api = changed(settings, model="openai:e5-small", embed_base_url=server.base_url, **PROMPTS)
        plain, _ = embedded(stored, changed(api, query_prompt=None, document_prompt=None))
        space, vectors = embedded(stored, api)
        cut, short = embedded(stored, changed(api, dimensions=3))
        assert space.model_uri == "openai:e5-small?query_prompt=query%20%3A%20&document_prompt=passage%20%3A%20"
        assert len({item.model_sha256 for item in (plain, space, cut)}) == 3
        expected = planted([f"passage : {text}" for text in in_store(stored)])
        np.testing.assert_allclose(vectors, expected, atol=1e-3)
        expected = expected[:, :3] / np.linalg.norm(expected[:, :3], axis=1, keepdims=True)
        np.testing.assert_allclose(short, expected, atol=1e-3)
        go_live(stored, cut, short)
        # The settings have changed since, and the live vectors have not.
        now = changed(api, dimensions=0, query_prompt="search : ")
        load = functools.partial(query_encoder, settings=now)
        with Client(settings.require_database_url(), encoder=load) as client:
            assert len(client.search("q1 q2")) == 3
        assert server.bodies[-1]["input"] == ["query : q1 q2"]
        assert server.bodies[-1]["dimensions"] == 3


def model_findings(settings: Settings) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.subject == "model"]


def test_doctor_and_plan_name_the_prompts_that_a_model_was_trained_with(
    stored: Connection, settings: Settings, e5: Path
) -> None:
    sentence = (
        f"{e5} was trained with 'query: ' before every query and 'passage: ' before every document; "
        'set HEAL_QUERY_PROMPT="query: " and HEAL_DOCUMENT_PROMPT="passage: "'
    )
    without = changed(settings, model=str(e5), source_roots=(), sources=(settings.inbox,))
    note, found, length = model_findings(without)
    assert length.text == (
        f"{e5} reads 40 tokens of a text, and a chunk with its prompt may have 240; lower HEAL_CHUNK_TOKENS by 200"
    )
    without = changed(without, chunk_tokens=30)
    note, found = model_findings(without)
    assert (note.level, note.text) == ("note", sentence)
    assert (found.level, found.text) == ("ok", f"{e5} in {e5} gives vectors of 32 dimensions")
    (tmp := Path(settings.inbox.removeprefix("file:"))).mkdir(parents=True, exist_ok=True)
    (tmp / "d.txt").write_text("d1 d2")
    assert f"model      {sentence}" in make_plan(without).lines()
    right = {"query_prompt": "query: ", "document_prompt": "passage: "}
    assert not any("trained with" in line for line in make_plan(changed(without, **right)).lines())
    (found,) = model_findings(changed(without, **right, dimensions=8))
    assert found.text.endswith("gives vectors of 8 dimensions")
    *_, found = model_findings(changed(without, dimensions=64))
    assert found.level == "fail"
    assert "HEAL_DIMENSIONS=64 is more than the 32" in found.text
