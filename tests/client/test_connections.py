"""Errors as the client raises and logs them: of the database, and of encoders that cannot be loaded."""

import logging
from collections.abc import Iterator

import pytest

from heal_tasks.client import Client
from heal_tasks.client.connections import Connections
from heal_tasks.client.following import Following, Searchable
from heal_tasks.core.errors import InputError, StoreError
from heal_tasks.store.db import Connection
from tests.store.sample_store import SampleStore


@pytest.fixture
def client(auto: Connection, database_url: str) -> Iterator[Client]:
    store = SampleStore(auto)
    store.load_many(10)
    store.publish(store.generation())
    with Client(database_url) as made:
        yield made


def test_an_argument_that_the_database_refuses_is_an_input_error(client: Client) -> None:
    for ask, message in (
        (lambda: client.find("text", 1 << 40), "integer out of range"),
        (lambda: client.find("text", topic=1 << 70), "bigint out of range"),
        (lambda: client.find("text", language="\0"), "cannot contain NUL"),
        (lambda: client.search([float("nan")] * 8, generation_id=1), "NaN not allowed in vector"),
        (lambda: client.search([], generation_id=1), "vector must have at least 1 dimension"),
    ):
        with pytest.raises(InputError, match=f"the database refused an argument: .*{message}"):
            ask()
    assert client.find("text 7", 1)[0].text == "text 7"


def test_a_database_that_cannot_be_read_is_named_with_the_cure(auto: Connection, database_url: str) -> None:
    stranger = f"stranger_{database_url.rpartition('_')[2]}"
    auto.execute(f"CREATE ROLE {stranger} LOGIN PASSWORD 'x'")  # type: ignore[arg-type]
    try:
        with (
            Client(f"postgresql://{stranger}:x@{database_url.rpartition('@')[2]}") as client,
            pytest.raises(StoreError, match=r"permission denied for schema heal; .* has been granted heal_reader"),
        ):
            client.find("text 7")
    finally:
        auto.execute(f"DROP ROLE {stranger}")  # type: ignore[arg-type]
    with Client(database_url.rpartition("/")[0] + "/postgres") as client:
        for ask in (client.live, lambda: client.find("text 7")):
            with pytest.raises(StoreError, match="does not exist; check that it is the right database"):
                ask()


def test_a_previous_generation_that_cannot_be_loaded_is_logged_once(
    auto: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SampleStore(auto)
    store.load_many(3)
    for model in ("m0", "m1"):
        store.publish(store.generation(model))

    def load(generation: Searchable) -> str:
        if generation.model_sha256 == "m0":
            raise FileNotFoundError("no files")
        return generation.model_sha256

    connections = Connections(database_url, vectors=False)
    following = Following(connections, load, load_previous=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            following.try_refresh()
    connections.close()
    assert following.active().encoder == "m1"
    assert [record.getMessage() for record in caplog.records] == ["generation 1 is not loaded: no files"]
