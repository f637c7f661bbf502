"""Generations: rows and tables, the switch, the way back, retirement."""

import threading
import time
from dataclasses import replace

import psycopg
import pytest

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.search import NotSearchable, search
from tests.store.sample_store import DIMS, SampleStore, encode


def states(store: SampleStore) -> dict[int, str]:
    return {item.generation_id: item.state for item in store.generations.list()}


def make(store: SampleStore, **fields: object) -> int:
    return store.generation(**fields).generation_id  # type: ignore[arg-type]


def tables(store: SampleStore) -> set[str]:
    rows = store.conn.execute("SELECT tablename FROM pg_tables WHERE tablename ~ '_g[0-9]+$'")
    return {name for (name,) in rows}


def test_a_new_generation_is_a_row_and_gets_its_tables_later(store: SampleStore) -> None:
    space = store.spaces.ensure("/m", "sha", 5)
    made = store.generations.create(run_id="r", space=space)
    assert (made.state, made.space_id, made.dims) == ("building", space.space_id, 5)
    assert (made.ef_search, made.note, made.metric, made.nudge) == (100, "", "cosine", None)
    assert store.generations.get(made.generation_id) == made
    assert tables(store) == set()
    store.generations.create_tables(made)
    assert tables(store) == {"vec_g000001", "lex_g000001"}
    assert store.generations.active() is None
    assert store.generations.previous() is None


def test_tables_are_made_anew_where_an_attempt_was_cut_short(store: SampleStore) -> None:
    store.load(a="x")
    made = store.generation(nudge={"variant": "N", "theta": 0.3, "contrast_steps": 5})
    assert tables(store) == {"vec_g000001", "lex_g000001", "push_g000001"}
    store.served.write_served(made, store.wanted(made))
    store.generations.create_tables(made)
    assert tables(store) == {"vec_g000001", "lex_g000001", "push_g000001"}
    assert store.served.load_served(made).chunk_ids.shape == (0,)
    store.publish(made)
    with pytest.raises(StoreError, match="generation 1 is active, so its tables are in use and stay as they are"):
        store.generations.create_tables(made)
    assert store.served.load_served(made).chunk_ids.shape == (1,)


def test_dimensions_are_those_of_the_space(store: SampleStore) -> None:
    space = replace(store.space(), dims=DIMS + 1)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        store.generations.create(run_id="r", space=space)


def test_fields(store: SampleStore) -> None:
    number = make(store)
    record = {"variant": "N", "theta": 0.2, "contrast_steps": 5, "centre": [0.1, 0.2], "by_people": True}
    made = store.generations.set_fields(number, nudge=record, ef_search=200, recall=0.97, metrics={"ndcg": 0.5})
    assert (made.nudge, made.ef_search, made.recall) == (record, 200, 0.97)
    assert made.metrics == {"ndcg": 0.5}
    assert (made.contrast_steps, made.by_people) == (5, True)
    status = "SELECT nudge_variant, nudge_theta, model_uri, space_id FROM heal.generation_status"
    assert store.conn.execute(status).fetchall() == [("N", 0.2, "/models/m", 1)]
    made = store.generations.set_fields(number, nudge=None)
    assert (made.nudge, made.contrast_steps, made.by_people) == (None, 0, False)
    assert store.conn.execute(status).fetchall() == [("none", 0.0, "/models/m", 1)]
    with pytest.raises(StoreError, match=r"\['state'\] cannot be set on a generation"):
        store.generations.set_fields(number, state="active")


def test_unknown_generations_are_named(store: SampleStore) -> None:
    with pytest.raises(StoreError, match=r"there is no generation 99; SELECT \* FROM heal\.generation_status"):
        store.generations.get(99)


def test_the_live_states_cannot_be_set_by_hand(store: SampleStore) -> None:
    number = make(store)
    for state in ("active", "previous"):
        with pytest.raises(StoreError, match=f"is building and cannot become {state} by hand; use activate"):
            store.generations.set_state(number, state)  # type: ignore[arg-type]
    store.generations.set_state(number, "ready")
    store.generations.set_state(number, "ready", note="again")
    store.generations.activate(number, lock_timeout_ms=100)
    for state in ("ready", "failed", "retired", "building"):
        with pytest.raises(StoreError, match=f"is active and cannot become {state}"):
            store.generations.set_state(number, state)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"\['metric'\] cannot be set on a generation"):
        store.generations.set_fields(number, metric="inner_product")
    assert store.generations.get(number).note == "again"


