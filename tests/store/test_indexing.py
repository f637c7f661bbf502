"""Indexes of served rows: what they find, what they hold, and when they outgrow their memory."""

from dataclasses import replace

import numpy as np
import psycopg
import pytest

from heal_tasks.store.db import scalar
from heal_tasks.store.generations import exact, indexing
from heal_tasks.store.generations.generations import Generation, IndexKind, Metric
from heal_tasks.store.generations.indexing import build_indexes, reach_recall, recall
from heal_tasks.store.spaces.vector_tables import copy_vectors
from tests.store.sample_store import SampleStore, encode

KINDS: tuple[IndexKind, ...] = ("none", "vector", "halfvec", "bit")


def store_queries(store: SampleStore, generation: Generation, count: int) -> None:
    """Write vectors of made-up questions straight into the space's table."""
    ids = np.arange(count, dtype=np.int64)
    vectors = encode([f"query {number}" for number in range(count)])
    copy_vectors(store.conn, store.space_of(generation).table("question"), {"question_id": ids}, vectors)


def test_recall_of_a_good_index_is_high_and_of_a_bad_one_low(store: SampleStore) -> None:
    store.load_many(1500)
    generation = store.generation()
    store.served.write_served(generation, store.wanted(generation))
    store_queries(store, generation, 20)
    assert recall(store.conn, generation) == 1.0
    build_indexes(store.conn, generation, memory_mb=64, parallel=0)
    good = recall(store.conn, generation)
    assert good is not None
    assert good >= 0.95
    # A graph with hardly an edge: most rows cannot be reached.
    store.conn.execute("DROP INDEX heal.vec_g000001_hnsw")
    store.conn.execute(
        "CREATE INDEX vec_g000001_hnsw ON heal.vec_g000001 USING hnsw (embedding vector_cosine_ops) "
        "WITH (m = 2, ef_construction = 4)"
    )
    store.generations.set_fields(generation.generation_id, ef_search=10)
    bad = recall(store.conn, generation)
    assert bad is not None
    assert bad < 0.95
    of_three = recall(store.conn, generation, n=3)
    assert of_three == pytest.approx(round(of_three * 30) / 30)


def test_every_row_is_compared_once_for_all_efforts(store: SampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.load_many(1500)
    generation = store.generation()
    store.served.write_served(generation, store.wanted(generation))
    store_queries(store, generation, 20)
    build_indexes(store.conn, generation, memory_mb=64, parallel=0)
    store.conn.execute("DROP INDEX heal.vec_g000001_hnsw")
    store.conn.execute(
        "CREATE INDEX vec_g000001_hnsw ON heal.vec_g000001 USING hnsw (embedding vector_cosine_ops) "
        "WITH (m = 2, ef_construction = 4)"
    )
    store.generations.set_fields(generation.generation_id, ef_search=10)
    passes, find = list[int](), indexing.kth_distances
    monkeypatch.setattr(indexing, "kth_distances", lambda *given: passes.append(1) or find(*given))
    reached = reach_recall(store.conn, generation, 20, 1.0)
    assert reached.ef_search >= 40
    assert passes == [1]
    assert reached.recall == recall(store.conn, generation, n=20)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
@pytest.mark.parametrize("block_mb", [64, 0])
def test_one_pass_finds_the_distances_of_exact_searches(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch, metric: Metric, block_mb: int
) -> None:
    store.load_many(700)
    generation = store.generation(metric=metric)
    wanted = store.wanted(generation)
    if metric == "inner_product":  # of any length
        lengths = np.random.default_rng(0).uniform(0.5, 2.0, len(wanted.vectors)).astype(np.float32)
        wanted = replace(wanted, vectors=wanted.vectors * lengths[:, None])
    store.served.write_served(generation, wanted)
    store_queries(store, generation, 30)
    build_indexes(store.conn, generation, memory_mb=64)
    store.conn.execute("DELETE FROM heal.vec_g000001 WHERE chunk_id % 3 = 0")  # pages with fewer rows
    monkeypatch.setattr(exact, "BLOCK_MB", block_mb)  # 0: a page at a time
    for n, k in ((30, 10), (7, 1), (1000, 20)):
        expected = scalar(store.conn, "SELECT heal.kth_distances(1, %s::int, %s::int)", (n, k))
        assert exact.kth_distances(store.conn, generation, n, k) == expected
    store.conn.execute(
        "DELETE FROM heal.vec_g000001 WHERE chunk_id NOT IN (SELECT chunk_id FROM heal.vec_g000001 LIMIT 4)"
    )
    found = exact.kth_distances(store.conn, generation, 30)
    assert found == scalar(store.conn, "SELECT heal.kth_distances(1, 30)")
    assert found is not None
    assert {rows for _, rows in found} == {4}
    store.conn.execute("DELETE FROM heal.vec_g000001")
    assert exact.kth_distances(store.conn, generation, 30) is None


def test_recall_where_there_is_nothing(store: SampleStore) -> None:
    generation = store.generation()
    assert recall(store.conn, generation) is None
    store_queries(store, generation, 1)
    assert recall(store.conn, generation) is None


def test_recall_of_what_cannot_be_measured_is_a_named_error(store: SampleStore) -> None:
    for arguments in ("99::bigint", "NULL"):
        with pytest.raises(psycopg.DatabaseError, match=r"recall of generation .* cannot be measured") as caught:
            store.conn.execute(f"SELECT heal.recall({arguments})")  # type: ignore[arg-type]
        assert caught.value.sqlstate == "HEA03"


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_distances_are_those_of_the_full_vectors_by_every_index(store: SampleStore, metric: Metric) -> None:
    store.load_many(300)
    generation = store.generation(metric=metric)
    store.served.write_served(generation, store.wanted(generation))
    store_queries(store, generation, 20)
    found = []
    for kind in KINDS:
        report = build_indexes(store.conn, generation, memory_mb=64, kind=kind)
        now = reach_recall(store.conn, generation, 20, 0.99)
        assert now.index_kind == report.kind == kind
        assert (report.size_bytes > 0) == (kind != "none")
        assert now.recall is not None
        assert now.recall >= 0.99
        rows = store.conn.execute(
            "SELECT n.* FROM heal.generation g, heal.nearest(%s, g, 5) n", (encode(["query 1"])[0],)
        ).fetchall()
        found.append(sorted(rows, key=lambda row: row[1]))
    assert all(rows == found[0] for rows in found)


def test_a_graph_that_outgrows_its_memory_is_noticed(store: SampleStore) -> None:
    store.load_many(1500)
    generation = store.generation()
    store.served.write_served(generation, store.wanted(generation))
    assert not build_indexes(store.conn, generation, memory_mb=64, parallel=0).spilled
    assert build_indexes(store.conn, generation, memory_mb=1, parallel=0).spilled


def test_indexes_of_an_empty_generation(store: SampleStore) -> None:
    generation = store.generation()
    assert build_indexes(store.conn, generation, memory_mb=64).rows == 0


def test_inner_product_generations_get_the_index_of_their_metric(store: SampleStore) -> None:
    store.load_many(20)
    generation = store.generation(metric="inner_product")
    store.served.write_served(generation, store.wanted(generation))
    build_indexes(store.conn, generation, memory_mb=64, parallel=0)
    row = store.conn.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'vec_g000001_hnsw'").fetchone()
    assert row is not None
    assert "vector_ip_ops" in row[0]
    store_queries(store, generation, 1)
    assert recall(store.conn, generation) == 1.0
