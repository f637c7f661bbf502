import threading
import time

import pytest
from spaces import DIMS, Space, encode

from heal_tasks.core.errors import RetryableError, StoreError
from heal_tasks.store.db import connect
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.search import NotSearchable, search


def states(space: Space) -> dict[int, str]:
    return {item.generation_id: item.state for item in space.generations.list()}


def make(space: Space, **fields: object) -> int:
    values = {"kind": "trained", "run_id": "r", "model_uri": "/m", "model_sha256": "m", "dims": DIMS, **fields}
    return space.generations.create(**values).generation_id  # type: ignore[arg-type]


def test_a_new_generation_has_its_row_and_three_empty_tables(space: Space) -> None:
    made = space.generations.create(
        kind="reference", run_id="r", model_uri="/m", model_sha256="sha", dims=5, ef_search=50, note="first"
    )
    assert (made.state, made.dims, made.ef_search, made.note, made.metric) == ("building", 5, 50, "first", "cosine")
    assert space.generations.get(made.generation_id) == made
    tables = {
        row[0] for row in space.conn.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE '%\\_g000001'")
    }
    assert tables == {"base_g000001", "vec_g000001", "question_g000001"}
    assert space.generations.active() is None
    assert space.generations.previous() is None


def test_a_model_has_one_baseline_and_it_is_never_served(space: Space) -> None:
    made = make(space, kind="baseline")
    found = space.generations.baseline("m")
    assert found is not None
    assert found.generation_id == made
    assert space.generations.baseline("other") is None
    with pytest.raises(StoreError, match="a baseline generation of 8 dimensions cannot be made: duplicate key"):
        make(space, kind="baseline")
    assert len(space.generations.list()) == 1
    space.generations.set_state(made, "ready")
    with pytest.raises(StoreError, match=r"generation \d+ cannot be activated \(baseline\)"):
        space.generations.activate(made, lock_timeout_ms=100)
    with pytest.raises(StoreError, match=r"is in use \(baseline, ready\)"):
        space.generations.drop_tables(made)


def test_dimensions_are_limited(space: Space) -> None:
    with pytest.raises(StoreError, match="a trained generation of 2001 dimensions"):
        make(space, dims=2001)


def test_fields(space: Space) -> None:
    number = make(space)
    made = space.generations.set_fields(
        number, nudge_variant="N", nudge_theta=0.2, ef_search=200, recall=0.97, metrics={"ndcg": 0.5}, note="x"
    )
    assert (made.nudge_variant, made.nudge_theta, made.ef_search, made.recall) == ("N", 0.2, 200, 0.97)
    assert (made.metrics, made.note) == ({"ndcg": 0.5}, "x")
    with pytest.raises(StoreError, match=r"\['state'\] cannot be set on a generation"):
        space.generations.set_fields(number, state="active")


def test_unknown_generations_are_named(space: Space) -> None:
    with pytest.raises(StoreError, match=r"there is no generation 99; SELECT \* FROM heal\.generation_status"):
        space.generations.get(99)


def test_the_live_states_cannot_be_set_by_hand(space: Space) -> None:
    number = make(space)
    for state in ("active", "previous"):
        with pytest.raises(StoreError, match=f"is building and cannot become {state} by hand; use activate"):
            space.generations.set_state(number, state)  # type: ignore[arg-type]
    space.generations.set_state(number, "ready")
    space.generations.set_state(number, "ready", note="again")
    space.generations.activate(number, lock_timeout_ms=100)
    for state in ("ready", "failed", "retired", "building"):
        with pytest.raises(StoreError, match=f"is active and cannot become {state}"):
            space.generations.set_state(number, state)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="is active; its metric cannot change"):
        space.generations.set_fields(number, metric="inner_product")
    assert space.generations.get(number).note == "again"


