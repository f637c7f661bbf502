"""Spaces: made once per encoder, filled by shards, read for live texts only, dropped when no generation needs them."""

import threading

import numpy as np
import psycopg
import pytest

from heal_tasks.core.errors import StoreError
from heal_tasks.core.ids import question_id
from heal_tasks.core.types import Question
from heal_tasks.store.db import connect
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository, space_table
from tests.store.sample_store import DIMS, SampleStore, encode


def ask(store: SampleStore, text: str, query: str) -> int:
    """Store one question for the chunk with that text; returns its id."""
    chunk = next(item for item in live_chunks(store.conn) if item.text == text)
    key = question_id(chunk.chunk_id, "llm", query)
    made = Question(key, chunk.chunk_id, query, "", "", "question", "llm", "m", "p", "train")
    QuestionRepository(store.conn).store("r", [Asked(chunk.chunk_id, "h", "p", "m", [made], 0)], [])
    return key


def tables(store: SampleStore) -> set[str]:
    rows = store.conn.execute("SELECT tablename FROM pg_tables WHERE tablename ~ '_s[0-9]+$'")
    return {name for (name,) in rows}


def test_an_encoder_has_one_space(store: SampleStore) -> None:
    made = store.spaces.ensure("/m", "sha", 5)
    assert (made.model_uri, made.model_sha256, made.dims) == ("/m", "sha", 5)
    assert tables(store) == {"base_s000001", "question_s000001"}
    assert store.spaces.ensure("/m", "sha", 5) == made
    moved = store.spaces.ensure("/elsewhere", "sha", 5)
    assert (moved.space_id, moved.model_uri) == (made.space_id, "/elsewhere")
    other = store.spaces.ensure("/elsewhere", "sha2", 7)
    assert store.spaces.list() == [moved, other]
    assert store.spaces.get(other.space_id) == other
    assert store.spaces.find_by_uri("/elsewhere") == other
    assert store.spaces.find_by_uri("/m") is None
    with pytest.raises(StoreError, match=r"there is no space 9; SELECT \* FROM heal\.space lists them"):
        store.spaces.get(9)


def test_dimensions_are_those_of_the_space_and_limited(store: SampleStore) -> None:
    store.spaces.ensure("/m", "sha", 5)
    with pytest.raises(StoreError, match=r"/n is said to have 6 dimensions, but space 1 .*sha256 sha\) has 5"):
        store.spaces.ensure("/n", "sha", 6)
    for dims in (0, 4001):
        with pytest.raises(StoreError, match=f"/n has {dims} dimensions; pgvector's HNSW index takes 1 to 4000"):
            store.spaces.ensure("/n", "sha2", dims)
    assert len(store.spaces.list()) == 1