def test_switch_rollback_and_retirement(store: SampleStore) -> None:
    store.load(a="x", b="y")
    first, second, third = (store.generation(name).generation_id for name in ("m1", "m2", "m3"))
    for number in (first, second):
        store.publish(store.generations.get(number))
    assert states(store) == {first: "previous", second: "active", third: "building"}
    view = "SELECT DISTINCT generation_id FROM heal.embedding"
    assert store.conn.execute(view).fetchall() == [(second,)]

    store.generations.activate(first, lock_timeout_ms=100)
    assert states(store) == {first: "active", second: "previous", third: "building"}
    assert store.conn.execute(view).fetchall() == [(first,)]
    store.generations.activate(first, lock_timeout_ms=100)
    assert states(store) == {first: "active", second: "previous", third: "building"}

    store.publish(store.generations.get(third))
    assert states(store) == {first: "previous", second: "retired", third: "active"}
    with pytest.raises(StoreError, match=rf"generation {second} cannot be activated \(retired\) \(HEA01\)\. SELECT"):
        store.generations.activate(second, lock_timeout_ms=100)

    assert store.generations.retire_old(drain_hours=1) == []
    assert store.generations.retire_old(drain_hours=0) == [second]
    assert store.generations.retire_old(drain_hours=0) == []
    assert store.conn.execute("SELECT to_regclass('heal.vec_g000002')").fetchone() == (None,)
    assert states(store)[second] == "retired"
    for number in (first, third):
        with pytest.raises(StoreError, match="so its tables are in use"):
            store.generations.drop_tables(number)


def test_dimensions_may_change_with_a_switch_and_grants_stay(store: SampleStore) -> None:
    store.load(a="x")
    store.conn.execute("DROP ROLE IF EXISTS analyst")
    store.conn.execute("CREATE ROLE analyst")
    store.conn.execute("GRANT SELECT ON heal.embedding TO analyst")
    try:
        for model, dims in (("m1", 8), ("m2", 5), ("m3", 12)):
            store.publish(store.generation(model, dims=dims))
            row = store.conn.execute("SELECT vector_dims(embedding) FROM heal.embedding").fetchone()
            assert row == (dims,)
        assert store.conn.execute("SELECT has_table_privilege('analyst', 'heal.embedding', 'SELECT')").fetchone() == (
            True,
        )
    finally:
        store.conn.execute("DROP OWNED BY analyst")
        store.conn.execute("DROP ROLE analyst")


def test_a_failed_generation_stays_so_and_loses_its_tables(store: SampleStore) -> None:
    number = make(store)
    store.generations.set_state(number, "failed", note="no gain")
    assert store.generations.get(number).note == "no gain"
    with pytest.raises(StoreError, match="is failed and cannot become ready by hand"):
        store.generations.set_state(number, "ready")
    assert store.generations.retire_old(1) == []
    assert store.generations.retire_old(0) == [number]
    assert tables(store) == set()


def test_a_reader_that_holds_the_lock_delays_the_switch_and_nobody_else(store: SampleStore, database_url: str) -> None:
    store.load(a="x")
    store.publish(store.generation("m1"))
    second = store.generation("m2")
    store.served.write_served(second, store.wanted(second))
    store.generations.set_state(second.generation_id, "ready")
    with connect(database_url) as slow, connect(database_url, autocommit=True) as other:
        slow.execute("SELECT count(*) FROM heal.embedding")
        with pytest.raises(
            RetryableError, match=r"through 2 attempts of 20 ms an open transaction kept heal.embedding"
        ):
            store.generations.activate(second.generation_id, lock_timeout_ms=20, attempts=2)
        assert states(store)[second.generation_id] == "ready"
        done = threading.Event()

        def switch() -> None:
            with connect(database_url, autocommit=True) as conn:
                GenerationRepository(conn).activate(second.generation_id, lock_timeout_ms=20)
                done.set()

        thread = threading.Thread(target=switch)
        thread.start()
        other.execute("SET statement_timeout = '2s'")
        for _ in range(20):
            assert other.execute("SELECT count(*) FROM heal.embedding").fetchone() == (1,)
            time.sleep(0.005)
        assert not done.is_set()
        slow.rollback()
        thread.join(10)
    assert done.is_set()
    assert states(store)[second.generation_id] == "active"


def test_a_retired_generation_is_refused_by_name(store: SampleStore) -> None:
    store.load(a="x")
    made = [store.generation(name) for name in ("m1", "m2", "m3")]
    for generation in made:
        store.publish(generation)
    with pytest.raises(NotSearchable, match=r"generation 1 is not searchable \(retired\) \(HEA01\)\. Generation 3 is"):
        search(store.conn, encode(["x"])[0], made[0].generation_id)
