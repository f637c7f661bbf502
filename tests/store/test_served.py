"""Served rows: loaded whole, changed row by row once they are live, and in step with deletions."""

import threading
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import connect
from heal_tasks.store.documents.chunks import purge_superseded
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import Served, Upserted
from tests.store.sample_store import DIMS, SampleStore, encode


def texts_of(store: SampleStore, generation: Generation) -> dict[str, list[str]]:
    """Text of each row by table, read without the repository."""
    tables = {"base": store.space_of(generation).table("base"), "vec": generation.table("vec")}
    found = {}
    for name, table in tables.items():
        rows = store.conn.execute(psycopg.sql.SQL("SELECT chunk_id FROM {}").format(table)).fetchall()
        found[name] = store.texts(np.array([row[0] for row in rows], dtype=np.int64))
    return found


def test_served_vectors_have_unit_length_unless_the_metric_says_otherwise(store: SampleStore) -> None:
    store.load(a="x")
    generation = store.generation()
    wanted = store.wanted(generation)
    long = replace(wanted, vectors=2 * wanted.vectors)
    with pytest.raises(StoreError, match=r"1 of 1 vectors are not of unit length.*NUDGE-M"):
        store.served.write_served(generation, long)
    unequal = store.generation(metric="inner_product")
    assert store.served.write_served(unequal, long) == 1
    np.testing.assert_array_equal(store.served.load_served(unequal).vectors, long.vectors)
    assert store.served.load_served(generation).vectors.shape == (0, DIMS)
    store.served.write_served(generation, wanted)
    with pytest.raises(psycopg.errors.CheckViolation, match="unit_length"):
        store.conn.execute(
            psycopg.sql.SQL("UPDATE {} SET embedding = embedding + embedding").format(generation.table("vec"))
        )