def test_switch_rollback_and_retirement(space: Space) -> None:
    space.load(a="x", b="y")
    first, second, third = (space.generation(name).generation_id for name in ("m1", "m2", "m3"))
    for number in (first, second):
        space.publish(space.generations.get(number))
    assert states(space) == {first: "previous", second: "active", third: "building"}
    view = "SELECT DISTINCT generation_id FROM heal.embedding"
    assert space.conn.execute(view).fetchall() == [(second,)]

    space.generations.activate(first, lock_timeout_ms=100)
    assert states(space) == {first: "active", second: "previous", third: "building"}
    assert space.conn.execute(view).fetchall() == [(first,)]
    space.generations.activate(first, lock_timeout_ms=100)
    assert states(space) == {first: "active", second: "previous", third: "building"}

    space.publish(space.generations.get(third))
    assert states(space) == {first: "previous", second: "retired", third: "active"}
    with pytest.raises(StoreError, match=rf"generation {second} cannot be activated \(retired\) \(HEA01\)\. SELECT"):
        space.generations.activate(second, lock_timeout_ms=100)

    assert space.generations.retire_old(drain_hours=1) == []
    assert space.generations.retire_old(drain_hours=0) == [second]
    assert space.generations.retire_old(drain_hours=0) == []
    assert space.conn.execute("SELECT to_regclass('heal.base_g000002')").fetchone() == (None,)
    assert states(space)[second] == "retired"
    for number in (first, third):
        with pytest.raises(StoreError, match="is in use"):
            space.generations.drop_tables(number)


def test_dimensions_may_change_with_a_switch_and_grants_stay(space: Space) -> None:
    space.load(a="x")
    space.conn.execute("DROP ROLE IF EXISTS analyst")
    space.conn.execute("CREATE ROLE analyst")
    space.conn.execute("GRANT SELECT ON heal.embedding TO analyst")
    try:
        for model, dims in (("m1", 8), ("m2", 5), ("m3", 12)):
            space.publish(space.generation(model, dims=dims))
            row = space.conn.execute("SELECT vector_dims(embedding) FROM heal.embedding").fetchone()
            assert row == (dims,)
        assert space.conn.execute("SELECT has_table_privilege('analyst', 'heal.embedding', 'SELECT')").fetchone() == (
            True,
        )
    finally:
        space.conn.execute("DROP OWNED BY analyst")
        space.conn.execute("DROP ROLE analyst")


def test_a_failed_generation_can_be_built_again(space: Space) -> None:
    number = make(space)
    space.generations.set_state(number, "failed", note="no gain")
    assert space.generations.get(number).note == "no gain"
    space.generations.set_state(number, "building")
    space.generations.set_state(number, "retired")
    assert space.generations.get(number).retired_at is not None
    assert space.generations.retire_old(0) == [number]


def test_a_reader_that_holds_the_lock_delays_the_switch_and_nobody_else(space: Space, database_url: str) -> None:
    space.load(a="x")
    space.publish(space.generation("m1"))
    second = space.generation("m2")
    space.vectors.write_served(second, space.served(second))
    space.generations.set_state(second.generation_id, "ready")
    with connect(database_url) as slow, connect(database_url, autocommit=True) as other:
        slow.execute("SELECT count(*) FROM heal.embedding")
        with pytest.raises(
            RetryableError, match=r"through 2 attempts of 20 ms an open transaction kept heal.embedding"
        ):
            space.generations.activate(second.generation_id, lock_timeout_ms=20, attempts=2)
        assert states(space)[second.generation_id] == "ready"
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
    assert states(space)[second.generation_id] == "active"


def test_a_retired_generation_is_refused_by_name(space: Space) -> None:
    space.load(a="x")
    made = [space.generation(name) for name in ("m1", "m2", "m3")]
    for generation in made:
        space.publish(generation)
    with pytest.raises(NotSearchable, match=r"generation 1 is not searchable \(retired\) \(HEA01\)\. Generation 3 is"):
        search(space.conn, encode(["x"])[0], made[0].generation_id)
