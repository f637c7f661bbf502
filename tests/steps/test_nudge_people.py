"""Where people have asked enough, their questions alone choose how far rows move, and move them."""

import pytest

from heal_tasks.core.settings import load_settings
from heal_tasks.store.db import Connection
from tests.steps.nudge_world import World
from tests.steps.test_nudge_live import without_a_budget


@pytest.fixture
def world(auto: Connection, database_url: str) -> World:
    return World(auto, load_settings(database_url=database_url, bootstrap_samples=200))


@pytest.mark.parametrize("enough", [True, False])
def test_people_choose_and_move_rows_alone_where_they_have_asked_enough(world: World, enough: bool) -> None:
    without_a_budget(world)
    asked = world.chunks()[::2]
    for chunk in asked:
        near = world.question_vector(f"a{chunk.text[5:]}")
        world.ask(chunk, [f"person asks {chunk.text}"], "train", near, "human")
        world.ask(chunk, [f"person chooses {chunk.text}"], "seen_validation", near, "human")
    world.settings = world.settings.model_copy(update={"gate_min_questions": len(asked) + (not enough)})
    world.night()
    assert world.active.nudge_theta > 0
    assert world.active.nudge_by_people is enough
    base = dict(zip(*map(list, world.space.vectors.load_base(world.active)), strict=True))
    moved = {chunk_id for chunk_id, vector in world.served().items() if abs(vector - base[chunk_id]).max() > 1e-3}
    assert moved == {chunk.chunk_id for chunk in (asked if enough else world.chunks())}


def test_a_night_moves_rows_by_peoples_questions_alone(world: World) -> None:
    world.space.generations.set_fields(world.made.generation_id, nudge_by_people=True)
    first, second, third = world.chunks()[:3]
    world.ask(first, ["a person's", "another's"], "train", writer="human")
    world.ask(second, ["written later"], "train")
    # What people and a writer ask alike pulls by the people's answers.
    world.ask(third, ["of both"], "train", writer="human")
    world.ask(second, ["of both"], "train")
    world.night()
    served, wanted = world.served(), world.wanted()
    base = dict(zip(*map(list, world.space.vectors.load_base(world.active)), strict=True))
    for chunk in (first, third):
        assert abs(served[chunk.chunk_id] - base[chunk.chunk_id]).max() > 1e-3
        assert abs(served[chunk.chunk_id] - wanted[chunk.chunk_id]).max() < 1e-6
    assert abs(served[second.chunk_id] - base[second.chunk_id]).max() < 1e-6
