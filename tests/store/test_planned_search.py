"""heal.search by a plan that a session keeps: when it is taken, that it is kept, and what it finds."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psycopg
import pytest

from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, IndexKind, Metric
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import Served
from heal_tasks.store.migrate import migrate
from tests.store.sample_store import SampleStore

ROWS, FEW, WIDTH = 3000, 200, 32


@pytest.fixture(scope="module")
def stored(module_database_url: str) -> Iterator[SampleStore]:
    """So many documents that an index pays, and no generation."""
    with connect(module_database_url, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO heal.document (document_id, source, external_id, path, title, body, content_hash) "
            "SELECT n, 's', n, 'p', 'Title ' || n, 'b', n FROM generate_series(0, %s::bigint - 1) n",
            (ROWS,),
        )
        conn.execute(
            "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
            "SELECT n, n, 0, 'text ' || n, n FROM generate_series(0, %s::bigint - 1) n",
            (ROWS,),
        )
        conn.execute("ANALYZE heal.document, heal.chunk")
        conn.execute("SET track_functions = 'pl'")
        conn.prepare_threshold = None
        yield SampleStore(conn)


def publish(
    store: SampleStore, seed: int, dims: int = WIDTH, kind: IndexKind = "halfvec", rows: int = ROWS, **fields: str
) -> Generation:
    space = store.spaces.ensure("/m", str(seed), dims)
    made = store.generations.create(run_id="r", space=space, **fields)  # type: ignore[arg-type]
    store.generations.create_tables(made)
    vectors = np.random.default_rng(seed).normal(size=(rows, dims)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(rows, dtype=np.int64)
    store.served.write_served(made, Served(ids, ids, np.zeros(rows, dtype=np.int32), vectors))
    build_indexes(store.conn, made, memory_mb=64, parallel=0, kind=kind)
    store.generations.set_state(made.generation_id, "ready")
    store.generations.activate(made.generation_id, lock_timeout_ms=500)
    return made


def search(conn: Connection, generation: Generation, query: np.ndarray, k: int = 10) -> list[tuple[int, str, float]]:
    return conn.execute(
        "SELECT chunk_id, text, distance FROM heal.search(%s, %s::bigint, %s)", (query, generation.generation_id, k)
    ).fetchall()  # type: ignore[return-value]


def queries(dims: int, count: int = 8) -> np.ndarray:
    return np.random.default_rng(99).normal(size=(count, dims)).astype(np.float32)


@contextmanager
def counted(conn: Connection) -> Iterator[dict[str, int]]:
    """Count the calls of both functions inside the block, which is a transaction; filled when the block ends."""
    ways = ("nearest", "search_planned")
    counts: dict[str, int] = {}
    statement = "SELECT funcname, calls FROM pg_stat_xact_user_functions WHERE funcname = ANY(%s)"
    with conn.transaction():
        before = dict(conn.execute(statement, (list(ways),)).fetchall())
        yield counts
        after = dict(conn.execute(statement, (list(ways),)).fetchall())
    counts |= {name: after.get(name, 0) - before.get(name, 0) for name in ways}


@pytest.mark.parametrize("kind", ["vector", "halfvec", "bit"])
@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_it_finds_what_an_unplanned_search_finds(stored: SampleStore, kind: IndexKind, metric: Metric) -> None:
    generation = publish(stored, 1, kind=kind, metric=metric)
    index = f"heal.vec_g{generation.generation_id:06d}_hnsw"
    scans = f"SELECT pg_stat_get_xact_numscans('{index}'::regclass)"
    with counted(stored.conn) as calls:
        before = stored.conn.execute(scans).fetchone() or (0,)
        found = [search(stored.conn, generation, query) for query in queries(WIDTH)]
        assert stored.conn.execute(scans).fetchone() == (before[0] + 8,)
    assert calls == {"nearest": 0, "search_planned": 8}
    unplanned = (
        "SELECT n.chunk_id, c.text, n.distance FROM heal.generation g, heal.nearest(%s, g, %s) n JOIN heal.chunk c "
        "USING (chunk_id) WHERE g.generation_id = %s ORDER BY n.distance, n.chunk_id"
    )
    for query, ten in zip(queries(WIDTH), found, strict=True):
        assert stored.conn.execute(unplanned, (query, 10, generation.generation_id)).fetchall() == ten
    # A plan serves every k up to a hundred; more are searched without.
    with counted(stored.conn) as calls:
        for k in (1, 100, 101):
            expected = stored.conn.execute(unplanned, (query, k, generation.generation_id)).fetchall()
            made = search(stored.conn, generation, query, k)
            # For many candidates of a small table the other way may compare all bits instead of a scan of the index.
            assert made == expected or (kind == "bit" and len({*made} & {*expected}) > 0.85 * k)
            assert len(expected) == len(made) == k
    assert calls == {"nearest": 4, "search_planned": 2}


def test_a_session_plans_a_generation_once(stored: SampleStore, module_database_url: str) -> None:
    generation = publish(stored, 2, rows=FEW)
    kept = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'CachedPlan' AND ident LIKE '%%LIMIT 100)%%'"
    with connect(module_database_url, autocommit=True) as conn:
        assert conn.execute(kept).fetchone() == (0,)
        for k in (1, 10, 100):
            search(conn, generation, queries(WIDTH)[0], k)
            assert conn.execute(kept).fetchone() == (1,)


def test_a_switch_leaves_plans_for_the_two_that_can_be_searched(stored: SampleStore) -> None:
    first, second, third = (
        publish(stored, 3, rows=FEW),
        publish(stored, 4, dims=16, rows=FEW),
        publish(stored, 5, rows=FEW),
    )
    with counted(stored.conn) as calls:
        for generation in (second, third):
            assert len(search(stored.conn, generation, queries(generation.dims)[0])) == 10
    assert calls == {"nearest": 0, "search_planned": 2}
    body = stored.conn.execute("SELECT prosrc FROM pg_proc WHERE proname = 'search_planned'").fetchone()
    assert body is not None
    assert [f"vec_g{item.generation_id:06d}" in body[0] for item in (first, second, third)] == [False, True, True]


def test_without_a_plan_a_search_takes_the_other_way_and_a_migration_makes_one(stored: SampleStore) -> None:
    generation = publish(stored, 6, rows=FEW)
    query = queries(WIDTH)[0]
    expected = search(stored.conn, generation, query)
    # As in a database that was made before there were plans.
    state = "UPDATE heal.generation SET state = %s WHERE generation_id = %s"
    stored.conn.execute(state, ("ready", generation.generation_id))
    stored.conn.execute("CALL heal.plan_searches()")
    stored.conn.execute(state, ("active", generation.generation_id))
    stored.conn.execute("UPDATE heal.schema_migration SET sha256 = '' WHERE name = 'api_plan.sql'")
    with counted(stored.conn) as calls:
        assert search(stored.conn, generation, query) == expected
    assert calls["nearest"] == 1
    assert migrate(stored.conn) == ["api_plan.sql"]
    with counted(stored.conn) as calls:
        assert search(stored.conn, generation, query) == expected
    assert calls["nearest"] == 0


def test_a_transaction_from_before_two_switches_gets_an_error_and_not_an_empty_answer(
    stored: SampleStore, module_database_url: str
) -> None:
    generation = publish(stored, 7, rows=FEW)
    with connect(module_database_url) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")  # the snapshot
        publish(stored, 8, rows=FEW)
        publish(stored, 9, rows=FEW)
        with pytest.raises(psycopg.Error, match=f"generation {generation.generation_id} is not searchable") as raised:
            reader.execute("SELECT * FROM heal.find('a word')")
        assert raised.value.sqlstate == "HEA01"
