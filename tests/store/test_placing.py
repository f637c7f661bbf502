"""Judgments and the chunks of their document that answer."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.ids import document_id, question_id
from heal_tasks.store.db import Connection, connect, scalar
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.questions.placing import NEAR, place_judgments
from heal_tasks.store.questions.questions import HUMAN, QuestionRepository
from tests.steps.asking import wait_until
from tests.store.sample_store import DIMS, SampleStore, encode, stored_questions
from tests.store.test_questions import ask, train


def test_a_judgment_is_placed_with_the_nearest_chunk_of_its_document(auto: Connection) -> None:
    store, questions = SampleStore(auto), QuestionRepository(auto)
    store.load(a="a0|a1|a2", b="b0|b1", c="c0|c1")
    texts = {chunk.chunk_id: chunk.text for chunk in live_chunks(store.conn)}
    generation = store.generation()
    space = store.space_of(generation)
    asked = {"like a2": ("a", "a2"), "like b1": ("b", "b1"), "like b0": ("b", "b0"), "like a1 of b": ("b", "a1")}
    pairs = [(text, name) for text, (name, _) in asked.items()] + [("without a vector", "c")]
    questions.import_judgments("s", pairs, train)
    ids = [question_id(document_id("s", name), HUMAN, text) for text, (name, _) in asked.items()]
    vectors = encode([chunk for _, chunk in asked.values()])
    store.spaces.write_questions(space, np.array(ids), vectors)
    # A written question stays with the chunk that it was written from, whatever is nearer.
    own = next(chunk for chunk in live_chunks(store.conn) if chunk.text == "a0")
    ask(questions, own, ["written"])
    written = question_id(own.chunk_id, "llm", "written")
    store.spaces.write_questions(space, np.array([written]), encode(["a2"]))
    base = dict(zip(texts.values(), encode(list(texts.values())), strict=True))
    nearest_of_b = max(("b0", "b1"), key=lambda text: float(base[text] @ base["a1"]))
    wanted = {
        "like a2": "a2", "like b1": "b1", "like b0": "b0", "like a1 of b": nearest_of_b, "without a vector": "c0",
        "written": "a0",
    }  # fmt: skip

    def places() -> dict[str, str]:
        return {row.text: texts[row.chunk_id] for row in stored_questions(questions._conn)}

    def touched() -> set[str]:
        return {texts[key] for key in NudgeState(auto, generation).touched().tolist()}

    first = {"like a2": "a0", "like b1": "b0", "like b0": "b0", "like a1 of b": "b0", "without a vector": "c0"}
    assert places() == first | {"written": "a0"}
    NudgeState(auto, generation).settle(np.array(list(texts)))
    of_b = np.array([key for key, text in texts.items() if text == "b1"])
    assert place_judgments(auto, space, of_b) == 1 + (nearest_of_b == "b1")
    assert places() == wanted | {"like a2": "a0"}
    assert touched() == {"b0", "b1"}
    assert place_judgments(auto, space) == 1
    assert places() == wanted
    assert touched() == {"a0", "a2", "b0", "b1"}
    assert place_judgments(auto, space) == 0
    # A chunk whose text is gone is not taken, however near.
    store.load(a="a0|new")
    store.embed(space)
    assert places()["like a2"] == "a0"
    place_judgments(auto, space)
    texts |= {chunk.chunk_id: chunk.text for chunk in live_chunks(store.conn)}
    base = dict(zip(("a0", "new"), encode(["a0", "new"]), strict=True))
    assert places()["like a2"] == max(base, key=lambda text: float(base[text] @ encode(["a2"])[0]))


def test_chunks_that_are_nearly_as_near_are_moved_as_well(auto: Connection) -> None:
    store, questions = SampleStore(auto), QuestionRepository(auto)
    store.load(a="a0|a1|a2|a3", b="b0")
    texts = {chunk.chunk_id: chunk.text for chunk in live_chunks(store.conn)}
    space = store.spaces.ensure("/models/m", "m", DIMS)
    distances = {"a0": 0.4, "a1": 0.01, "a2": 0.01 + NEAR - 1e-3, "a3": 0.01 + NEAR + 1e-3, "b0": 0.0}

    def at(distance: float) -> NDArray[np.float32]:
        vector = np.zeros(DIMS, dtype=np.float32)
        vector[:2] = 1 - distance, (1 - (1 - distance) ** 2) ** 0.5
        return vector

    vectors = np.array([at(distances[text]) for text in texts.values()])
    store.spaces.write_chunks(space, np.array(list(texts)), vectors)
    generation = store.generation()
    asked = [("of both", "a"), ("of both", "b"), ("judges", "a")]
    questions.import_judgments("s", asked, lambda _, text: "seen_test" if text == "judges" else "train")
    ids = [question_id(document_id("s", name), HUMAN, text) for text, name in asked]
    store.spaces.write_questions(space, np.array(ids), np.array([at(0.0)] * 3))
    state = NudgeState(auto, generation)

    def near() -> list[tuple[str, str]]:
        query = """SELECT q.text, c.text FROM heal.near_chunk n JOIN heal.question q USING (question_id)
            JOIN heal.chunk c ON c.chunk_id = n.chunk_id ORDER BY 1, 2"""
        return auto.execute(query).fetchall()

    def touched() -> set[str]:
        found = {texts[key] for key in state.touched().tolist()}
        state.settle(state.touched())
        return found

    touched()
    assert place_judgments(auto, space) == 2
    assert near() == [("of both", "a2")], "a question that only judges moves nothing"
    assert touched() == {"a0", "a1", "a2", "b0"}, "what b0 shares with others has changed, too"
    assert place_judgments(auto, space) == 0
    assert touched() == set()
    # Of every chunk that a question moves its share is known.
    rows = state.rows(np.array(sorted(texts)))
    moved = {texts[rows.chunk_ids[row]]: share for row, share in zip(rows.answers.tolist(), rows.shares, strict=True)}
    assert moved == {"a1": 1 / 3, "a2": 1 / 3, "b0": 1 / 3}

    # Its chunk is gone: the other one takes its place, and a further one is nearly as near as that.
    store.load(a="a0|a2|a3")
    assert place_judgments(auto, space) == 2
    assert near() == [("of both", "a3")]
    assert touched() >= {"a2", "a3", "b0"}

    # A question that goes has moved those chunks no longer.
    store.load(a="a0|a1|a2|a3")
    store.spaces.write_chunks(space, np.array([key for key in texts if texts[key] == "a1"]), at(0.01)[None])
    place_judgments(auto, space)
    assert near() == [("of both", "a2")]
    touched()
    assert questions.remove_judgments("of both", "a") == 1
    assert near() == []
    assert touched() == {"a1", "a2", "b0"}


@pytest.mark.parametrize("what", ["DELETE FROM heal.question", "SELECT heal.delete_document(%s)"])
def test_what_is_removed_meanwhile_is_left_out(auto: Connection, database_url: str, what: str) -> None:
    store, questions = SampleStore(auto), QuestionRepository(auto)
    store.load(a="a0|a1|a2")
    space = store.space()
    document = document_id("s", "a")
    questions.import_judgments("s", [("a0 or a1?", "a")], train)
    middle = encode(["a0", "a1"]).sum(axis=0, keepdims=True)
    key = np.array([question_id(document, HUMAN, "a0 or a1?")])
    store.spaces.write_questions(space, key, middle / np.linalg.norm(middle))
    with connect(database_url) as other, ThreadPoolExecutor() as pool:
        other.execute(sql.SQL(what), (document,) if "%s" in what else ())
        placed = pool.submit(place_judgments, auto, space)
        with connect(database_url, autocommit=True) as third:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_until(lambda: scalar(third, waiting) > 0, timeout_s=30)
        other.commit()
        assert placed.result() == 0
    assert stored_questions(auto) == []
