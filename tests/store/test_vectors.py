import threading
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from spaces import DIMS, Space, encode

from heal_tasks.core.errors import StoreError
from heal_tasks.core.ids import question_id
from heal_tasks.core.types import Question
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.indexing import build_indexes, recall
from heal_tasks.store.generations.vectors import Served, Upserted
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.copying import copy_vectors


def ask(space: Space, text: str, query: str) -> int:
    """Store one question for the chunk with that text; returns its id."""
    chunk = next(item for item in space.documents.live_chunks() if item.text == text)
    key = question_id(chunk.chunk_id, "llm", query)
    made = Question(key, chunk.chunk_id, query, "", "", "question", "llm", "m", "p", "train")
    QuestionRepository(space.conn).store("r", [Asked(chunk.chunk_id, "h", "p", "m", [made], 0)], [])
    return key


def rows_of(space: Space, generation: Generation) -> dict[str, list[str]]:
    """Text of each row by table, read without the repository."""
    found = {}
    for prefix in ("base", "vec"):
        ids = [
            row[0]
            for row in space.conn.execute(
                psycopg.sql.SQL("SELECT chunk_id FROM {}").format(generation.table(prefix))  # type: ignore[arg-type]
            )
        ]
        found[prefix] = space.texts(np.array(ids, dtype=np.int64))
    return found


def test_base_vectors_are_written_once_per_chunk(space: Space) -> None:
    space.load(a="x|y", b="z")
    generation = space.generation()
    assert list(space.vectors.missing_base(generation)) == []
    ids, vectors = space.vectors.load_base(generation)
    assert ids.tolist() == [chunk.chunk_id for chunk in space.documents.live_chunks()]
    np.testing.assert_allclose(vectors, encode([chunk.text for chunk in space.documents.live_chunks()]), rtol=1e-6)
    assert space.vectors.write_base(generation, ids, -vectors) == 0
    np.testing.assert_array_equal(space.vectors.load_base(generation)[1], vectors)
    space.load(c="w")
    assert [chunk.text for chunk in space.vectors.missing_base(generation)] == ["w"]


def test_shards_fill_a_generation_together(space: Space) -> None:
    space.load_many(40)
    generation = space.generations.create(kind="trained", run_id="r", model_uri="m", model_sha256="m", dims=DIMS)
    parts = [{chunk.chunk_id for chunk in space.vectors.missing_base(generation, shard, 3)} for shard in range(3)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 40
    for part in parts:
        space.vectors.write_base(generation, np.array(sorted(part)), encode([str(key) for key in sorted(part)]))
    assert space.vectors.load_base(generation)[0].shape == (40,)


def test_question_vectors(space: Space) -> None:
    space.load(a="x", b="y")
    generation = space.generation()
    keys = sorted([ask(space, "x", "what x"), ask(space, "y", "what y")])
    missing = space.vectors.missing_questions(generation)
    assert [key for key, _ in missing] == keys
    assert {text for _, text in missing} == {"what x", "what y"}
    ids = np.array([*keys, 42], dtype=np.int64)
    assert space.vectors.write_questions(generation, ids, encode(["1", "2", "3"])) == 2
    assert space.vectors.missing_questions(generation) == []
    found, vectors = space.vectors.load_questions(generation)
    assert found.tolist() == keys
    np.testing.assert_array_equal(vectors, encode(["1", "2"]))
    space.load(a="changed")
    assert len(space.vectors.load_questions(generation)[0]) == 1


def test_vectors_of_the_same_model_are_copied_and_not_computed(space: Space) -> None:
    space.load(a="x", b="y")
    old = space.generation("m")
    key = ask(space, "x", "q")
    space.vectors.write_questions(old, np.array([key]), encode(["q"]))
    space.load(b="changed")
    twin = space.generations.create(kind="trained", run_id="r2", model_uri="elsewhere", model_sha256="m", dims=DIMS)
    other = space.generations.create(kind="trained", run_id="r2", model_uri="o", model_sha256="o", dims=DIMS)
    assert space.vectors.copy_from_same_model(other) == (0, 0)
    assert space.vectors.copy_from_same_model(twin) == (1, 1)
    assert space.vectors.copy_from_same_model(twin) == (0, 0)
    assert [chunk.text for chunk in space.vectors.missing_base(twin)] == ["changed"]
    space.generations.drop_tables(old.generation_id)
    assert space.vectors.copy_from_same_model(twin) == (0, 0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, DIMS + 1), np.float32), rf"shape \(1, 9\) do not fit generation \d+, which has {DIMS} dimensions"),
        (np.zeros((1, DIMS), np.float32), "1 of 1 vectors are zero or not finite"),
        (np.full((1, DIMS), np.nan, np.float32), "1 of 1 vectors are zero or not finite"),
    ],
)
def test_unfit_vectors_are_refused_at_the_door(space: Space, vectors: np.ndarray, message: str) -> None:
    space.load(a="x")
    generation = space.generation()
    ids = np.array([next(space.documents.live_chunks()).chunk_id])
    with pytest.raises(StoreError, match=message):
        space.vectors.write_base(generation, ids, vectors)


