"""NUDGE may not harm: neither held-out questions, nor validation questions about unseen documents alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.nudge.nudge import NudgeResult
from heal_tasks.steps import nudge_live
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors import moves
from tests.steps.nudge_world import DIMS, World
from tests.steps.test_nudge_live import without_a_record
from tests.store.sample_store import encode


@pytest.fixture
def world(nudge_world: World, postgres: EmbeddedPostgres) -> Iterator[World]:
    with nudge_world.copied(postgres) as made:
        yield made


def test_unseen_documents_must_not_lose_where_the_gate_counts_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, seen = without_a_record(world), []
    search = moves.nudge

    def watched(*given: Any, **options: Any) -> NudgeResult:
        seen.append((options["max_loss"], options["unasked"]))
        return search(*given, **options)

    monkeypatch.setattr(moves, "nudge", watched)
    # One in four of sixty documents is unseen, with a validation question each.
    for least in (15, 16):
        world.forget_record()
        load_step("nudge_live").run(
            settings.model_copy(update={"gate_min_questions": least}), Manifest(run_id=f"guard {least}")
        )
    (loss, unasked), *others = seen
    assert loss == settings.gate_epsilon
    wanted = world.question_vectors([f"c{number}" for number in range(0, 60, 4)])
    np.testing.assert_allclose(np.unique(unasked.vectors, axis=0), np.unique(wanted, axis=0), atol=1e-6)
    assert others == [(settings.gate_epsilon, None)]


@pytest.mark.parametrize("computed", ["touched rows", "all rows", "all rows, for a new table"])
def test_a_night_that_harms_is_not_served_and_said_so(
    world: World, computed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_record(theta=1.2)
    world.night()
    before = world.served()
    if computed != "touched rows":
        world.conn.execute("DELETE FROM heal.nudge_probe")
    if computed == "all rows, for a new table":
        monkeypatch.setattr(nudge_live, "FEW_ROWS", 0)
        monkeypatch.setattr(nudge_live, "REWRITE_SHARE", 0.0)
    # Questions that pull thirty rows onto the answers of held-out questions.
    chunks = {chunk.text: chunk for chunk in world.chunks()}
    bad = [(number, n) for number in range(0, 60, 2) for n in range(9)]
    toward = encode([f"text {number + 1}" for number, _ in bad], DIMS)
    world.ask_each([(chunks[f"text {number}"], f"bad {number} {n}") for number, n in bad], "train", toward)
    world.store.load(fresh="fresh one")
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
