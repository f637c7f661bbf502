"""The benches of the store and of encoding on small data: they run, and they notice wrong results."""

import threading

import numpy as np
import pytest
from psycopg import sql

from bench import embed, filters, index, load, query, scratch, switches
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import Served

ROWS, DIMS = 300, 8


@pytest.fixture
def vectors() -> scratch.Vectors:
    return scratch.clustered(ROWS + 20, dims=DIMS, clusters=5)


@pytest.fixture
def generation(auto: Connection, vectors: scratch.Vectors) -> Generation:
    scratch.store_documents(auto, [f"text {number}" for number in range(ROWS)])
    return scratch.load(auto, vectors[:ROWS], vectors[ROWS:])


def test_cpu_time_of_the_server_is_that_of_the_work(auto: Connection) -> None:
    def cost(numbers: int) -> float:
        before = scratch.server_cpu_s(auto)
        auto.execute("SELECT count(*) FROM generate_series(1, %s::int) n WHERE sqrt(n) < 0", (numbers,))
        return scratch.server_cpu_s(auto) - before

    assert cost(1) < cost(3_000_000) / 5


def test_every_way_of_loading_stores_the_same(
    auto: Connection, generation: Generation, vectors: scratch.Vectors
) -> None:
    ids = np.arange(ROWS, dtype=np.int64)
    served = Served(ids, ids, (ids % 3).astype(np.int32), vectors[:ROWS])
    rows = load.compare(auto, generation, served, runs=1, slow_rows=50)
    assert [row["rows"] for row in rows] == [ROWS, ROWS, 50, 50, ROWS, 50]
    assert all(row["rows/s"] > 0 for row in rows)
    auto.execute(sql.SQL("UPDATE {} SET leaf = 9 WHERE chunk_id = 7").format(generation.table("vec")))
    with pytest.raises(AssertionError):
        load.same(auto, generation, served)


def test_kinds_of_index(auto: Connection, generation: Generation, vectors: scratch.Vectors) -> None:
    scratch.activate(auto, generation)
    rows = index.compare(auto, generation, vectors[ROWS:])
    assert [row["index"] for row in rows] == ["vector", "halfvec", "bit"]
    assert rows[0]["MiB"] > rows[1]["MiB"] > 0
    assert all(row["ours recall"] >= 0.95 for row in rows)
    assert rows[2]["by hand, defaults recall"] < rows[2]["by hand recall"], "8 bits cannot tell 300 rows apart"
    assert index.crossover(auto, generation, vectors[ROWS:]).keys() == {
        "rows", "none (exact), CPU ms", "vector, CPU ms", "halfvec, CPU ms", "bit, CPU ms",
    }  # fmt: skip


def test_searches_by_hand_and_ours_also_beside_a_realignment(
    auto: Connection, database_url: str, generation: Generation, vectors: scratch.Vectors
) -> None:
    scratch.activate(auto, generation)
    rows = query.measure_kind(database_url, generation, "halfvec", vectors[ROWS:], [2], busy=True)
    assert [row["realigning"] for row in rows] == ["no", "yes"]
    assert all(row[f"{way} p99"] >= row[f"{way} p50"] > 0 for row in rows for way in query.WAYS)
    states = [item.state for item in GenerationRepository(auto).list()]
    assert sorted(states) == ["active", "failed"]


def test_switches_between_two_generations(
    auto: Connection, database_url: str, generation: Generation, vectors: scratch.Vectors
) -> None:
    made = [generation, scratch.load(auto, vectors[:ROWS], vectors[ROWS:])]
    for item in made:
        build_indexes(auto, item, memory_mb=64)
        scratch.activate(auto, item)
    reads = [switches.counting, switches.searching(made[0], vectors[ROWS])]
    row = switches.measure(database_url, reads, lambda: switches.switch(database_url, made, 4, report_s=0.3))
    assert (row["switches"], row["readers that failed"]) == (4, 0)
    assert row["longest switch s"] > 0.25, "the report was in the way"
    ended = threading.active_count()
    assert switches.measure(database_url, reads, lambda: switches.rest(0.1))["switches"] == 0
    assert threading.active_count() == ended


def test_encoding_is_compared_by_its_lowest_cosine() -> None:
    def reference(texts: list[str]) -> np.ndarray:
        return np.tile(np.array([1, 0], dtype=np.float32), (len(texts), 1))

    def other(texts: list[str]) -> np.ndarray:
        vectors = reference(texts)
        vectors[-1] = (0.6, 0.8)
        return vectors

    rows = embed.compare("some", ["a", "b", "b"], {"theirs": reference, "ours": other}, runs=2)
    assert [row["lowest cosine"] for row in rows] == ["1.000000", "0.600000"]
    assert [(row["number"], row["distinct"]) for row in rows] == [(3, 2), (3, 2)]
    assert rows[0]["times the default"] == 1.0


def test_far_topics(auto: Connection) -> None:
    vectors, leaves = scratch.planted(404, dims=8, clusters=10)
    made = filters.load(auto, vectors[:400], leaves[:400], clusters=10, widths=(2, 5))
    for width in (2, 5):
        rows = filters.compare(auto, made, vectors[:400], leaves[:400], vectors[400:], width)
        assert [row["recall@10"] for row in rows if row["way"].startswith("ours")] == [1.0, 1.0, 1.0]
        assert rows[0]["pass"] == pytest.approx(40 * width, rel=0.5)
