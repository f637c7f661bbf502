"""Readers through many switches: no error, no mixture of vector spaces, nobody held up by the switch."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from psycopg import sql

from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.search import NotSearchable, search
from tests.store.sample_store import SampleStore, encode

DOCUMENTS, READS, SWITCHES = 50, 3_000, 20
HOLD_S = 8.0
"""Seconds that a report query keeps the view locked; a reader that queues behind the switch would wait as long."""


@dataclass
class Readers:
    """Threads that read until told to stop, and what they saw."""

    url: str
    failures: list[str] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    longest_s: list[float] = field(default_factory=list)
    pause_s: float = 0.0  # after each read
    reloads: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, read: Callable[[Connection], str | None], *, prepared: bool) -> None:
        """Call ``read`` again and again on a connection of its own; what it returns is a failure."""
        number = len(self.threads)
        self.reads.append(0)
        self.longest_s.append(0.0)

        def loop() -> None:
            try:
                with connect(self.url, autocommit=True) as conn:
                    conn.prepare_threshold = 0 if prepared else None
                    while not self.stop.is_set():
                        start = time.monotonic()
                        if failure := read(conn):
                            self.failures.append(failure)
                        self.longest_s[number] = max(self.longest_s[number], time.monotonic() - start)
                        self.reads[number] += 1
                        self.stop.wait(self.pause_s)
            except Exception as error:
                self.failures.append(repr(error))

        self.threads.append(threading.Thread(target=loop))
        self.threads[-1].start()

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


@pytest.fixture
def readers(database_url: str) -> Readers:
    return Readers(database_url)


def pinned(generation: Generation, model: str) -> Callable[[Connection], str | None]:
    """A client that stays with one generation."""
    vector = encode(["text 7"], generation.dims, model)[0]

    def read(conn: Connection) -> str | None:
        hit = search(conn, vector, generation.generation_id, k=3)[0]
        return None if hit.text == "text 7" and hit.distance < 1e-5 else f"mixed: {hit}"

    return read


def follower(readers: Readers) -> Callable[[Connection], str | None]:
    """A client that takes the live generation, encodes with its model, and starts again when told to."""

    def read(conn: Connection) -> str | None:
        row = conn.execute(
            "SELECT generation_id, dims, model_uri FROM heal.generation_status WHERE state = 'active'"
        ).fetchone()
        if row is None:
            return "no generation is active"
        number, dims, model_uri = row
        vector = encode(["text 9"], dims, model_uri.removeprefix("/models/"))[0]
        try:
            hit = search(conn, vector, number, k=3)[0]
        except NotSearchable:
            readers.reloads += 1
            return None
        return None if hit.text == "text 9" and hit.distance < 1e-5 else f"mixed: {hit}"

    return read


def analyst(dims: dict[int, int]) -> Callable[[Connection], str | None]:
    """A reader of the view."""

    def read(conn: Connection) -> str | None:
        rows = conn.execute(
            "SELECT generation_id, vector_dims(embedding), count(*) FROM heal.embedding GROUP BY 1, 2"
        ).fetchall()
        good = len(rows) == 1 and rows[0][1:] == (dims[rows[0][0]], DOCUMENTS)
        return None if good else f"mixed: {rows}"

    return read


def hold_the_view(readers: Readers, let_go: threading.Event) -> None:
    """Read the view in a transaction that does not end; as nothing is switched meanwhile, the others read seldom."""
    with connect(readers.url) as conn:
        conn.execute("SELECT count(*) FROM heal.embedding")
        readers.pause_s = 0.05
        let_go.wait(HOLD_S)
    readers.pause_s = 0.0


@pytest.mark.parametrize("dims", [(8, 8), (8, 12)], ids=["equal dimensions", "different dimensions"])
def test_forth_and_back_with_a_long_reader_in_the_way(
    store: SampleStore, readers: Readers, dims: tuple[int, int]
) -> None:
    store.load_many(DOCUMENTS)
    made = [store.generation(f"m{number}", dims=width) for number, width in enumerate(dims)]
    for generation in made:
        store.publish(generation)
    widths = {item.generation_id: item.dims for item in made}
    for prepared in (False, True):
        for number, generation in enumerate(made):
            readers.start(pinned(generation, f"m{number}"), prepared=prepared)
        readers.start(analyst(widths), prepared=prepared)
    let_go, report = threading.Event(), None
    switches, deadline = 0, time.monotonic() + 120
    while (switches < SWITCHES or sum(readers.reads) < READS) and time.monotonic() < deadline:
        if switches == SWITCHES // 2 and report is None:
            report = threading.Thread(target=hold_the_view, args=(readers, let_go))
            report.start()
            time.sleep(0.05)
        store.generations.activate(made[switches % 2].generation_id, lock_timeout_ms=100)
        switches += 1
        time.sleep(0.05)
    readers.end()
    let_go.set()
    assert report is not None
    report.join()
    assert readers.failures == []
    assert switches >= SWITCHES
    assert sum(readers.reads) >= READS
    assert max(readers.longest_s) < HOLD_S / 2, "a reader queued behind a switch that waited for the report"


def test_through_new_generations_while_old_ones_retire(store: SampleStore, readers: Readers) -> None:
    store.load_many(DOCUMENTS)
    first = store.generation("m0")
    store.publish(first)
    widths = {first.generation_id: first.dims}
    following: list[Generation] = []
    for number in range(1, SWITCHES + 1):
        made = store.generation(f"m{number}", dims=8 + 4 * (number % 2))
        store.served.write_served(made, store.wanted(made))
        store.generations.set_state(made.generation_id, "ready")
        widths[made.generation_id] = made.dims
        following.append(made)
    for prepared in (False, True):
        readers.start(follower(readers), prepared=prepared)
        readers.start(analyst(widths), prepared=prepared)
    for made in following:
        store.generations.activate(made.generation_id, lock_timeout_ms=100)
        time.sleep(0.05)
    readers.end()
    assert readers.failures == []
    assert min(readers.reads) >= SWITCHES
    assert [item.state for item in store.generations.list()[-3:]] == ["retired", "previous", "active"]


def test_two_switch_at_once_and_one_generation_is_active(store: SampleStore, database_url: str) -> None:
    store.load_many(5)
    made = [store.generation(f"m{number}") for number in range(4)]
    for generation in made:
        store.served.write_served(generation, store.wanted(generation))
        store.generations.set_state(generation.generation_id, "ready")
    refused: list[str] = []

    def switch(generation: Generation) -> None:
        with connect(database_url, autocommit=True) as conn:
            try:
                GenerationRepository(conn).activate(generation.generation_id, lock_timeout_ms=200)
            except Exception as error:
                refused.append(repr(error))

    threads = [threading.Thread(target=switch, args=(generation,)) for generation in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    states = sorted(item.state for item in store.generations.list())
    assert states == ["active", "previous", "retired", "retired"]
    active = store.generations.active()
    assert active is not None
    query = sql.SQL("SELECT count(*) FROM heal.embedding e JOIN {} v USING (chunk_id) WHERE e.embedding = v.embedding")
    assert store.conn.execute(query.format(active.table("vec"))).fetchone() == (5,)
