"""NUDGE may not harm validation questions about unseen documents, which the gate judges as a set of its own."""

from typing import Any

import numpy as np
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.nudge.nudge import NudgeResult
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.vectors import moves
from heal_tasks.store.db import Connection
from tests.steps.test_nudge_live import World, without_a_record


def test_unseen_documents_must_not_lose_where_the_gate_counts_them(
    auto: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(auto, load_settings(database_url=database_url))
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
    wanted = np.vstack([world.question_vector(f"c{number}") for number in range(0, 60, 4)])
    np.testing.assert_allclose(np.unique(unasked.vectors, axis=0), np.unique(wanted, axis=0), atol=1e-6)
    assert others == [(settings.gate_epsilon, None)]
