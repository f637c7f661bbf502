"""Step publish: the chosen generation is written, indexed, measured and switched to; one that misses recall is not."""

import numpy as np
import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors.systems import Systems
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.contrast_state import ContrastRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.steps.planted_store import build, fill, hopeless_index
from tests.steps.planted_store import publish as published

RECORD = NudgeRecord("N", 0.3, 1.0, None, 0, 0.0, False)


def publish(settings: Settings, generation: Generation, run_id: str = "r", keep_rows: int = 0, **more: str) -> Manifest:
    with connect(settings.require_database_url()) as conn:
        live = GenerationRepository(conn).active()
    refs: dict[str, int | str] = {
        "generation_id": generation.generation_id, "keep_rows": keep_rows, "verdict": "m is promoted.",
        "live_id": live.generation_id if live else 0, **more,
    }  # fmt: skip
    return load_step("publish").run(settings, Manifest(run_id=run_id, refs=refs))


def test_the_winner_is_written_measured_and_live(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    result = publish(settings, made)
    active = GenerationRepository(auto).active()
    assert active is not None
    assert (active.generation_id, active.recall, active.ef_search) == (made.generation_id, 1.0, 100)
    assert (result.counts["rows"], result.counts["recall"]) == (61, 1.0)
    assert result.refs["went_live"] == made.generation_id
    rows = ServedRepository(auto).load_served(active)
    ids, vectors = SpaceRepository(auto).load_chunks(SpaceRepository(auto).get(made.space_id))
    np.testing.assert_array_equal(rows.chunk_ids, ids)
    np.testing.assert_allclose(rows.vectors, vectors, atol=1e-6)
    assert auto.execute("SELECT count(*) FROM heal.nudge_touched").fetchall() == [(0,)]


@pytest.mark.parametrize("contrast_steps", [0, 3])
def test_served_rows_are_the_space_moved_by_the_record(
    auto: Connection, settings: Settings, contrast_steps: int
) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    record = NudgeRecord("N", 0.3, 1.0, None, contrast_steps, 0.5, False)
    made = GenerationRepository(auto).set_fields(made.generation_id, nudge=record.to_json())
    publish(settings, made)
    rows = ServedRepository(auto).load_served(made)
    _, base = SpaceRepository(auto).load_chunks(SpaceRepository(auto).get(made.space_id))
    angles = np.arccos(np.clip((rows.vectors * base).sum(axis=1), -1, 1))
    assert 0.29 < angles.max() <= 0.3 + 1e-3
    stored = ContrastRepository(auto).load(made)
    assert bool(len(stored.chunk_ids)) == bool(len(stored.question_ids)) == bool(contrast_steps)


def test_an_index_that_misses_its_target_is_not_published(auto: Connection, settings: Settings) -> None:
    fill(auto)
    live = published(auto, "live", 2)
    made = build(auto, "m", 1)
    hopeless_index(auto)
    result = publish(settings, made)
    found = GenerationRepository(auto).get(made.generation_id)
    assert (found.state, found.recall, found.ef_search) == ("failed", 0.4, 1000)
    assert result.refs["generation_id"] == live.generation_id
    assert result.refs["verdict"] == "Not published: recall@10 0.400 of the index misses HEAL_RECALL_TARGET=0.95."
    assert result.refs["went_live"] == 0
    assert auto.execute("SELECT to_regclass('heal.vec_g000002')").fetchall() == [(None,)]


def test_a_generation_that_a_person_has_rejected_is_put_away(auto: Connection, settings: Settings) -> None:
    fill(auto)
    live = published(auto, "live", 2)
    made = build(auto, "m", 1)
    result = publish(settings, made, rejected="ann rejected it")
    verdict = f"Not published: ann rejected it; generation {live.generation_id} stays live."
    assert (result.refs["generation_id"], result.refs["went_live"]) == (live.generation_id, 0)
    assert (result.refs["verdict"], result.note) == (verdict, verdict)
    assert GenerationRepository(auto).get(made.generation_id).state == "failed"
    assert auto.execute("SELECT generation_id FROM heal.embedding LIMIT 1").fetchall() == [(live.generation_id,)]


def test_a_generation_of_another_run_is_not_published_and_none_that_is_served_is_put_away(
    auto: Connection, settings: Settings
) -> None:
    """Whatever a manifest says that somebody has changed."""
    fill(auto)
    live = published(auto, "live", 2)
    made = build(auto, "m", 1)
    for found in (live, made):
        with pytest.raises(StepError, match=rf"generation {found.generation_id} is of run .* run 'x' publishes what"):
            publish(settings, found, "x", rejected="rejected by nobody")
    assert GenerationRepository(auto).get(made.generation_id).state == "building"
    result = publish(settings, live, live.run_id, rejected="rejected by nobody")
    assert (result.refs["generation_id"], result.refs["verdict"]) == (live.generation_id, "m is promoted.")
    active = GenerationRepository(auto).active()
    assert active is not None and active.generation_id == live.generation_id
    assert len(ServedRepository(auto).load_served(active).chunk_ids) == 61


def test_nothing_live_and_nothing_published_is_an_error(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    hopeless_index(auto)
    with pytest.raises(StepError, match=r"no generation is active: Not published: recall@10 0\.400"):
        publish(settings, made)


def test_a_run_killed_after_the_switch_finishes_without_writing(auto: Connection, settings: Settings) -> None:
    fill(auto)
    live = published(auto, "m", 1)
    before = auto.execute("SELECT chunk_id, xmin::text FROM heal.vec_g000001 ORDER BY 1").fetchall()
    result = publish(settings, live)
    assert result.refs["generation_id"] == live.generation_id
    assert auto.execute("SELECT chunk_id, xmin::text FROM heal.vec_g000001 ORDER BY 1").fetchall() == before


def test_a_half_written_table_is_written_anew(auto: Connection, settings: Settings) -> None:
    fill(auto)
    made = build(auto, "m", 1)
    GenerationRepository(auto).create_tables(made)
    auto.execute("INSERT INTO heal.vec_g000001 SELECT chunk_id, 1, 0, embedding FROM heal.base_s000001 LIMIT 5")
    assert publish(settings, made).counts["rows"] == 61


def test_kept_rows_are_those_of_the_live_generation_and_new_chunks_join_them(
    auto: Connection, settings: Settings
) -> None:
    fill(auto)
    live = GenerationRepository(auto).set_fields(build(auto, "m", 1).generation_id, nudge=RECORD.to_json())
    publish(settings, live)
    before = ServedRepository(auto).load_served(live)
    auto.execute(
        "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
        "SELECT 1, document_id, 9, 'new', 'h' FROM heal.document LIMIT 1"
    )
    space = SpaceRepository(auto).get(live.space_id)
    new = np.full((1, space.dims), space.dims**-0.5, dtype=np.float32)
    SpaceRepository(auto).write_chunks(space, np.array([1]), new)
    made = GenerationRepository(auto).create(run_id="r2", space=space, nudge=live.nudge)
    publish(settings, made, "r2", keep_rows=1)
    after = ServedRepository(auto).load_served(made)
    np.testing.assert_array_equal(after.vectors[1:], before.vectors)
    np.testing.assert_allclose(after.vectors[:1], new, atol=1e-6)
    assert NudgeState(auto, made).touched().tolist() == [1]


def test_questions_that_the_kept_rows_were_not_moved_by_wait_for_the_next_nudge(
    auto: Connection, settings: Settings
) -> None:
    """They came in the run that found no better generation, and no later night would look at them again."""
    fill(auto)
    live = GenerationRepository(auto).set_fields(build(auto, "m", 1).generation_id, nudge=RECORD.to_json())
    publish(settings, live)
    space = SpaceRepository(auto).get(live.space_id)
    early, late = ServedRepository(auto).load_served(live).chunk_ids[:2].tolist()

    def ask(question_id: int, chunk_id: int) -> None:
        auto.execute(
            "INSERT INTO heal.question (question_id, chunk_id, text, answer, evidence, kind, writer, model, "
            "prompt_hash, split) VALUES (%s, %s, %s, '', '', 'question', 'human', '', '', 'train')",
            (question_id, chunk_id, f"asked {question_id}"),
        )
        vector = np.full((1, space.dims), space.dims**-0.5, dtype=np.float32)
        SpaceRepository(auto).write_questions(space, np.array([question_id]), vector)

    ask(1, early)
    made = GenerationRepository(auto).create(run_id="r2", space=space, nudge=live.nudge)
    ask(2, late)  # after the comparison
    publish(settings, made, "r2", keep_rows=1)
    assert NudgeState(auto, made).touched().tolist() == sorted([early, late])


def test_systems_compute_a_generation_without_its_tables(auto: Connection, settings: Settings) -> None:
    """Step answer needs the rows of a refused candidate, which are never written."""
    fill(auto)
    made = GenerationRepository(auto).set_fields(build(auto, "m", 1).generation_id, nudge=RECORD.to_json())
    system = Systems(auto, settings, None).of_generation("m", made)
    _, base = SpaceRepository(auto).load_chunks(SpaceRepository(auto).get(made.space_id))
    assert np.abs(system.chunks - base).max() > 0.01
    assert system.generation_id == made.generation_id
    publish(settings, made)
    np.testing.assert_allclose(ServedRepository(auto).load_served(made).vectors, system.chunks, atol=1e-6)


def test_only_a_switch_by_hand_that_changes_something_is_one(auto: Connection, settings: Settings) -> None:
    fill(auto)
    first, second = (published(auto, name, seed) for seed, name in enumerate(("a", "b"), 1))

    def activate(generation_id: int, run_id: str) -> tuple[int | str, int | str]:
        made = load_step("activate").run(settings, Manifest(run_id=run_id, refs={"generation_id": generation_id}))
        return made.refs["generation_id"], made.refs["went_live"]

    assert activate(second.generation_id, "r1") == (second.generation_id, 0)
    assert activate(0, "r2") == (first.generation_id, first.generation_id)
