"""Readers through fifty switches: no error, no mixture of vector spaces; how long a read takes is printed."""

import itertools
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psycopg
import pytest

from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.sources.samples import sample
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.training.encoder import Encoder
from tests.e2e.kill_points import start
from tests.e2e.readers import QUESTIONS, READERS, Seen, World, read, serve
from tests.serve.published import TEXTS, Published, add_documents, prepare, turned_model, wait_until_ready

EVENTS = ("model", "night", "lexicon", "rollback", "nudge", "retire")
CYCLES, SWITCHES = 13, 50
EVENT_S, QUIET_S = 1.5, 40.0
TOLERANCE = 5e-3
"""Of a distance: batches of other texts round otherwise. Distances of other rows or spaces differ by .02 and more."""

Distances = dict[int, float]
"""Of each chunk."""


@dataclass
class Expected:
    """What a generation answers: more than one thing once its rows have changed."""

    by_encoder: list[list[Distances]] = field(default_factory=list)  # to each question's vector by the encoder alone
    by_query: list[list[Distances]] = field(default_factory=list)  # to its vector by encoder and lexicon
    by_text: list[list[list[tuple[int, float]]]] = field(default_factory=list)  # hits of each question
    between_rows: list[list[tuple[int, float]]] = field(default_factory=list)  # the view's first three rows


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """URL of the database through PgBouncer in transaction mode."""
    if not (program := shutil.which("pgbouncer")):
        pytest.skip("PgBouncer is not installed (Debian's package pgbouncer)")
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        f"[databases]\nstore = host={parts['host']} port={parts['port']} dbname={parts['dbname']} user={parts['user']} "
        f"password={parts['password']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nunix_socket_dir =\n"
    )
    process = subprocess.Popen([program, "-u", "nobody", str(config)], stderr=subprocess.DEVNULL)
    url = f"postgresql://anybody@127.0.0.1:{port}/store"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def note(conn: Connection, made: Published, expected: dict[int, Expected], vectors: Path) -> None:
    """Write down what a generation is to answer now; it is live only within a transaction that is rolled back."""
    generations = GenerationRepository(conn)
    served = ServedRepository(conn).load_served(generations.get(made.generation_id))
    rows = served.vectors / np.linalg.norm(served.vectors, axis=1, keepdims=True)
    found = expected.setdefault(made.generation_id, Expected())
    with conn.transaction(force_rollback=True):
        conn.execute("CALL heal.activate(%s::bigint)", (made.generation_id,))
        find = "SELECT chunk_id, distance FROM heal.find(%s, 3)"
        found.by_text.append([conn.execute(find, (question,)).fetchall() for question in QUESTIONS])
        aligned = np.stack([made.query_vector(conn, question) for question in QUESTIONS])
    if not found.by_query:  # a night moves rows, no question; readers have the file open
        np.save(vectors / f"{made.generation_id}.npy", aligned)
    plain = made.encoder.encode(list(QUESTIONS), role="query")
    for states, queries in ((found.by_encoder, plain), (found.by_query, aligned)):
        far = (1 - queries @ rows.T).tolist()
        states.append([dict(zip(served.chunk_ids.tolist(), distances, strict=True)) for distances in far])
    first = np.argsort(served.chunk_ids)[:3]
    between = (1 - rows[first] @ rows[first[0]]).tolist()
    found.between_rows.append(list(zip(served.chunk_ids[first].tolist(), between, strict=True)))


def mixed(name: str, seen: Seen, expected: dict[int, Expected]) -> list[str]:
    """The replies that no state of the generation that they name can have given."""

    def near(hits: tuple[tuple[int, float], ...], wanted: list[tuple[int, float]]) -> bool:
        return len(hits) == len(wanted) == 3 and all(
            chunk == other and abs(distance - far) < TOLERANCE
            for (chunk, distance), (other, far) in zip(hits, wanted, strict=True)
        )

    def ranked(hits: tuple[tuple[int, float], ...], distances: Distances) -> bool:
        least = sorted(distances.values())[:3]
        return len(hits) == 3 and all(
            abs(distance - distances[chunk]) < TOLERANCE and abs(distance - nearest) < TOLERANCE
            for (chunk, distance), nearest in zip(hits, least, strict=True)
        )

    wrong = []
    for number, generation_id, hits in seen.replies:
        states = expected[generation_id]
        if name.startswith("heal.find"):
            good = any(near(hits, state[number]) for state in states.by_text)
        elif name == "heal.embedding":
            good = any(near(hits, state) for state in states.between_rows)
        else:
            good = any(
                ranked(hits, state[number]) for state in (states.by_encoder if name == "client" else states.by_query)
            )
        if not good:
            wrong.append(f"{name}: question {number}, generation {generation_id}: {hits}")
    return wrong


