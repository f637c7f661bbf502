"""Contrast state: replaced as a whole, added to by late chunks, deleted with chunks and questions."""

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import question_id
from heal_tasks.core.types import Question
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.generations.contrast_state import ContrastRepository, ContrastState
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.spaces import Space
from tests.store.sample_store import SampleStore, encode


def ask(store: SampleStore, space: Space, *texts: str) -> NDArray[np.int64]:
    """Store one question for each of the first chunks, with its vector; their ids."""
    made = []
    for chunk, text in zip(live_chunks(store.conn), texts, strict=False):
        row = Question(
            question_id(chunk.chunk_id, "llm", text), chunk.chunk_id, text, "", "", "question", "llm", "m", "p", "train"
        )
        QuestionRepository(store.conn).store("r", [Asked(chunk.chunk_id, chunk.content_hash, "p", "m", [row], 0)], [])
        made.append(row.question_id)
    ids = np.array(made, dtype=np.int64)
    store.spaces.write_questions(space, ids, encode(list(texts)))
    return ids


def test_displacements_and_levels_are_replaced_as_a_whole_and_deleted_with_chunks_and_questions(
    auto: Connection,
) -> None:
    store, contrast = SampleStore(auto), ContrastRepository(auto)
    store.load_many(5)
    generation = store.generation()
    space = store.space_of(generation)
    ids, base = store.spaces.load_chunks(space)
    asked = ask(store, space, "a", "b", "c")
    nothing = contrast.load(generation)
    assert len(nothing.chunk_ids) == len(nothing.question_ids) == 0
    generation = store.generations.set_fields(generation.generation_id, nudge={"contrast_steps": 3})
    first = np.array([1.0], dtype=np.float32)
    contrast.write(generation, ContrastState(ids[:1], base[:1], asked[:1], first, first))
    moved = 3 * base[::-1]
    moved[2] = 0.0
    levels, weights = np.array([7.5, 8.25], dtype=np.float32), np.array([1.0, 1.5], dtype=np.float32)
    contrast.write(generation, ContrastState(ids, moved, asked[1:], levels, weights))
    found = contrast.load(generation)
    kept = np.array([0, 1, 3, 4])
    np.testing.assert_array_equal(found.chunk_ids, ids[kept])
    np.testing.assert_array_equal(found.vectors, moved[kept])
    order = np.argsort(asked[1:])
    np.testing.assert_array_equal(found.question_ids, asked[1:][order])
    np.testing.assert_array_equal(found.levels, levels[order])
    np.testing.assert_array_equal(found.weights, weights[order])
    np.testing.assert_array_equal(contrast.of_chunks(generation, ids[[2, 3]])[0], ids[[3]])
    # A chunk that had none gets one; one that is kept stays.
    contrast.add(generation, ids[[0, 2]], base[[0, 2]])
    np.testing.assert_array_equal(contrast.of_chunks(generation)[1][[0, 2]], [moved[0], base[2]])
    owner = auto.execute("SELECT chunk_id FROM heal.question WHERE text = 'b'").fetchone()
    assert owner is not None
    auto.execute("CALL heal.delete_chunks(%s)", ([owner[0]],))
    found = contrast.load(generation)
    assert owner[0] not in found.chunk_ids.tolist()
    assert len(found.chunk_ids) == 4
    assert found.question_ids.tolist() == [asked[2]]
    assert store.served.health(generation)["orphans"] == 0
    auto.execute("INSERT INTO heal.push_g000001 SELECT 12345, embedding FROM heal.push_g000001 LIMIT 1")
    assert store.served.health(generation)["orphans"] == 1
    store.generations.set_state(generation.generation_id, "failed")
    assert store.generations.drop_tables(generation.generation_id)
    assert auto.execute("SELECT to_regclass('heal.push_g000001')").fetchone() == (None,)


def test_questions_that_displace_late_chunks_come_with_the_chunks_that_answer_them(auto: Connection) -> None:
    store, contrast = SampleStore(auto), ContrastRepository(auto)
    store.load_many(4)
    generation = store.generation()
    space = store.space_of(generation)
    generation = store.generations.set_fields(generation.generation_id, nudge={"contrast_steps": 3})
    chunks = [chunk.chunk_id for chunk in live_chunks(store.conn)]
    asked = ask(store, space, "one", "Shared", "without a level")
    # The same question, in another case, of the last chunk, and one of its own.
    for text in ("shared", "own"):
        key = question_id(chunks[3], "llm", text)
        row = Question(key, chunks[3], text, "", "", "question", "llm", "m", "p", "train")
        QuestionRepository(auto).store("r", [Asked(chunks[3], "h", "p", "m", [row], 0)], [])
    levels = np.array([5.0, 6.0], dtype=np.float32)
    contrast.write(
        generation, ContrastState(np.array(chunks[:1]), encode(["x"]), asked[:2], levels, np.ones(2, dtype=np.float32))
    )
    found = contrast.pushing(generation, np.array(sorted(chunks[2:])))
    order = np.argsort(asked[:2])
    np.testing.assert_array_equal(found.levels, levels[order])
    np.testing.assert_array_equal(found.vectors, encode(["one", "Shared"])[order])
    shared = int(np.flatnonzero(order == 1)[0])
    assert found.pairs.tolist() == [[shared, sorted(chunks[2:]).index(chunks[3])]]
