"""With enough questions of people, these alone choose theta and move rows."""

from collections.abc import Iterator

import numpy as np
import pytest

from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.nudge.probe import KEPT
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.questions.questions import Check
from tests.steps.nudge_world import DIMS, World
from tests.steps.test_nudge_live import without_a_record
from tests.store.sample_store import encode, stored_questions


@pytest.fixture
def world(nudge_world: World, postgres: EmbeddedPostgres) -> Iterator[World]:
    with nudge_world.copied(postgres) as made:
        yield made


@pytest.mark.parametrize("enough", [True, False])
def test_people_choose_and_move_rows_alone_where_they_have_asked_enough(world: World, enough: bool) -> None:
    without_a_record(world)
    asked = world.chunks()[::2]
    near = world.question_vectors([f"a{chunk.text[5:]}" for chunk in asked])
    world.ask_each([(chunk, f"person asks {chunk.text}") for chunk in asked], "train", near, "human")
    world.ask_each([(chunk, f"person chooses {chunk.text}") for chunk in asked], "seen_validation", near, "human")
    world.settings = world.settings.model_copy(update={"gate_min_questions": len(asked) + (not enough)})
    world.night()
    assert world.record is not None
    assert world.record.by_people is enough
    base = world.base()
    moved = {chunk_id for chunk_id, vector in world.served().items() if abs(vector - base[chunk_id]).max() > 1e-3}
    assert moved == {chunk.chunk_id for chunk in (asked if enough else world.chunks())}


def test_a_night_moves_rows_by_peoples_questions_alone(world: World) -> None:
    world.set_record(by_people=True)
    first, second, third = world.chunks()[:3]
    world.ask(first, ["a person's", "another's"], "train", writer="human")
    world.ask(second, ["written later"], "train")
    # What people and a writer ask alike pulls by the people's answers.
    world.ask(third, ["of both"], "train", writer="human")
    world.ask(second, ["of both"], "train")
    world.night()
    served, wanted = world.served(), world.wanted()
    base = world.base()
    for chunk in (first, third):
        assert abs(served[chunk.chunk_id] - base[chunk.chunk_id]).max() > 1e-3
        assert abs(served[chunk.chunk_id] - wanted[chunk.chunk_id]).max() < 1e-6
    assert abs(served[second.chunk_id] - base[second.chunk_id]).max() < 1e-6


def test_a_night_moves_the_chunk_that_answers_and_not_the_documents_first(world: World) -> None:
    world.store.load(long="p|q|r")
    p, q, r = (world.chunk(name) for name in "pqr")
    world.night()
    assert world.questions.import_judgments("s", [("where is r?", "long")], lambda document, text: "train")[0] == 1
    (key,) = (row.question_id for row in stored_questions(world.conn) if row.text == "where is r?")
    near = 0.8 * encode(["r"], DIMS) + 0.2 * encode(["elsewhere"], DIMS)
    world.store.spaces.write_questions(world.space, np.array([key]), near / np.linalg.norm(near))
    world.night()
    assert [row.chunk_id for row in stored_questions(world.conn) if row.question_id == key] == [r.chunk_id]
    served, base = world.served(), dict(zip("pqr", encode(["p", "q", "r"], DIMS), strict=True))
    assert abs(served[r.chunk_id] - base["r"]).max() > 1e-3
    for chunk in (p, q):
        assert abs(served[chunk.chunk_id] - base[chunk.text]).max() < 1e-6
    world.check()


def judge(world: World, text: str, name: str, *chunks: str) -> None:
    """A person's judgment of a document, with a vector in the middle of some chunks."""
    assert world.questions.import_judgments("s", [(text, name)], lambda document, text: "train")[0] == 1
    (key,) = (row.question_id for row in stored_questions(world.conn) if row.text == text and row.writer == "human")
    middle = encode(list(chunks), DIMS).sum(axis=0, keepdims=True)
    world.store.spaces.write_questions(world.space, np.array([key]), middle / np.linalg.norm(middle))


@pytest.mark.parametrize("displaced", [False, True])
def test_a_night_moves_the_chunks_that_are_nearly_as_near(world: World, displaced: bool) -> None:
    if displaced:
        world.set_record(prior=2.0)
        world.displace()
    world.store.load(long="p|q|r")
    world.night()
    judge(world, "q or r?", "long", "q", "r")
    world.night()
    served, base = world.served(), world.base()
    moved = {name for name in "pqr" if abs(served[chunk := world.chunk(name).chunk_id] - base[chunk]).max() > 1e-3}
    assert moved == {"q", "r"}
    world.check()
    # One of them goes: all of the question falls to the other.
    world.store.load(long="p|r")
    world.night()
    world.check()


@pytest.mark.parametrize(
    ("toward", "change", "near"),
    [
        ("r", {"long": "p|q"}, []),  # stands with the first chunk until it is placed
        ("pr", {"long": "p|q"}, []),  # the first chunk is the nearest of the rest
        ("qr", {"long": "p|q", "other": "o|r"}, []),  # goes over to an equal chunk of a document that was there
        ("qr", {"long": "o|s"}, []),  # its document becomes a duplicate of another one
    ],
)
def test_a_judgment_that_goes_over_to_another_chunk_moves_that_one(
    world: World, toward: str, change: dict[str, str], near: list[str]
) -> None:
    world.set_record(prior=2.0)
    world.store.load(twin="o|s", other="o|r", long="p|q|r")
    world.night()
    judge(world, "where?", "long", *toward)
    world.night()
    world.check()
    world.store.load(**change)
    for _ in range(2):
        world.night()
        world.check()
    query = "SELECT c.text FROM heal.near_chunk n JOIN heal.chunk c USING (chunk_id)"
    assert [text for (text,) in world.conn.execute(query)] == near


def test_a_question_that_a_filter_drops_leaves_its_share_to_all_chunks_of_the_others(world: World) -> None:
    world.set_record(prior=2.0)
    world.store.load(long="p|q|r", other="o")
    judge(world, "q or r?", "long", "q", "r")
    world.ask(world.chunk("o"), ["Q or r?"], "train", toward=world.question_vector("q or r?"))
    (written,) = (row for row in stored_questions(world.conn) if row.text == "Q or r?")
    for reason in (None, "round_trip", None):
        verdict = Check(written.question_id, written.chunk_id, None, None, None, reason)
        world.questions.store_checks("r", [verdict])  # type: ignore[list-item]
        world.night()
        world.check()


def test_every_chunk_of_the_named_document_is_right_for_a_probe(world: World) -> None:
    first = world.chunks()[0]
    world.ask(first, ["of a person"], "seen_test", writer="human")
    world.ask(first, ["of a writer"], "seen_test")
    # Another chunk for the same document, as a longer text would have.
    world.conn.execute(
        "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) VALUES (1, %s, 1, 'more', 'h')",
        (first.document_id,),
    )
    world.store.embed(world.space)
    world.store.served.upsert_served(world.active, world.store.wanted(world.made))
    world.start_probes()
    probes = NudgeState(world.conn, world.active).probes(KEPT)
    texts = dict(world.conn.execute("SELECT question_id, text FROM heal.question").fetchall())
    right = {
        texts[key]: set(found.tolist())
        for key, found in zip(probes.question_ids.tolist(), probes.positives, strict=True)
    }
    assert right["of a person"] == {1, first.chunk_id}
    assert right["of a writer"] == {first.chunk_id}