@pytest.mark.usefixtures("soaking")
def test_readers_through_fifty_switches(
    auto: Connection, settings: Settings, tmp_path: Path, pooled_url: str, table: Callable[[str], None]
) -> None:
    add_documents(auto, [*TEXTS, *(row["text"][:400] for row in sample(("networkx",), 150, seed=3))])
    models = [settings.model, turned_model(tmp_path / "a", settings, 384), turned_model(tmp_path / "b", settings, 48)]
    encoders = [Encoder(resolve_model(model), device="cpu") for model in models]
    expected: dict[int, Expected] = {}
    made: dict[int, Published] = {}
    vectors = tmp_path / "vectors"
    vectors.mkdir()

    texts = [text for (text,) in auto.execute("SELECT text FROM heal.chunk ORDER BY chunk_id").fetchall()]
    rows = [encoder.encode(texts) for encoder in encoders]

    def prepared(cycle: int, weight: float, moved: bool = False) -> int:
        place = cycle % len(models)
        wanted = rows[place]
        if moved:  # as by NUDGE
            noise = np.random.default_rng(cycle).standard_normal(wanted.shape, np.float32)
            wanted = wanted + 0.3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
            wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        new = prepare(auto, encoders[place], models[place], wanted, lexicon_weight=weight)
        made[new.generation_id] = new
        build_indexes(auto, GenerationRepository(auto).get(new.generation_id), memory_mb=64)
        note(auto, new, expected, vectors)
        return new.generation_id

    generations, served = GenerationRepository(auto), ServedRepository(auto)
    generations.activate(prepared(2, 0.5))
    ready = iter([(prepared(c, 0.5), prepared(c, 1.5), prepared(c, 0.5, moved=True)) for c in range(CYCLES)])
    stop, switches = tmp_path / "stop", 0

    def change(event: str, new: dict[str, int]) -> int:
        """Do one thing to what is served, and return the number of switches."""
        active, previous = generations.active(), generations.previous()
        assert active is not None
        if event == "retire":
            assert generations.retire_old(0.0)
        elif event == "night":
            rows = served.load_served(active)
            rows.vectors[5:25] = rows.vectors[25:45]
            with auto.transaction():
                served.upsert_served(active, replace(rows))
            note(auto, made[active.generation_id], expected, vectors)
        elif event == "rollback":
            assert previous is not None
            generations.activate(previous.generation_id)
        else:
            generations.activate(new[event])
        return event not in {"retire", "night"}

    values = {"var_dir": settings.var_dir, "database_url": settings.require_database_url()}
    service = start(tmp_path, serve, values, tmp_path / "url", stop)
    try:
        while not (tmp_path / "url").exists():
            assert service.process.is_alive(), service.sentence()
            time.sleep(0.1)
        url = (tmp_path / "url").read_text()
        wait_until_ready(url)
        world = World(settings.require_database_url(), pooled_url, url, vectors, stop)
        files = {name: tmp_path / f"{number}.json" for number, name in enumerate(READERS)}
        readers = [start(tmp_path, read, world, name, files[name]) for name in READERS]
        time.sleep(15)  # until everything is loaded
        began = time.monotonic()
        time.sleep(QUIET_S)
        changed = time.monotonic()
        for model, lexicon, nudge in itertools.islice(ready, CYCLES):
            for event in EVENTS:
                switches += change(event, {"model": model, "lexicon": lexicon, "nudge": nudge})
                time.sleep(EVENT_S)
        ended = time.monotonic()
    finally:
        stop.touch()
        service.join(60)
    assert all(reader.join(60) for reader in readers)
    assert [reader.sentence() for reader in readers] == [""] * len(readers)
    faults: list[str] = []
    table(f"{'reader':24} {'reads':>6} {'again':>6} {'generations':>12} {'p50 quiet':>10} {'p99 quiet':>10} "
          f"{'p50':>8} {'p99':>8} {'longest':>8}  ms")  # fmt: skip
    for name, file in files.items():
        seen = Seen.load(file)
        faults += seen.faults + mixed(name, seen, expected)
        at, took = np.array(seen.times).T
        quiet, switched = 1000 * took[(at > began) & (at < changed)], 1000 * took[(at > changed) & (at < ended)]
        numbers = {generation for _, generation, _ in seen.replies}
        table(f"{name:24} {len(took):6} {seen.asked_again:6} {len(numbers):12} "
              f"{np.median(quiet):10.1f} {np.quantile(quiet, 0.99):10.1f} {np.median(switched):8.1f} "
              f"{np.quantile(switched, 0.99):8.1f} {switched.max():8.1f}")  # fmt: skip
        assert len(numbers) > CYCLES, "a reader did not follow the switches"
    assert faults == []
    assert switches >= SWITCHES