def test_many_tasks_that_ask_at_once_get_the_same_space(store: SampleStore, database_url: str) -> None:
    found: list[Space] = []
    start = threading.Barrier(4)

    def ask_for_it() -> None:
        with connect(database_url, autocommit=True) as conn:
            start.wait()
            found.append(SpaceRepository(conn).ensure("/m", "sha", DIMS))

    threads = [threading.Thread(target=ask_for_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [store.spaces.get(1)] * 4


def test_vectors_are_written_once_per_chunk(store: SampleStore) -> None:
    store.load(a="x|y", b="z")
    space = store.space()
    assert store.spaces.missing_chunks(space) == []
    ids, vectors = store.spaces.load_chunks(space)
    assert ids.tolist() == [chunk.chunk_id for chunk in live_chunks(store.conn)]
    np.testing.assert_allclose(vectors, encode([chunk.text for chunk in live_chunks(store.conn)]), rtol=1e-6)
    assert store.spaces.write_chunks(space, ids, -vectors) == 0
    np.testing.assert_array_equal(store.spaces.load_chunks(space)[1], vectors)
    np.testing.assert_array_equal(store.spaces.load_chunks(space, ids[1:])[1], vectors[1:])
    store.load(c="w")
    assert [chunk.text for chunk in store.spaces.missing_chunks(space)] == ["w"]
    store.load(c="v")
    assert store.spaces.load_chunks(space)[0].tolist() == ids.tolist()


def test_generations_of_a_space_share_its_vectors(store: SampleStore) -> None:
    store.load(a="x", b="y")
    first, second = store.generation("m"), store.generation("m")
    assert first.space_id == second.space_id
    assert tables(store) == {"base_s000001", "question_s000001"}
    assert store.spaces.missing_chunks(store.space_of(second)) == []


def test_ids_of_missing_chunks_are_ordered_by_length_with_equal_texts_together(store: SampleStore) -> None:
    texts = ("word word", "w", "same text", "text same", "a longer text")
    store.load(a="|".join(texts), b="same text|word word|w|text same", served="x")
    space = store.spaces.ensure("m", "m", DIMS)
    served = next(chunk for chunk in store.spaces.missing_chunks(space) if chunk.text == "x")
    store.spaces.write_chunks(space, np.array([served.chunk_id]), encode(["x"]))
    text_of = {chunk.chunk_id: chunk.text for chunk in store.spaces.missing_chunks(space)}
    ordered = [text_of[key] for key in store.spaces.missing_ids(space).tolist()]
    assert sorted(ordered) == sorted(text_of.values())
    assert [len(text) for text in ordered] == [13, *[9] * 6, 1, 1]
    assert all(ordered[place : place + 2] == [text] * 2 for text in set(ordered[1:]) for place in [ordered.index(text)])
    parts = [store.spaces.missing_ids(space, shard, 2).tolist() for shard in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(text_of)


def test_shards_fill_a_space_together(store: SampleStore) -> None:
    store.load_many(40)
    space = store.spaces.ensure("/m", "m", DIMS)
    parts = [{chunk.chunk_id for chunk in store.spaces.missing_chunks(space, shard, 3)} for shard in range(3)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 40
    for part in parts:
        store.spaces.write_chunks(space, np.array(sorted(part)), encode([str(key) for key in sorted(part)]))
    assert store.spaces.load_chunks(space)[0].shape == (40,)


def test_question_vectors(store: SampleStore) -> None:
    store.load(a="x", b="y")
    space = store.space()
    keys = sorted([ask(store, "x", "what x"), ask(store, "y", "what y")])
    missing = store.spaces.missing_questions(space)
    assert [key for key, _ in missing] == keys
    assert {text for _, text in missing} == {"what x", "what y"}
    assert [key for shard in range(3) for key, _ in store.spaces.missing_questions(space, shard, 3)] != []
    ids = np.array([*keys, 42], dtype=np.int64)
    assert store.spaces.write_questions(space, ids, encode(["1", "2", "3"])) == 2
    assert store.spaces.missing_questions(space) == []
    found, vectors = store.spaces.load_questions(space)
    assert found.tolist() == keys
    np.testing.assert_array_equal(vectors, encode(["1", "2"]))
    assert store.spaces.load_questions(space, np.array(keys[1:]))[0].tolist() == keys[1:]
    store.load(a="changed")
    assert len(store.spaces.load_questions(space)[0]) == 1


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, DIMS + 1), np.float32), rf"shape \(1, 9\) do not fit a space of {DIMS} dimensions"),
        (np.zeros((1, DIMS), np.float32), "1 of 1 vectors are zero or not finite"),
        (np.full((1, DIMS), np.nan, np.float32), "1 of 1 vectors are zero or not finite"),
    ],
)
def test_unfit_vectors_are_refused_at_the_door(store: SampleStore, vectors: np.ndarray, message: str) -> None:
    store.load(a="x")
    ids = np.array([next(live_chunks(store.conn)).chunk_id])
    with pytest.raises(StoreError, match=message):
        store.spaces.write_chunks(store.space(), ids, vectors)


def test_a_deletion_reaches_every_space(store: SampleStore) -> None:
    store.load(a="x", b="y")
    spaces = [store.space(model) for model in ("m1", "m2")]
    key = ask(store, "x", "q")
    for space in spaces:
        store.spaces.write_questions(space, np.array([key]), encode(["q"]))
    store.delete("a")
    for space in spaces:
        assert store.texts(store.spaces.load_chunks(space)[0]) == ["y"]
        for prefix, rows in (("base", 1), ("question", 0)):
            count = psycopg.sql.SQL("SELECT count(*) FROM {}").format(space_table(space.space_id, prefix))  # type: ignore[arg-type]
            assert store.conn.execute(count).fetchone() == (rows,)


def test_spaces_that_nothing_uses_are_dropped(store: SampleStore) -> None:
    store.load(a="x")
    live, candidate, kept, unused, recorded = (store.space(f"m{number}") for number in range(5))
    store.publish(store.generation("m0"))
    store.generations.create(run_id="r", space=candidate)
    failed = store.generations.create(run_id="r", space=recorded)
    store.generations.set_state(failed.generation_id, "failed")
    assert store.spaces.drop_unused([kept.space_id]) == [unused.space_id, recorded.space_id]
    assert store.spaces.drop_unused([kept.space_id]) == []
    assert store.spaces.list() == [live, candidate, kept, recorded]
    assert tables(store) == {f"{prefix}_s{number:06d}" for prefix in ("base", "question") for number in (1, 2, 3)}
    store.delete("a")
    again = store.spaces.ensure(recorded.model_uri, recorded.model_sha256, recorded.dims)
    assert again == recorded
    assert store.spaces.load_chunks(again)[0].shape == (0,)


def test_tables_have_the_same_names_in_sql_and_python(store: SampleStore) -> None:
    for number in (1, 999_999, 1_234_567):
        row = store.conn.execute(
            "SELECT heal.space_table(n), heal.space_table(n, 'question'), heal.vector_table(n) "
            "FROM (SELECT %s::bigint) AS number (n)",
            (number,),
        ).fetchone()
        assert row == (f"base_s{number:06d}", f"question_s{number:06d}", f"vec_g{number:06d}")
        assert space_table(number, "base").as_string(store.conn) == f'"heal"."base_s{number:06d}"'
