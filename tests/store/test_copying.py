import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.spaces.vector_tables import copy_rows, copy_vectors, copy_vectors_out

TABLE = sql.Identifier("pg_temp", "wire")


@pytest.fixture(scope="module")
def wire(module_database_url: str) -> Connection:
    return connect(module_database_url, autocommit=True)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 40), d=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_what_goes_in_comes_out(wire: Connection, n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, leaves = np.arange(n, dtype=np.int64) * 2**57 // max(n, 1), rng.integers(-1, 9, n, dtype=np.int32)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    wire.execute("DROP TABLE IF EXISTS pg_temp.wire")
    wire.execute(sql.SQL("CREATE TEMP TABLE wire (id bigint, leaf int, embedding vector({}))").format(sql.Literal(d)))
    copy_vectors(wire, TABLE, {"id": ids, "leaf": leaves}, vectors)
    (got_ids, got_leaves), got = copy_vectors_out(
        wire, sql.SQL("SELECT id, leaf, embedding FROM wire ORDER BY id"), d, sizes=(8, 4)
    )
    np.testing.assert_array_equal(got_ids, ids)
    np.testing.assert_array_equal(got_leaves, leaves)
    np.testing.assert_array_equal(got, vectors)
    assert (got_ids.dtype, got_leaves.dtype, got.dtype, got.shape) == (np.int64, np.int32, np.float32, (n, d))
    row = wire.execute("SELECT embedding FROM wire ORDER BY id LIMIT 1", prepare=False).fetchone()
    if n:
        assert row is not None
        np.testing.assert_array_equal(row[0].to_numpy(), vectors[0])


def test_many_blocks(wire: Connection) -> None:
    rng = np.random.default_rng(0)
    ids, vectors = np.arange(30_000), rng.normal(size=(30_000, 384)).astype(np.float32)
    wire.execute("DROP TABLE IF EXISTS pg_temp.wire")
    wire.execute("CREATE TEMP TABLE wire (id bigint, embedding vector(384))")
    copy_vectors(wire, TABLE, {"id": ids}, vectors)
    (got,), out = copy_vectors_out(wire, sql.SQL("SELECT id, embedding FROM wire ORDER BY id"), 384)
    np.testing.assert_array_equal(got, ids)
    np.testing.assert_array_equal(out, vectors)


def test_rows_of_mixed_types(wire: Connection) -> None:
    wire.execute("CREATE TEMP TABLE mixed (id bigint, words text[], embedding vector(3), note text)")
    rows = [(1, ["a", "b"], np.array([1, 2, 3], dtype=np.float32), None), (2, [], np.zeros(3, np.float32), "é")]
    columns = [("id", "int8"), ("words", "text[]"), ("embedding", "vector"), ("note", "text")]
    copy_rows(wire, sql.Identifier("pg_temp", "mixed"), columns, rows)
    got = wire.execute("SELECT id, words, embedding::text, note FROM mixed ORDER BY id").fetchall()
    assert got == [(1, ["a", "b"], "[1,2,3]", None), (2, [], "[0,0,0]", "é")]


def test_lengths_that_differ_are_refused(wire: Connection) -> None:
    with pytest.raises(StoreError, match="pass one id per vector"):
        copy_vectors(wire, TABLE, {"id": np.arange(3)}, np.zeros((2, 4), np.float32))


def test_a_wrong_dimension_is_named(wire: Connection) -> None:
    wire.execute("DROP TABLE IF EXISTS pg_temp.wire")
    wire.execute("CREATE TEMP TABLE wire (id bigint, embedding vector)")
    copy_vectors(wire, TABLE, {"id": np.arange(2)}, np.ones((2, 4), np.float32))
    for dims in (3, 5):
        with pytest.raises(StoreError, match=f"another dimension than {dims}"):
            copy_vectors_out(wire, sql.SQL("SELECT id, embedding FROM wire"), dims)
    assert wire.execute("SELECT count(*) FROM wire").fetchone() == (2,)
