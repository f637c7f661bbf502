"""Step first_light: what nobody could search is searchable, by text alone, before topics and questions are there."""

import importlib
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from tests.steps.asking import add, body
from tests.steps.planted_systems import DOCUMENTS, plant_questions


def first_light(settings: Settings, run_id: str = "r1") -> Manifest:
    return load_step("first_light").run(settings, Manifest(run_id=run_id))


def test_documents_can_be_searched_by_text_at_once(auto: Connection, settings: Settings) -> None:
    add(auto, range(8))
    made = first_light(settings)
    live = GenerationRepository(auto).active()
    assert live is not None
    assert (live.topic_run_id, live.nudge, made.counts["rows"]) == (None, None, 8)
    assert made.refs["went_live"] == live.generation_id
    assert "SELECT * FROM heal.find('a question')" in made.note
    word = max(body(3).split(), key=lambda word: sum(word in body(number) for number in range(8)) == 1)
    rows = auto.execute("SELECT title, relevance FROM heal.find(%s, 3)", (f"{word} {body(3)[:80]}",)).fetchall()
    assert rows[0][0].split()[1] == "3"
    assert rows[0][1] is None, "no question says yet how relevant a row is"
    lengths = auto.execute("SELECT vector_norm(embedding) FROM heal.embedding").fetchall()
    np.testing.assert_allclose(lengths, 1, atol=1e-3)


def test_questions_that_come_meanwhile_have_no_vector_and_take_no_part(auto: Connection, settings: Settings) -> None:
    plant_questions(auto)
    assert first_light(settings).counts == {"chunks": DOCUMENTS, "questions": 0, "rows": DOCUMENTS}
    assert auto.execute("SELECT count(*) FROM heal.question_s000001").fetchone() == (0,)


def test_a_live_generation_stays(auto: Connection, settings: Settings) -> None:
    add(auto, range(8))
    first_light(settings)
    again = first_light(settings, "r2")
    assert (again.note, again.refs) == ("generation 1 is live already", {})
    assert len(GenerationRepository(auto).list()) == 1


def test_a_second_attempt_replaces_what_a_killed_one_left(auto: Connection, settings: Settings) -> None:
    add(auto, range(8))
    auto.execute("CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'killed'; END $$")
    auto.execute("CREATE TRIGGER stop BEFORE UPDATE OF state ON heal.generation FOR EACH ROW "
                 "WHEN (NEW.state = 'active') EXECUTE FUNCTION stop()")  # fmt: skip
    with pytest.raises(Exception, match="killed"):
        first_light(settings)
    auto.execute("DROP TRIGGER stop ON heal.generation")
    first_light(settings)
    states = [item.state for item in GenerationRepository(auto).list()]
    assert states == ["failed", "active"]


def test_a_run_that_ended_after_it_is_realigned_by_the_next(auto: Connection, settings: Settings) -> None:
    add(auto, range(8))
    first_light(settings)
    refs: dict[str, int | str] = {"new": 0, "changed": 0, "deleted": 0}
    routed = load_step("route").run(settings, Manifest(run_id="r2", refs=refs))
    assert routed.text("route") == "realign"
    assert "has the base model's vectors and no topics yet" in routed.note


def test_what_another_run_has_published_meanwhile_stays_live(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(auto, range(8))
    step = importlib.import_module("heal_tasks.steps.first_light")
    fill_spaces = step.fill_spaces

    def slowly(*values: Any, **named: Any) -> Any:
        filled = fill_spaces(*values, **named)
        monkeypatch.setattr(step, "fill_spaces", fill_spaces)
        first_light(settings, "faster")
        return filled

    monkeypatch.setattr(step, "fill_spaces", slowly)
    assert first_light(settings).note == "generation 1 has become live meanwhile"
    assert [item.run_id for item in GenerationRepository(auto).list()] == ["faster"]
