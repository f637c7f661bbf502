"""The client with planted encoders: it follows switches in the background, by notification or without."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heal_tasks.client import Client
from heal_tasks.client.client import Encode
from heal_tasks.client.connections import Connections
from heal_tasks.client.following import NothingLiveError, Searchable, searchable
from heal_tasks.core.errors import InputError, RetryableError, SettingsError, StoreError
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.search import NotSearchable
from tests.store.sample_store import SampleStore, encode

ROOT = Path(__file__).parents[2]
DOCUMENTS, SWITCHES, THREADS = 30, 20, 4
SOON_S = 10.0
"""Far above the two seconds of a switch without notification, for busy machines."""


def planted(generation: Searchable) -> Encode:
    return lambda text: encode([text], generation.dims, generation.model_sha256)[0].tolist()


@pytest.fixture
def store(auto: Connection) -> SampleStore:
    made = SampleStore(auto)
    made.load_many(DOCUMENTS)
    return made


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    with Client(database_url, encoder=planted) as made:
        yield made


def soon(condition: Callable[[], bool]) -> float:
    """Wait until a condition holds, and return the seconds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < SOON_S
        time.sleep(0.005)
    return time.monotonic() - started


def generation_of(client: Client, text: str = "text 7") -> int:
    """The generation that answers a text, whose vector must be its encoder's."""
    hit = client.search(text, 3)[0]
    assert hit.text == text
    assert hit.distance < 1e-5
    return hit.generation_id


def published(store: SampleStore, model: str, dims: int = 8) -> Generation:
    """Make a generation and switch to it."""
    made = store.generation(model, dims)
    store.publish(made)
    return made


def test_threads_through_twenty_switches(store: SampleStore, client: Client, database_url: str) -> None:
    """Publications in other spaces and the same one, rollbacks, and rows moved in place."""
    live = previous = published(store, "m0")
    failures, stop = list[str](), threading.Event()
    latest, counts = [0] * THREADS, [0] * THREADS

    def work(number: int) -> None:
        try:
            with connect(database_url, autocommit=True) as conn:
                while not stop.is_set():
                    before = searchable(conn)
                    latest[number] = generation_of(client, f"text {number}")
                    assert latest[number] in {item.generation_id for item in before + searchable(conn)}
                    assert client.hybrid_search("text 9")[0].text == "text 9"
                    assert client.find("text 3", 1)[0].text == "text 3"
                    counts[number] += 1
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    took = list[float]()
    try:
        for number in range(SWITCHES):
            kind = number % 4
            if kind == 0:
                live, previous = published(store, f"m{number}", 8 + number), live
            elif kind == 1:
                live, previous = previous, live
                store.generations.activate(live.generation_id, lock_timeout_ms=500)
            elif kind == 2:
                rows = store.wanted(live)
                rows.leaves[:] = number
                assert store.served.upsert_served(live, rows).changed == DOCUMENTS
                live, previous = published(store, store.space_of(live).model_sha256, live.dims), live
            else:  # at once after the last one, before all have followed that
                live, previous = published(store, f"m{number}", 8), live
            if kind != 2:
                took.append(soon(lambda: failures or set(latest) == {live.generation_id}))  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"{sum(counts)} rounds; seconds until all threads had followed: {[round(seconds, 2) for seconds in took]}")
    assert failures == []
    assert min(counts) > SWITCHES


def test_the_previous_generation_answers_while_the_encoder_is_loaded(store: SampleStore, database_url: str) -> None:
    first, may_load, loads = published(store, "m0"), threading.Event(), list[str]()

    def slow(generation: Searchable) -> Encode:
        loads.append(generation.model_sha256)
        assert generation.generation_id == first.generation_id or may_load.wait(SOON_S)
        return planted(generation)

    with Client(database_url, encoder=slow) as client:
        assert client.find("text 7", 1)[0].generation_id == first.generation_id
        assert loads == [], "no encoder is needed for a search by text"
        assert generation_of(client) == first.generation_id
        second = published(store, "m1", 12)
        soon(lambda: loads == ["m0", "m1"])  # without a search
        assert generation_of(client) == first.generation_id
        assert client.find("text 7", 1)[0].generation_id == second.generation_id
        third = published(store, "m2", 8)  # retires the first
        waiting = threading.Thread(target=lambda: answers.append(generation_of(client)))
        answers = list[int]()
        waiting.start()
        waiting.join(0.2)
        assert answers == [], "nothing that could answer is loaded"
        may_load.set()
        waiting.join(SOON_S)
        assert answers[0] in (second.generation_id, third.generation_id)
        soon(lambda: generation_of(client) == third.generation_id)
        store.generations.activate(second.generation_id, lock_timeout_ms=500)
        soon(lambda: generation_of(client) == second.generation_id)
        published(store, "m1", 12)
        assert sorted(loads) == ["m0", "m1", "m2"], "an encoder that is loaded is not loaded again"


