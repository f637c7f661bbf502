"""Announcements of switches and of changed rows: to any role that listens, and only of what was committed."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, IndexKind
from tests.store.sample_store import SampleStore, encode

EMPTY = "CALL heal.delete_chunks('{}')"


@pytest.fixture
def listener(database_url: str) -> Iterator[Connection]:
    """A connection with the rights of ``heal_reader`` that listens."""
    with connect(database_url, autocommit=True) as conn:
        conn.execute("SET ROLE heal_reader")
        conn.execute("LISTEN heal_switch")
        yield conn


def heard(listener: Connection) -> list[dict[str, Any]]:
    listener.execute("SELECT 1")
    return [json.loads(item.payload) for item in listener.notifies(timeout=0.2)]


def published(store: SampleStore, model: str) -> Generation:
    made = store.generation(model)
    store.publish(made)
    return made


def test_every_switch_is_announced(store: SampleStore, listener: Connection) -> None:
    store.load_many(3)
    first, second, third = (published(store, model) for model in ("m0", "m1", "m1"))
    store.generations.activate(second.generation_id)
    store.generations.activate(second.generation_id)  # is active
    switches = [(None, first, True), (first, second, True), (second, third, False), (third, second, False)]
    assert heard(listener) == [
        {
            "kind": "switch", "generation": new.generation_id, "previous": old and old.generation_id,
            "space_changed": changed, "model_uri": store.space_of(new).model_uri,
        }
        for old, new, changed in switches
    ]  # fmt: skip


def test_rows_changed_in_place_are_announced(store: SampleStore, listener: Connection) -> None:
    store.load_many(3)
    made = published(store, "m0")
    heard(listener)
    rows = store.wanted(made)
    store.served.upsert_served(made, rows)
    store.conn.execute(EMPTY)
    assert heard(listener) == [], "nothing was changed"

    def changed_at() -> object:
        query = "SELECT changed_at FROM heal.generation_status WHERE generation_id = %s"
        return store.conn.execute(query, (made.generation_id,)).fetchall()[0][0]

    before = changed_at()
    rows.leaves[1] = 7
    with pytest.raises(ZeroDivisionError), store.conn.transaction():
        store.served.upsert_served(made, rows)
        raise ZeroDivisionError
    assert (heard(listener), changed_at()) == ([], before)
    event = {"kind": "rows", "generation": made.generation_id, "previous": None, "space_changed": False}
    times = [before]
    for change in (lambda: store.served.upsert_served(made, rows), lambda: store.delete("d1")):
        change()
        assert heard(listener) == [event | {"model_uri": "/models/m0"}]
        times.append(changed_at())
    assert times == sorted(set(times))


@pytest.mark.parametrize("kind", ["vector", "none"])
def test_a_search_of_the_previous_generation_says_so_once(
    store: SampleStore, listener: Connection, kind: IndexKind
) -> None:
    store.load_many(3)
    first = store.generation("m0")
    store.publish(first, kind=kind)
    second = published(store, "m1")
    store.load_many(4)
    store.embed(store.space_of(second))
    assert store.served.upsert_served(second, store.wanted(second)).added == 1
    notices = list[str]()

    def note(notice: psycopg.errors.Diagnostic) -> None:
        notices.append(str(notice.message_primary))

    listener.add_notice_handler(note)
    for statement in (
        "SELECT text, generation_id FROM heal.search(%(v)s, %(g)s::bigint, 5)",
        "SELECT text, generation_id FROM heal.search(%(v)s, %(g)s::bigint, 200)",
        "SELECT text, generation_id FROM heal.search_many(ARRAY[%(v)s::vector, %(v)s], %(g)s::bigint, 5)",
        "SELECT text, generation_id FROM heal.hybrid_search('text', %(v)s, %(g)s::bigint, 5)",
        "SELECT hits, 1 FROM heal.topic_search(%(v)s, %(g)s::bigint)",
        "SELECT 1, 1 FROM heal.search(%(v)s, %(g)s::bigint, 1, after => %(page)s)",
        "SELECT 1, 1 FROM heal.hybrid_search('text', %(v)s, %(g)s::bigint, 1, after => %(page)s)",
    ):
        for generation, rows, told in ((first, 3, 1), (second, 4, 0)):
            notices.clear()
            page = {"generation_id": generation.generation_id, "chunk_id": 1, "distance": 0, "score": 9}
            vector = str(encode(["text 1"], 8, "m")[0].tolist())
            values = {"v": vector, "g": generation.generation_id, "page": Jsonb(page)}
            found = listener.execute(statement, values).fetchall()
            if statement.startswith("SELECT text"):
                assert {(f"text {n}", generation.generation_id) for n in range(rows)} == set(found)
            assert found or "topic" in statement, statement
            assert len(notices) == told, statement
            assert all(f"generation {first.generation_id} is not live any more" in notice for notice in notices)