def test_a_full_load_can_be_repeated(store: SampleStore) -> None:
    store.load(a="x|y")
    generation = store.generation()
    wanted = store.wanted(generation, leaf=3)
    for _ in range(2):
        assert store.served.write_served(generation, wanted) == 2
        report = build_indexes(store.conn, generation, memory_mb=64, parallel=0)
        assert (report.rows, report.spilled) == (2, False)
        assert report.size_bytes > 0
    got = store.served.load_served(generation)
    for name in ("chunk_ids", "document_ids", "leaves", "vectors"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    assert got.leaves.dtype == np.int32


def test_a_live_generation_is_not_loaded_over(store: SampleStore) -> None:
    store.load(a="x")
    generation = store.generation()
    store.publish(generation)
    live = store.generations.get(generation.generation_id)
    with pytest.raises(StoreError, match=r"generation \d+ is active; use upsert_served"):
        store.served.write_served(live, store.wanted(live))


def test_publishing_writes_only_what_differs(store: SampleStore) -> None:
    store.load(a="x", b="y", c="z", d="w")
    generation = store.generation()
    store.publish(generation)
    before = {row[0]: row[1] for row in store.conn.execute("SELECT chunk_id, ctid::text FROM heal.vec_g000001")}
    store.load(b="changed", e="new")
    store.delete("c")
    store.embed(store.space_of(generation))
    wanted = store.wanted(generation)
    moved = wanted.vectors.copy()
    row_of_a = int(np.flatnonzero(wanted.document_ids == store.wanted(generation).document_ids)[0])
    moved[row_of_a] = encode(["moved"])[0]
    moved[(row_of_a + 1) % len(moved)] += np.float32(1e-8)
    wanted = replace(wanted, vectors=moved)
    done = store.served.upsert_served(generation, wanted)
    assert done.removed == 1
    assert done.added == 2
    assert done.added + done.changed + done.unchanged == 4
    got = store.served.load_served(generation)
    np.testing.assert_array_equal(got.chunk_ids, wanted.chunk_ids)
    np.testing.assert_allclose(got.vectors, wanted.vectors, atol=1e-6)
    assert texts_of(store, generation)["vec"] == ["changed", "new", "w", "x"]
    after = {row[0]: row[1] for row in store.conn.execute("SELECT chunk_id, ctid::text FROM heal.vec_g000001")}
    assert sum(before.get(key) == place for key, place in after.items()) == done.unchanged
    assert store.served.upsert_served(generation, wanted) == Upserted(0, 0, 0, 4)


def test_the_order_of_the_wanted_rows_does_not_matter(store: SampleStore) -> None:
    store.load_many(20)
    generation = store.generation()
    store.publish(generation)
    wanted = store.wanted(generation)
    shuffled = np.random.default_rng(0).permutation(20)
    mixed = Served(
        wanted.chunk_ids[shuffled], wanted.document_ids[shuffled], wanted.leaves[shuffled], wanted.vectors[shuffled]
    )
    assert store.served.upsert_served(generation, mixed) == Upserted(0, 0, 0, 20)


def test_superseded_chunks_are_served_until_their_successors_are(store: SampleStore) -> None:
    store.load(a="old|same", b="y")
    generation = store.generation()
    store.publish(generation)
    store.load(a="new|same")
    assert store.served.health(generation) == {"served": 3, "superseded": 1, "missing": 1, "orphans": 0}
    assert purge_superseded(store.conn) == 0
    assert "old" in texts_of(store, generation)["vec"]
    store.embed(store.space_of(generation))
    store.served.upsert_served(generation, store.wanted(generation))
    assert texts_of(store, generation) == {"base": ["new", "same", "y"], "vec": ["new", "same", "y"]}
    assert store.served.health(generation)["missing"] == 0
    assert store.documents.counts()["superseded"] == 0


def test_a_deletion_reaches_every_generation(store: SampleStore) -> None:
    store.load(a="x", b="y")
    made = [store.generation(name) for name in ("m1", "m2", "m3")]
    store.publish(made[0])
    store.publish(made[1])
    store.served.write_served(made[2], store.wanted(made[2]))
    dropped = store.generation("m4")
    store.generations.drop_tables(dropped.generation_id)
    store.generations.create(run_id="r", space=store.space("m1"))
    store.delete("a")
    for generation in made:
        assert texts_of(store, generation) == {"base": ["y"], "vec": ["y"]}
        assert store.served.health(generation)["orphans"] == 0


def test_rows_of_deleted_chunks_are_not_written_back(store: SampleStore) -> None:
    store.load(a="x", b="y")
    generation = store.generation()
    wanted = store.wanted(generation)
    space = store.space_of(generation)
    ids, vectors = store.spaces.load_chunks(space)
    store.delete("a")
    assert store.spaces.write_chunks(space, ids, vectors) == 0
    assert store.served.write_served(generation, wanted) == 1
    store.generations.set_state(generation.generation_id, "ready")
    build_indexes(store.conn, generation, memory_mb=64, parallel=0)
    store.generations.activate(generation.generation_id, lock_timeout_ms=500)
    store.served.upsert_served(generation, wanted)
    assert texts_of(store, generation) == {"base": ["y"], "vec": ["y"]}
    assert store.served.health(generation)["orphans"] == 0


def test_a_deletion_waits_for_a_load_and_reaches_it(store: SampleStore, database_url: str) -> None:
    store.load(a="x", b="y")
    generation = store.generation()
    wanted = store.wanted(generation)
    deleted = threading.Event()

    def delete() -> None:
        with connect(database_url, autocommit=True) as conn:
            SampleStore(conn).delete("a")
            deleted.set()

    with store.conn.transaction():
        store.served.write_served(generation, wanted)
        thread = threading.Thread(target=delete)
        thread.start()
        assert not deleted.wait(0.3)
    thread.join(10)
    assert deleted.is_set()
    assert texts_of(store, generation) == {"base": ["y"], "vec": ["y"]}