def test_served_vectors_have_unit_length_unless_the_metric_says_otherwise(space: Space) -> None:
    space.load(a="x")
    generation = space.generation()
    wanted = space.served(generation)
    long = replace(wanted, vectors=2 * wanted.vectors)
    with pytest.raises(StoreError, match=r"1 of 1 vectors are not of unit length.*NUDGE-M"):
        space.vectors.write_served(generation, long)
    generation = space.generations.set_fields(generation.generation_id, metric="inner_product")
    assert space.vectors.write_served(generation, long) == 1
    np.testing.assert_array_equal(space.vectors.load_served(generation).vectors, long.vectors)
    generation = space.generations.set_fields(generation.generation_id, metric="cosine")
    assert space.vectors.load_served(generation).vectors.shape == (0, DIMS)
    space.vectors.write_served(generation, wanted)
    with pytest.raises(psycopg.errors.CheckViolation, match="unit_length"):
        space.conn.execute(
            psycopg.sql.SQL("UPDATE {} SET embedding = embedding + embedding").format(generation.table("vec"))
        )


def test_a_full_load_can_be_repeated(space: Space) -> None:
    space.load(a="x|y")
    generation = space.generation()
    wanted = space.served(generation, leaf=3)
    for _ in range(2):
        assert space.vectors.write_served(generation, wanted) == 2
        report = build_indexes(space.conn, generation, memory_mb=64, parallel=0)
        assert (report.rows, report.spilled) == (2, False)
        assert report.size_bytes > 0
    got = space.vectors.load_served(generation)
    for name in ("chunk_ids", "document_ids", "leaves", "vectors"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    assert got.leaves.dtype == np.int32


def test_a_live_generation_is_not_loaded_over(space: Space) -> None:
    space.load(a="x")
    generation = space.generation()
    space.publish(generation)
    live = space.generations.get(generation.generation_id)
    with pytest.raises(StoreError, match=r"generation \d+ is active; use upsert_served"):
        space.vectors.write_served(live, space.served(live))


def test_publishing_writes_only_what_differs(space: Space) -> None:
    space.load(a="x", b="y", c="z", d="w")
    generation = space.generation()
    space.publish(generation)
    before = {row[0]: row[1] for row in space.conn.execute("SELECT chunk_id, ctid::text FROM heal.vec_g000001")}
    space.load(b="changed", e="new")
    space.delete("c")
    space.embed(generation)
    wanted = space.served(generation)
    moved = wanted.vectors.copy()
    row_of_a = int(np.flatnonzero(wanted.document_ids == space.served(generation).document_ids)[0])
    moved[row_of_a] = encode(["moved"])[0]
    moved[(row_of_a + 1) % len(moved)] += np.float32(1e-8)
    wanted = replace(wanted, vectors=moved)
    done = space.vectors.upsert_served(generation, wanted)
    assert done.removed == 1
    assert done.added == 2
    assert done.added + done.changed + done.unchanged == 4
    got = space.vectors.load_served(generation)
    np.testing.assert_array_equal(got.chunk_ids, wanted.chunk_ids)
    np.testing.assert_allclose(got.vectors, wanted.vectors, atol=1e-6)
    assert rows_of(space, generation)["vec"] == ["changed", "new", "w", "x"]
    after = {row[0]: row[1] for row in space.conn.execute("SELECT chunk_id, ctid::text FROM heal.vec_g000001")}
    assert sum(before.get(key) == place for key, place in after.items()) == done.unchanged
    assert space.vectors.upsert_served(generation, wanted) == Upserted(0, 0, 0, 4)


def test_the_order_of_the_wanted_rows_does_not_matter(space: Space) -> None:
    space.load_many(20)
    generation = space.generation()
    space.publish(generation)
    wanted = space.served(generation)
    shuffled = np.random.default_rng(0).permutation(20)
    mixed = Served(
        wanted.chunk_ids[shuffled], wanted.document_ids[shuffled], wanted.leaves[shuffled], wanted.vectors[shuffled]
    )
    assert space.vectors.upsert_served(generation, mixed) == Upserted(0, 0, 0, 20)


def test_superseded_chunks_are_served_until_their_successors_are(space: Space) -> None:
    space.load(a="old|same", b="y")
    generation = space.generation()
    space.publish(generation)
    space.load(a="new|same")
    assert space.vectors.health(generation) == {
        "base": 3, "questions": 0, "served": 3, "superseded": 1, "missing": 1, "orphans": 0,
    }  # fmt: skip
    assert space.documents.purge_superseded() == 0
    assert "old" in rows_of(space, generation)["vec"]
    space.embed(generation)
    space.vectors.upsert_served(generation, space.served(generation))
    assert rows_of(space, generation) == {"base": ["new", "same", "y"], "vec": ["new", "same", "y"]}
    assert space.vectors.health(generation)["missing"] == 0
    assert space.documents.counts()["superseded"] == 0


def test_a_deletion_reaches_every_generation(space: Space) -> None:
    space.load(a="x", b="y")
    made = [space.generation(name) for name in ("m1", "m2", "m3")]
    for generation in made:
        key = ask(space, "x", "q")
        space.vectors.write_questions(generation, np.array([key]), encode(["q"]))
    space.publish(made[0])
    space.publish(made[1])
    space.vectors.write_served(made[2], space.served(made[2]))
    dropped = space.generation("m4")
    space.generations.drop_tables(dropped.generation_id)
    space.delete("a")
    for generation in made:
        assert rows_of(space, generation) == {"base": ["y"], "vec": ["y"]}
        assert space.vectors.orphans(generation) == 0
        assert space.vectors.health(generation)["questions"] == 0


def test_orphans_are_counted(space: Space) -> None:
    space.load(a="x")
    generation = space.generation()
    for table, key in (("base", "chunk_id"), ("question", "question_id")):
        name = generation.table(table)  # type: ignore[arg-type]
        space.conn.execute(
            psycopg.sql.SQL("INSERT INTO {} ({}, embedding) VALUES (1, %s)").format(name, psycopg.sql.Identifier(key)),
            (encode(["z"])[0],),
        )
    assert space.vectors.orphans(generation) == 2


def test_rows_of_deleted_chunks_are_not_written_back(space: Space) -> None:
    space.load(a="x", b="y")
    generation = space.generation()
    wanted = space.served(generation)
    ids, vectors = space.vectors.load_base(generation)
    space.delete("a")
    assert space.vectors.write_base(generation, ids, vectors) == 0
    assert space.vectors.write_served(generation, wanted) == 1
    space.generations.set_state(generation.generation_id, "ready")
    build_indexes(space.conn, generation, memory_mb=64, parallel=0)
    space.generations.activate(generation.generation_id, lock_timeout_ms=500)
    space.vectors.upsert_served(generation, wanted)
    assert rows_of(space, generation) == {"base": ["y"], "vec": ["y"]}
    assert space.vectors.orphans(generation) == 0


def test_a_deletion_waits_for_a_load_and_reaches_it(space: Space, database_url: str) -> None:
    space.load(a="x", b="y")
    generation = space.generation()
    wanted = space.served(generation)
    deleted = threading.Event()

    def delete() -> None:
        with connect(database_url, autocommit=True) as conn:
            Space(conn).delete("a")
            deleted.set()

    with space.conn.transaction():
        space.vectors.write_served(generation, wanted)
        thread = threading.Thread(target=delete)
        thread.start()
        assert not deleted.wait(0.3)
    thread.join(10)
    assert deleted.is_set()
    assert rows_of(space, generation) == {"base": ["y"], "vec": ["y"]}


def store_queries(space: Space, generation: Generation, count: int) -> None:
    """Vectors of made-up questions, straight into the generation's table."""
    ids = np.arange(count, dtype=np.int64)
    vectors = encode([f"query {number}" for number in range(count)])
    copy_vectors(space.conn, generation.table("question"), {"question_id": ids}, vectors)


def test_recall_of_a_good_index_is_high_and_of_a_bad_one_low(space: Space) -> None:
    space.load_many(1500)
    generation = space.generation()
    space.vectors.write_served(generation, space.served(generation))
    store_queries(space, generation, 20)
    assert recall(space.conn, generation) == 1.0
    build_indexes(space.conn, generation, memory_mb=64, parallel=0)
    good = recall(space.conn, generation)
    assert good is not None
    assert good >= 0.95
    # A graph with hardly an edge: most rows cannot be reached.
    space.conn.execute("DROP INDEX heal.vec_g000001_hnsw")
    space.conn.execute(
        "CREATE INDEX vec_g000001_hnsw ON heal.vec_g000001 USING hnsw (embedding vector_cosine_ops) "
        "WITH (m = 2, ef_construction = 4)"
    )
    space.generations.set_fields(generation.generation_id, ef_search=10)
    bad = recall(space.conn, generation)
    assert bad is not None
    assert bad < 0.95
    of_three = recall(space.conn, generation, n=3)
    assert of_three == pytest.approx(round(of_three * 30) / 30)


def test_recall_where_there_is_nothing(space: Space) -> None:
    generation = space.generation()
    assert recall(space.conn, generation) is None
    store_queries(space, generation, 1)
    assert recall(space.conn, generation) is None


def test_recall_of_what_cannot_be_measured_is_a_named_error(space: Space) -> None:
    for arguments in ("99::bigint", "NULL"):
        with pytest.raises(psycopg.DatabaseError, match=r"recall of generation .* cannot be measured") as caught:
            space.conn.execute(f"SELECT heal.recall({arguments})")  # type: ignore[arg-type]
        assert caught.value.sqlstate == "HEA03"


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_few_rows_are_searched_without_an_index_and_many_in_one_of_16_bit(space: Space, metric: str) -> None:
    space.load_many(300)
    generation = space.generation(metric=metric)
    space.vectors.write_served(generation, space.served(generation))
    store_queries(space, generation, 20)
    found = []
    for exact_rows, halfvec_rows in ((301, 10**6), (300, 301), (0, 300)):
        report = build_indexes(
            space.conn, generation, memory_mb=64, parallel=0, exact_rows=exact_rows, halfvec_rows=halfvec_rows
        )
        now = space.generations.get(generation.generation_id)
        assert now.index_kind == report.kind
        assert (report.size_bytes > 0) == (report.kind != "none")
        share = recall(space.conn, now)
        assert share is not None
        assert share >= 0.99
        rows = space.conn.execute(
            "SELECT n.* FROM heal.generation g, heal.nearest(%s, g, 5) n", (encode(["query 1"])[0],)
        ).fetchall()
        found.append((report.kind, rows))
    assert [kind for kind, _ in found] == ["none", "vector", "halfvec"]
    assert found[0][1] == found[1][1] == found[2][1], "distances are those of the full vectors"


def test_a_graph_that_outgrows_its_memory_is_noticed(space: Space) -> None:
    space.load_many(1500)
    generation = space.generation()
    space.vectors.write_served(generation, space.served(generation))
    assert not build_indexes(space.conn, generation, memory_mb=64, parallel=0).spilled
    assert build_indexes(space.conn, generation, memory_mb=1, parallel=0).spilled


def test_indexes_of_an_empty_generation(space: Space) -> None:
    generation = space.generation()
    assert build_indexes(space.conn, generation, memory_mb=64).rows == 0


def test_inner_product_generations_get_the_index_of_their_metric(space: Space) -> None:
    space.load_many(20)
    generation = space.generation(metric="inner_product")
    space.vectors.write_served(generation, space.served(generation))
    build_indexes(space.conn, generation, memory_mb=64, parallel=0)
    row = space.conn.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'vec_g000001_hnsw'").fetchone()
    assert row is not None
    assert "vector_ip_ops" in row[0]
    store_queries(space, generation, 1)
    assert recall(space.conn, generation) == 1.0