def test_a_switch_without_notification_is_followed(store: SampleStore, client: Client) -> None:
    """As behind PgBouncer in transaction mode."""
    first, second = published(store, "m0"), published(store, "m1", 12)
    assert generation_of(client) == second.generation_id
    for old, new in ((second, first), (first, second)):
        states = [("retired", new.generation_id), ("previous", old.generation_id), ("active", new.generation_id)]
        with store.conn.transaction(), store.conn.cursor() as cursor:
            cursor.executemany("UPDATE heal.generation SET state = %s WHERE generation_id = %s", states)
        soon(lambda: generation_of(client) == new.generation_id)  # noqa: B023


def test_an_encoder_that_cannot_be_loaded_is_no_silence(
    store: SampleStore, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = published(store, "m0")

    def broken(generation: Searchable) -> Encode:
        if generation.model_sha256 != "m0":
            raise InputError(f"no files of {generation.model_sha256}")
        return planted(generation)

    with Client(database_url, encoder=broken) as client:
        assert generation_of(client) == first.generation_id
        published(store, "m1", 12)
        soon(lambda: "no files of m1" in caplog.text)
        assert generation_of(client) == first.generation_id
        published(store, "m1", 12)
        with pytest.raises(InputError, match="no files of m1"):
            client.search("text 7")
        assert client.find("text 7", 1)[0].text == "text 7"


def test_a_vector_comes_with_its_generation(store: SampleStore, client: Client) -> None:
    with pytest.raises(NothingLiveError, match="no generation is active yet"):
        client.hybrid_search("text 7")
    with pytest.raises(NotSearchable, match="No generation is active yet"):
        client.find("text 7")
    first = published(store, "m0")
    vector = encode(["text 7"], 8, "m0")[0]
    assert client.search(vector, 1, generation_id=first.generation_id)[0].text == "text 7"
    assert client.search(vector.tolist(), 1, generation_id=first.generation_id)[0].distance == pytest.approx(
        0, abs=1e-6
    )
    with pytest.raises(InputError, match="give its generation_id"):
        client.search(vector)
    published(store, "m1")
    with pytest.warns(
        UserWarning, match="generation 1 is not live any more: documents added or changed since"
    ) as heard:
        assert client.search(vector, 1, generation_id=first.generation_id)[0].text == "text 7"
    assert [Path(item.filename).name for item in heard] == ["test_client.py"]
    published(store, "m2")
    with pytest.raises(NotSearchable, match="load its encoder"):
        client.search(vector, generation_id=first.generation_id)
    live = published(store, "m0")
    with pytest.warns(UserWarning, match="generation 1 is retired: its query vectors are those of generation 4"):
        (hit,) = client.search(vector, 1, generation_id=first.generation_id)
    assert (hit.text, hit.generation_id) == ("text 7", live.generation_id)


def test_changes_are_yielded_for_caches(store: SampleStore, client: Client) -> None:
    first, found = published(store, "m0"), list[Searchable]()
    thread = threading.Thread(target=lambda: found.extend(client.changes()), daemon=True)
    thread.start()
    soon(lambda: len(found) == 1)
    rows = store.wanted(first)
    store.served.upsert_served(first, rows)
    rows.leaves[0] = 3
    store.served.upsert_served(first, rows)
    soon(lambda: len(found) == 2)
    store.delete("d3")
    soon(lambda: len(found) == 3)
    second = published(store, "m1")
    soon(lambda: len(found) == 4)
    client.close()
    thread.join(SOON_S)
    assert not thread.is_alive()
    assert [item.generation_id for item in found] == [first.generation_id] * 3 + [second.generation_id]
    assert len({item.changed_at for item in found}) == 4


def test_a_lost_connection_is_no_stale_answer(store: SampleStore, client: Client) -> None:
    published(store, "m0")
    generation_of(client)
    store.conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    second = published(store, "m1", 12)
    with contextlib.suppress(RetryableError):
        generation_of(client)
    soon(lambda: generation_of(client) == second.generation_id)


def test_all_connections_that_are_lost_together_cost_one_error(store: SampleStore, database_url: str) -> None:
    published(store, "m0")
    connections = Connections(database_url, vectors=False)
    with connections.take() as one, connections.take() as two, connections.take():
        for conn in (one, two):
            conn.execute("SELECT 1")
    store.conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    with pytest.raises(RetryableError), connections.take() as one:
        one.execute("SELECT 1")
    with connections.take() as one, connections.take() as two, connections.take() as three:
        for conn in (one, two, three):
            conn.execute("SELECT 1")
        connections.close()
    assert one.closed
    assert three.closed


def test_a_closed_client_says_so(store: SampleStore, client: Client) -> None:
    published(store, "m0")
    client.find("text 7")
    client.close()
    with pytest.raises(StoreError, match="closed"):
        client.find("text 7")


def test_a_malformed_url_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="malformed"):
        Client("postgresql://user:pass/word@host")


def test_search_by_text_loads_psycopg_alone(store: SampleStore, database_url: str) -> None:
    published(store, "m0")
    code = """
import sys
before = set(sys.modules)
from heal_tasks.client import Client
with Client(sys.argv[1]) as client:
    assert client.find("text 7", 1)[0].text == "text 7"
    assert client.search([1.0] * 8, generation_id=client.live().generation_id)
    assert client.similar(client.find("text 7")[0].document_id)
loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(*sorted(name for name in loaded if "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")))
"""
    command = [sys.executable, "-c", code, database_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"psycopg", "psycopg_binary", "typing_extensions"}
