"""Switches during a stream of requests: none fails, and every reply is right for the generation that it names."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from heal_tasks.client.connections import MOST, Connections
from heal_tasks.core.errors import RetryableError
from heal_tasks.core.settings import Settings
from heal_tasks.serve.batching import Batcher
from heal_tasks.serve.encoders import Encoders
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from tests.serve.published import TEXTS, add_documents, publish, running, turned_model, wait_until_ready

QUESTIONS = ["Which rock comes from volcanoes?", "What has strings?", "What does the heart do?", "xyzzy"]
CLIENTS = 4


def test_no_request_fails_through_switches(auto: Connection, settings: Settings, tmp_path: Path) -> None:
    add_documents(auto)
    models = [settings.model, turned_model(tmp_path / "a", settings, 384), turned_model(tmp_path / "b", settings, 48)]
    published = [publish(auto, models[0], lexicon_weight=0.5)]
    replies: list[tuple[str, Any]] = []
    stop = threading.Event()

    def client(url: str, question: str) -> None:
        with httpx2.Client(base_url=url, timeout=30) as http:
            while not stop.is_set():
                for path, body in (
                    ("/v1/embeddings", {"model": "heal-active", "input": [question, TEXTS[0]]}),
                    ("/v1/embeddings", {"model": "heal-active:document", "input": TEXTS[1]}),
                    ("/v1/search", {"question": question, "path": "encoder"}),
                    ("/v1/search", {"question": question}),
                ):
                    replies.append((question, http.post(path, json=body)))

    with running(settings) as url:
        wait_until_ready(url)
        clients = [threading.Thread(target=client, args=(url, question)) for question in QUESTIONS]
        for thread in clients:
            thread.start()
        try:
            expected = {1: [published[0].query_vector(auto, question) for question in QUESTIONS]}
            took = []
            for model in models[1:]:
                published.append(publish(auto, model, lexicon_weight=1.0))
                took.append(seconds_until(url, published[-1].generation_id))
                live = published[-1]
                expected[live.generation_id] = [live.query_vector(auto, question) for question in QUESTIONS]
            GenerationRepository(auto).activate(2, lock_timeout_ms=500)  # a rollback
            took.append(seconds_until(url, 2))
        finally:
            stop.set()
            for thread in clients:
                thread.join()
    print("seconds until a switch was followed:", [f"{seconds:.1f}" for seconds in took], len(replies), "replies")
    assert max(took) < 20
    assert Counter(reply.status_code for _, reply in replies) == {200: len(replies)}
    assert {reply.headers["x-heal-generation"] for _, reply in replies} == {"1", "2", "3"}
    stored = {made.generation_id: made.encoder.encode([TEXTS[1]])[0] for made in published}
    for question, reply in replies:
        number, body = int(reply.headers["x-heal-generation"]), reply.json()
        if "model" not in body:
            assert body["generation"] == number
            continue
        assert body["model"] == f"heal-g{number:06d}"
        vectors = [np.array(item["embedding"]) for item in body["data"]]
        right = expected[number][QUESTIONS.index(question)] if len(vectors) == 2 else stored[number]
        np.testing.assert_allclose(vectors[0], right, atol=1e-4)


def test_a_generation_without_its_files_leaves_the_old_one(
    auto: Connection, settings: Settings, tmp_path: Path
) -> None:
    add_documents(auto)
    publish(auto, settings.model)
    folder, connections, batcher = tmp_path / "a", Connections(settings.require_database_url()), Batcher(lambda _: None)
    encoders = Encoders(settings, connections, batcher)
    encoders.refresh()
    first = encoders.active()
    publish(auto, turned_model(folder, settings, 48))
    (folder / "modules.json").rename(tmp_path / "away")
    encoders.try_refresh()
    assert encoders.active() is first
    (tmp_path / "away").rename(folder / "modules.json")
    encoders.try_refresh()
    assert [item.generation_id for item in encoders.loaded()] == [2, 1]
    publish(auto, settings.model)
    encoders.try_refresh()
    assert encoders.active().encoder is first.encoder, "an encoder that is loaded is not loaded again"
    assert encoders.get(1) is None
    batcher.close()
    connections.close()


def test_the_connections_survive_the_loss_of_one(database_url: str) -> None:
    connections = Connections(database_url)
    for _ in range(2 * MOST):
        with pytest.raises(RetryableError, match="the database does not answer"), connections.take() as conn:
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with connections.take() as conn:
        assert conn.execute("SELECT 1").fetchall() == [(1,)]
    connections.close()


def seconds_until(url: str, generation_id: int) -> float:
    started = time.monotonic()
    while httpx2.get(f"{url}/healthz").headers["x-heal-generation"] != str(generation_id):
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    return time.monotonic() - started
