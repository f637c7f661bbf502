"""Step nudge_live: only touched rows are computed, and the result equals a computation of all rows."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from heal_tasks.core.errors import StoreError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.nudge.plan import WRITTEN_PLAN_OF_MANY, Plan
from heal_tasks.nudge.probe import KEPT
from heal_tasks.steps import nudge_live
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.probes import probe_change, restart_drift
from heal_tasks.steps.vectors import moves
from heal_tasks.steps.vectors.systems import lexicon_record_of
from heal_tasks.store.generations.contrast_state import ContrastRepository
from heal_tasks.store.generations.lexicon import LexiconRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from tests.steps.nudge_world import DIMS, World
from tests.store.sample_store import encode


@pytest.fixture
def world(nudge_world: World, postgres: EmbeddedPostgres) -> Iterator[World]:
    with nudge_world.copied(postgres) as made:
        yield made


CENTRE = np.linspace(-0.1, 0.3, DIMS, dtype=np.float32)


@pytest.mark.parametrize(
    ("prior", "centre", "displaced"), [(0.0, None, False), (1.5, None, False), (0.5, CENTRE, False), (1.0, None, True)]
)
def test_any_nights_equal_a_computation_of_all_rows(
    world: World, prior: float, centre: NDArray[np.float32] | None, displaced: bool
) -> None:
    world.set_record(prior=prior, centre=centre, answer_count_exponent=0.5 if displaced else 0.0)
    if displaced:
        world.displace()
    world.night()  # everything was loaded un-nudged, and is touched
    world.check()
    for night in range(2):
        names = {f"n{night}_{number}": f"new {night} {number}" for number in range(3)}
        world.store.load(**names)
        for text in names.values():
            world.ask(world.chunk(text), [f"asked of {text}"], "train")
        world.store.delete(f"d{night}")
        world.store.load(**{f"d{20 + night}": f"changed {night}"})
        world.ask(world.chunk(f"text {30 + night}"), [f"late {night}"], "seen_validation" if night % 2 else "train")
        world.conn.execute("DELETE FROM heal.question WHERE text = %s", (f"a{40 + night}",))
        counts = world.night().counts
        # Three new, one deleted, one before and one after its change, two with other questions. A deleted document is
        # gone from what is served before the night begins.
        assert counts["rows_computed"] == 8
        assert (counts["rows_added"], counts["rows_removed"], counts["rows_changed"]) == (4, 1, 2)
        world.check()
    again = world.night().counts
    assert (again["rows_added"], again["rows_removed"], again["rows_changed"]) == (0, 0, 0)


def test_a_chunk_that_arrives_later_is_displaced_once(world: World) -> None:
    world.set_record(prior=1.0, answer_count_exponent=0.5)
    world.displace()
    world.night()
    before = world.displacements()
    world.store.load(late="late one", silent="nobody asks")
    late = world.chunk("late one")
    # One question of its own, and one that a chunk of then has as well, which must not displace it.
    world.ask(late, ["of the late one"], "train")
    world.ask(late, ["a11"], "train", encode(["text 11"], DIMS))
    world.night()
    world.check()
    after = world.displacements()
    assert after.keys() - before.keys() == {late.chunk_id}
    kept = ContrastRepository(world.conn).load(world.active)
    ids, vectors = world.store.spaces.load_questions(world.space)
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
    np.testing.assert_array_equal(world.displacements()[late.chunk_id], after[late.chunk_id])


def test_a_night_touches_no_other_row(world: World) -> None:
    world.night()
    table = f"heal.vec_g{world.made.generation_id:06d}"
    before = dict(world.conn.execute(f"SELECT chunk_id, xmin::text FROM {table}").fetchall())
    late = world.chunk("text 5")
    assert world.night().refs["went_live"] == 0, "nothing has changed"
    world.ask(late, ["one more"], "train")
    assert world.night().refs["went_live"] == world.made.generation_id
    after = dict(world.conn.execute(f"SELECT chunk_id, xmin::text FROM {table}").fetchall())
    assert {chunk_id for chunk_id in after if after[chunk_id] != before[chunk_id]} == {late.chunk_id}


def test_a_question_of_two_chunks_pulls_each_by_half(world: World) -> None:
    world.night()
    world.ask(world.chunk("text 7"), ["Shared"], "train")
    world.night()
    world.check()
    # Another case, another chunk: the same question, so the first chunk is touched too.
    world.ask(world.chunk("text 8"), ["shared"], "train")
    assert world.night().counts["rows_computed"] == 2
    world.check()
    world.ask(world.chunk("text 9"), ["SHARED"], "unseen_validation")
    assert world.night().counts["rows_computed"] == 3
    world.check()
    world.conn.execute("DELETE FROM heal.question WHERE text = 'SHARED'")
    assert world.night().counts["rows_computed"] == 3
    world.conn.execute("DELETE FROM heal.question WHERE text = 'shared'")
    assert world.night().counts["rows_computed"] == 2
    world.check()


def test_a_chunk_without_its_vector_stops_the_step(world: World) -> None:
    world.night()
    world.store.load(unready="not embedded")
    with pytest.raises(StoreError, match=r"1 chunk vectors of generation \d+ are missing, first id \d+; run embed_new"):
        load_step("nudge_live").run(world.settings, Manifest(run_id="too early"))


def test_a_question_without_its_vector_stops_the_step(world: World) -> None:
    world.night()
    world.ask(world.chunk("text 3"), ["vectorless"], "train")
    world.conn.execute(
        f"DELETE FROM heal.question_s{world.space.space_id:06d} b USING heal.question q "
        "WHERE q.question_id = b.question_id AND q.text = 'vectorless'"
    )
    with pytest.raises(StoreError, match=r"1 question vectors of generation \d+ are missing"):
        load_step("nudge_live").run(world.settings, Manifest(run_id="too early"))


def test_without_a_record_all_rows_are_computed(world: World) -> None:
    world.forget_record()
    world.store.load(late="late one")
    made = world.night()
    assert made.counts["rows_computed"] == 61
    assert not NudgeState(world.conn, world.active).touched().size
    assert world.chunk("late one").chunk_id in world.served()


def test_all_rows_and_touched_rows_give_the_same(world: World) -> None:
    world.set_record(prior=1.5, centre=CENTRE, answer_count_exponent=0.5)
    world.displace()
    toward = encode(["both"], DIMS)
    world.ask(world.chunk("text 7"), ["of two"], "train", toward)
    world.ask(world.chunk("text 8"), ["of two"], "train", toward)
    world.night()
    world.check()
    touched = world.served()
    # Without probes all rows are computed, by the same record.
    world.conn.execute("DELETE FROM heal.nudge_probe")
    assert world.night().counts["rows_computed"] == len(touched)
    for chunk_id, vector in world.served().items():
        np.testing.assert_allclose(vector, touched[chunk_id], atol=1e-6)


def test_the_angle_of_moved_rows_adds_up_until_a_realignment(world: World) -> None:
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
    monkeypatch.setattr(moves, "WRITTEN_PLANS", (Plan(prior=1.0, contrast_steps=3),))
    settings, chosen = without_a_record(world), []
    # Two training questions for each of sixty chunks.
    for number, pairs in enumerate((60 * 120 - 1, 60 * 120)):
        world.forget_record()
        monkeypatch.setattr(moves, "CONTRAST_PAIRS", pairs)
        load_step("nudge_live").run(settings, Manifest(run_id=f"limited {number}"))
        chosen.append(world.record and world.record.plan)
    assert chosen == [WRITTEN_PLAN_OF_MANY, Plan(prior=1.0, contrast_steps=3)]


def without_a_record(world: World) -> Settings:
    world.forget_record()
    # Held-out questions that the training questions help, or no record would be adopted.
    chunks = world.chunks()
    near = world.question_vectors([f"a{chunk.text[5:]}" for chunk in chunks])
    world.ask_each([(chunk, f"chooses {chunk.text}") for chunk in chunks], "seen_validation", near)
    world.ask_each([(chunk, f"judges {chunk.text}") for chunk in chunks], "seen_test", near)
    return world.settings


@pytest.mark.parametrize(
    ("variant", "plan"),
    [
        ("N", Plan(prior=2.0)), ("N", Plan(centred=True, prior=0.5)), ("M", Plan(centred=True, prior=2.0)),
        ("N", Plan(prior=1.0, contrast_steps=3, answer_count_exponent=0.5)),
    ],
)  # fmt: skip
def test_many_rows_go_into_a_new_table_that_readers_are_switched_to(
    world: World, monkeypatch: pytest.MonkeyPatch, variant: str, plan: Plan
) -> None:
    monkeypatch.setattr(moves, "WRITTEN_PLANS", (plan,))
    settings = without_a_record(world).model_copy(update={"nudge_variant": variant})
    monkeypatch.setattr(nudge_live, "FEW_ROWS", 5)
    run = world.conn.execute(
        "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
        "VALUES ('f', 'u', 1, 1, 1, 1, 0) RETURNING topic_run_id"
    ).fetchone()
    assert run is not None
    old, previous_space = world.active.generation_id, world.active.space_id
    world.store.load(late="late one")
    world.store.embed(world.space)
    before = world.served()
    made = load_step("nudge_live").run(settings, Manifest(run_id="many", refs={"topic_run_id": run[0]}))
    now = world.active
    assert made.number("generation_id") == now.generation_id != old
    assert f"they were written to the new generation {now.generation_id}, which is live" in made.note
    assert now.space_id == previous_space
    assert now.metric == ("cosine" if variant == "N" else "inner_product")
    assert world.record is not None
    assert (world.record.variant, world.record.plan) == (variant, plan)
    assert world.record.theta > 0
    assert bool(len(ContrastRepository(world.conn).load(now).question_ids)) == bool(plan.contrast_steps)
    # The new generation's lexicon is fitted by the old one's record.
    record = lexicon_record_of(now)
    assert record is not None
    assert (record.lexicon_weight, record.chunks) == (0.75, 61)
    assert {("english", "late"), ("english", "text")} <= set(LexiconRepository(world.conn).load(now).stems)
    assert made.counts["rows_added"] == 1
    assert world.served().keys() == before.keys() | {world.chunk("late one").chunk_id}
    previous = world.store.generations.previous()
    assert previous is not None
    assert previous.generation_id == old
    # The rows that were served until then are as they were: a rollback finds them.
    live = world.store.served.load_served(previous)
    for chunk_id, vector in zip(live.chunk_ids.tolist(), live.vectors, strict=True):
        np.testing.assert_array_equal(vector, before[chunk_id])
    # The next night goes on from there, and touches what arrived.
    world.store.load(later="later one")
    world.store.embed(world.space)
    after = load_step("nudge_live").run(settings, Manifest(run_id="next", refs={"topic_run_id": run[0]}))
    assert after.counts["rows_computed"] == 1
    assert after.counts["rows_added"] == 1
    # Row by row, what the search moved comes out as it was.
    NudgeState(world.conn, world.active).touch(np.array(sorted(world.served())))
    again = load_step("nudge_live").run(settings, Manifest(run_id="again", refs={"topic_run_id": run[0]}))
    assert again.counts["rows_computed"] == 62
    assert again.counts["rows_changed"] == 0
