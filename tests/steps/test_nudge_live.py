"""The short nudge path: what was touched is computed, nothing else is looked at, and the result is that of all rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from heal_tasks.core.errors import StoreError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.nudge.nudge import Plan
from heal_tasks.nudge.probe import KEPT
from heal_tasks.steps import nudge as steps_nudge
from heal_tasks.steps import nudge_live
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.probes import probe_change, restart_drift
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.contrast_state import PushRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from tests.steps.nudge_world import DIMS, World
from tests.store.spaces import encode


@pytest.fixture
def world(auto: Connection, settings: Settings) -> World:
    return World(auto, settings)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return load_settings(database_url=database_url, bootstrap_samples=200)


CENTRE = np.linspace(-0.1, 0.3, DIMS, dtype=np.float32)


@pytest.mark.parametrize(
    ("prior", "centre", "pushed"), [(0.0, None, False), (1.5, None, False), (0.5, CENTRE, False), (1.0, None, True)]
)
def test_any_nights_equal_a_computation_of_all_rows(
    world: World, prior: float, centre: NDArray[np.float32] | None, pushed: bool
) -> None:
    world.set_budget(0.4, prior, centre, many=0.5 if pushed else 0.0)
    if pushed:
        world.push()
    world.night()  # everything was loaded un-nudged, and is touched
    world.check()
    for night in range(4):
        names = {f"n{night}_{number}": f"new {night} {number}" for number in range(3)}
        world.space.load(**names)
        for text in names.values():
            world.ask(world.chunk(text), [f"asked of {text}"], "train")
        world.space.delete(f"d{night}")
        world.space.load(**{f"d{20 + night}": f"changed {night}"})
        world.ask(world.chunk(f"text {30 + night}"), [f"late {night}"], "seen_validation" if night % 2 else "train")
        world.conn.execute("DELETE FROM heal.question WHERE text = %s", (f"a{40 + night}",))
        counts = world.night().counts
        # Three new, one deleted, one before and one after its change, two with other questions. A deleted document is
        # gone from what is served before the night begins.
        assert counts["rows_looked_at"] == 8
        assert (counts["rows_added"], counts["rows_removed"], counts["rows_changed"]) == (4, 1, 2)
        world.check()
    again = world.night().counts
    assert (again["rows_added"], again["rows_removed"], again["rows_changed"]) == (0, 0, 0)


def test_a_chunk_that_comes_later_is_pushed_and_stays_so(world: World) -> None:
    world.set_budget(0.4, 1.0, many=0.5)
    world.push()
    world.night()
    pushes = PushRepository(world.conn)
    before = dict(zip(*map(list, pushes.of_chunks(world.active)), strict=True))
    world.space.load(late="late one", silent="nobody asks")
    late = world.chunk("late one")
    # One question of its own, and one that a chunk of then has as well, which must not push it.
    world.ask(late, ["of the late one"], "train")
    world.ask(late, ["a11"], "train", encode(["text 11"], DIMS))
    world.night()
    world.check()
    after = dict(zip(*map(list, pushes.of_chunks(world.active)), strict=True))
    assert after.keys() - before.keys() == {late.chunk_id}
    kept = pushes.load(world.active)
    ids, vectors = world.space.vectors.load_questions(world.active)
    own = world.question_vector("of the late one")[0] + world.question_vector("a11")[0] / 2**0.5
    d, rows, push = encode(["late one"], DIMS)[0], encode(["late one"], DIMS)[0], np.zeros(DIMS)
    for step in (1, 2, 3):
        for question, level in zip(kept.question_ids, kept.levels, strict=True):
            vector = vectors[np.searchsorted(ids, question)]
            if np.array_equal(vector, world.question_vector("a11")[0]):
                continue
            push -= vector / (1 + np.exp(level - rows @ vector / 0.05))
        rows = d + (step * own + push) / 3
        rows /= np.linalg.norm(rows)
    np.testing.assert_allclose(after[late.chunk_id], push / 3, atol=1e-5)
    # Whatever is asked later, by then it is kept.
    world.ask(late, ["one more"], "train")
    world.night()
    world.check()
    again = dict(zip(*map(list, pushes.of_chunks(world.active)), strict=True))
    np.testing.assert_array_equal(again[late.chunk_id], after[late.chunk_id])


def test_a_night_touches_no_other_row(world: World) -> None:
    world.night()
    table = f"heal.vec_g{world.made.generation_id:06d}"
    before = dict(world.conn.execute(f"SELECT chunk_id, xmin::text FROM {table}").fetchall())
    late = world.chunk("text 5")
    world.ask(late, ["one more"], "train")
    world.night()
    after = dict(world.conn.execute(f"SELECT chunk_id, xmin::text FROM {table}").fetchall())
    assert {chunk_id for chunk_id in after if after[chunk_id] != before[chunk_id]} == {late.chunk_id}


def test_a_question_of_two_chunks_pulls_each_by_half(world: World) -> None:
    world.night()
    world.ask(world.chunk("text 7"), ["Shared"], "train")
    world.night()
    world.check()
    # Another case, another chunk: the same question, so the first chunk is touched too.
    world.ask(world.chunk("text 8"), ["shared"], "train")
    assert world.night().counts["rows_looked_at"] == 2
    world.check()
    world.ask(world.chunk("text 9"), ["SHARED"], "unseen_validation")
    assert world.night().counts["rows_looked_at"] == 3
    world.check()
    world.conn.execute("DELETE FROM heal.question WHERE text = 'SHARED'")
    assert world.night().counts["rows_looked_at"] == 3
    world.conn.execute("DELETE FROM heal.question WHERE text = 'shared'")
    assert world.night().counts["rows_looked_at"] == 2
    world.check()


def test_a_night_that_harms_is_not_served_and_said_so(world: World) -> None:
    world.set_budget(1.2)
    world.night()
    before = world.served()
    # Questions that pull thirty rows onto the answers of held-out questions.
    for number in range(0, 60, 2):
        toward = encode([f"text {number + 1}"], DIMS)
        world.ask(world.chunk(f"text {number}"), [f"bad {number} {n}" for n in range(9)], "train", toward)
    world.space.load(fresh="fresh one")
    world.ask(world.chunk("fresh one"), ["of the fresh one"], "train")
    note = world.night().note
    assert "the moved rows were worse (" in note
    assert "new documents are served un-nudged and the rest as before" in note
    after = world.served()
    fresh = world.chunk("fresh one").chunk_id
    assert after.keys() - before.keys() == {fresh}
    np.testing.assert_allclose(after[fresh], encode(["fresh one"], DIMS)[0], atol=1e-6)
    for chunk_id, vector in before.items():
        np.testing.assert_array_equal(after[chunk_id], vector)
    # They are tried again as soon as what harmed is gone.
    world.conn.execute("DELETE FROM heal.question WHERE text LIKE 'bad%%'")
    assert "worse" not in world.night().note
    world.check()


def test_a_chunk_without_its_vector_stops_the_step(world: World) -> None:
    world.night()
    world.space.load(unready="not embedded")
    with pytest.raises(StoreError, match=r"1 chunk vectors of generation \d+ are missing, first id \d+; run embed_new"):
        load_step("nudge_live").run(world.settings, Manifest(run_id="too early"))


def test_a_question_without_its_vector_stops_the_step(world: World) -> None:
    world.night()
    world.ask(world.chunk("text 3"), ["vectorless"], "train")
    world.conn.execute(
        f"DELETE FROM heal.question_g{world.made.generation_id:06d} b USING heal.question q "
        "WHERE q.question_id = b.question_id AND q.text = 'vectorless'"
    )
    with pytest.raises(StoreError, match=r"1 question vectors of generation \d+ are missing"):
        load_step("nudge_live").run(world.settings, Manifest(run_id="too early"))


def test_without_a_budget_all_rows_are_computed(world: World) -> None:
    world.space.generations.set_fields(world.made.generation_id, nudge_variant="none", nudge_theta=0.0)
    world.space.load(late="late one")
    made = world.night()
    assert made.counts["rows_looked_at"] == 61
    assert not NudgeState(world.conn, world.active).touched().size
    assert world.chunk("late one").chunk_id in world.served()


def test_all_rows_and_touched_rows_give_the_same(world: World) -> None:
    world.set_budget(0.4, 1.5, CENTRE, many=0.5)
    world.push()
    toward = encode(["both"], DIMS)
    world.ask(world.chunk("text 7"), ["of two"], "train", toward)
    world.ask(world.chunk("text 8"), ["of two"], "train", toward)
    world.night()
    world.check()
    touched = world.served()
    # Without probes there is nothing to follow, so all rows are computed, by the same budget.
    world.conn.execute("DELETE FROM heal.nudge_probe")
    assert world.night().counts["rows_looked_at"] == len(touched)
    for chunk_id, vector in world.served().items():
        np.testing.assert_allclose(vector, touched[chunk_id], atol=1e-6)


def test_what_rows_move_is_added_up_until_a_realignment(world: World) -> None:
    base = world.served()
    world.night()
    moved = [np.arccos(np.clip(base[key] @ vector, -1, 1)) for key, vector in world.served().items()]
    assert world.active.metrics["displacement"] == pytest.approx(sum(moved) / 60, abs=1e-4)
    change = probe_change(NudgeState(world.conn, world.active).probes(KEPT), world.settings)
    assert change is not None
    assert change.value != 0
    restart_drift(world.conn, world.active)
    change = probe_change(NudgeState(world.conn, world.active).probes(KEPT), world.settings)
    assert change is not None
    assert change.value == pytest.approx(0, abs=1e-7)
    assert world.active.metrics["displacement"] == 0


def test_contrast_is_not_on_offer_where_it_would_look_at_too_many_pairs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_nudge, "PLANS", (Plan(prior=1.0, contrast_steps=3), Plan()))
    settings, chosen = without_a_budget(world), []
    # Two training questions for each of sixty chunks; validation gains by either plan.
    for number, pairs in enumerate((60 * 120 - 1, 60 * 120)):
        world.space.generations.set_fields(world.active.generation_id, nudge_variant="none", nudge_theta=0.0)
        limited = settings.model_copy(update={"nudge_contrast_pairs": pairs})
        load_step("nudge_live").run(limited, Manifest(run_id=f"limited {number}"))
        chosen.append(steps_nudge.plan_of(world.active))
    assert chosen == [Plan(), Plan(prior=1.0, contrast_steps=3)]


def without_a_budget(world: World) -> Settings:
    world.space.generations.set_fields(world.made.generation_id, nudge_variant="none", nudge_theta=0.0)
    # Held-out questions that the training questions help, or no budget would be adopted.
    for chunk in world.chunks():
        world.ask(chunk, [f"chooses {chunk.text}"], "seen_validation", world.question_vector(f"a{chunk.text[5:]}"))
        world.ask(chunk, [f"judges {chunk.text}"], "seen_test", world.question_vector(f"a{chunk.text[5:]}"))
    return world.settings


@pytest.mark.parametrize(
    ("variant", "plan"),
    [
        ("N", Plan()), ("N", Plan(centred=True, prior=0.5)), ("M", Plan(centred=True)),
        ("N", Plan(prior=1.0, contrast_steps=3, answer_count_exponent=0.5)),
    ],
)  # fmt: skip
def test_many_rows_go_into_a_new_table_that_readers_are_switched_to(
    world: World, monkeypatch: pytest.MonkeyPatch, variant: str, plan: Plan
) -> None:
    monkeypatch.setattr(steps_nudge, "PLANS", (plan,))
    settings = without_a_budget(world).model_copy(update={"nudge_variant": variant, "exact_rows": 0})
    monkeypatch.setattr(nudge_live, "FEW_ROWS", 5)
    run = world.conn.execute(
        "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
        "VALUES ('f', 'u', 1, 1, 1, 1, 0) RETURNING topic_run_id"
    ).fetchone()
    assert run is not None
    old = world.active.generation_id
    world.space.load(late="late one")
    world.space.embed(world.active)
    before = world.served()
    made = load_step("nudge_live").run(settings, Manifest(run_id="many", refs={"topic_run_id": run[0]}))
    now = world.active
    assert made.number("generation_id") == now.generation_id != old
    assert f"generation {now.generation_id} was loaded with them and switched to" in made.note
    assert (now.nudge_variant, now.metric) == (variant, "cosine" if variant == "N" else "inner_product")
    assert now.nudge_theta > 0
    assert steps_nudge.plan_of(now) == plan
    assert bool(len(PushRepository(world.conn).load(now).question_ids)) == bool(plan.contrast_steps)
    assert made.counts["rows_added"] == 1
    assert world.served().keys() == before.keys() | {world.chunk("late one").chunk_id}
    previous = world.space.generations.previous()
    assert previous is not None
    assert previous.generation_id == old
    # The rows that were served until then are as they were: a rollback finds them.
    live = world.space.vectors.load_served(previous)
    for chunk_id, vector in zip(live.chunk_ids.tolist(), live.vectors, strict=True):
        np.testing.assert_array_equal(vector, before[chunk_id])
    # The next night goes on from there, and touches what arrived.
    world.space.load(later="later one")
    world.space.embed(world.active)
    after = load_step("nudge_live").run(settings, Manifest(run_id="next", refs={"topic_run_id": run[0]}))
    assert after.counts["rows_looked_at"] == 1
    assert after.counts["rows_added"] == 1
    # Row by row, what the search moved comes out as it was.
    NudgeState(world.conn, world.active).touch(np.array(sorted(world.served())))
    again = load_step("nudge_live").run(settings, Manifest(run_id="again", refs={"topic_run_id": run[0]}))
    assert again.counts["rows_looked_at"] == 62
    assert again.counts["rows_changed"] == 0
