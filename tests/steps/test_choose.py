"""Step choose: candidates are moved and scored in memory, the gate chooses, and no vector is written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from heal_tasks.core.ids import document_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.evaluation.gate import Verdict
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.steps import choose as choose_step
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.scoring import BY_TEXT, UNSEEN
from heal_tasks.steps.vectors import filling
from heal_tasks.steps.vectors.moves import Moved
from heal_tasks.steps.vectors.systems import Systems, lexicon_record_of
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.contrast_state import ContrastState
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.training.encoder import model_sha256
from tests.steps.asking import body
from tests.steps.planted_systems import DOCUMENTS, TRAINED_URI, plant_questions, plant_space, plant_systems, serve

CANDIDATES = ("base model + lexicon", "live model + lexicon", "answers model + lexicon")


def choose(settings: Settings, run_id: str = "r1", model_uri: str = TRAINED_URI, least: int = 5) -> Manifest:
    refs: dict[str, int | str] = {"topic_run_id": 1, "answers_model_uri": model_uri}
    changed = settings.model_copy(update={"gate_min_questions": least})
    return load_step("choose").run(changed, Manifest(run_id=run_id, refs=refs))


def tables(conn: Connection) -> dict[str, int]:
    """Every table of vectors with its number of rows."""
    names = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'heal'::regnamespace AND relkind = 'r' "
        "AND relname ~ '_[gs][0-9]{6}$'"
    ).fetchall()
    found = {}
    for (name,) in names:
        row = conn.execute(f"SELECT count(*) FROM heal.{name}").fetchone()
        assert row is not None
        found[name] = row[0]
    return found


def test_the_best_that_passes_is_chosen_and_nothing_but_its_record_is_written(
    auto: Connection, settings: Settings
) -> None:
    live = plant_systems(auto, settings)
    before = tables(auto)
    made = choose(settings)
    assert tables(auto) == before
    assert made.note.startswith("answers model + lexicon is promoted over live generation.")
    winner = GenerationRepository(auto).get(made.number("generation_id"))
    assert (winner.state, winner.nudge, made.number("keep_rows")) == ("building", None, 0)
    trained = SpaceRepository(auto).find_by_uri(TRAINED_URI)
    assert trained is not None
    assert winner.space_id == trained.space_id
    assert [item.generation_id for item in GenerationRepository(auto).list()] == [
        live.generation_id, winner.generation_id,
    ]  # fmt: skip
    rows = [row for row in RunRepository(auto).evaluations("r1") if row.metric == "accuracy@1"]
    quality = {row.system: row.value for row in rows if row.question_set == UNSEEN and "+" not in row.system}
    assert quality == {"base model": 0, "live generation": 0.5, "live model": 0.5, "answers model": 1}
    # Each question has a stem that its document alone has, but only candidates have a lexicon with stems.
    by_text = {row.system: row.value for row in rows if row.question_set == UNSEEN + BY_TEXT}
    assert by_text == {"live generation": 0, **dict.fromkeys(CANDIDATES, 1)}
    assert {row.system for row in rows} == quality.keys() | set(CANDIDATES)
    # By text nothing was found before, and everything is first now.
    changes = auto.execute("SELECT generation_id, path, rank_before, rank_after FROM heal.rank_change").fetchall()
    assert changes == [(winner.generation_id, "text", None, 1)] * DOCUMENTS


def test_a_refused_candidate_leaves_its_record_only(auto: Connection, settings: Settings) -> None:
    """Too few questions to judge by: the gate refuses, and the live generation stays."""
    plant_systems(auto, settings)
    auto.execute("UPDATE heal.generation SET topic_run_id = 1")
    before = tables(auto)
    made = choose(settings, least=30)
    assert tables(auto) == before
    assert (made.number("generation_id"), made.text("best_system")) == (0, "answers model + lexicon")
    assert made.note.startswith("Nothing could be measured: of 12 questions too few are held out")
    assert "So no candidate replaces the live generation; it stays." in made.note
    best = GenerationRepository(auto).get(made.number("best_id"))
    assert (best.state, best.note) == ("failed", "refused by the gate")
    published = load_step("publish").run(settings, Manifest(run_id="r1", refs=made.refs))
    assert published.number("generation_id") == 1
    assert tables(auto) == before


def test_a_generation_without_topics_gets_them_where_no_candidate_passes(auto: Connection, settings: Settings) -> None:
    """As step first_light leaves it."""
    live = plant_systems(auto, settings)
    made = choose(settings, least=30)
    chosen = GenerationRepository(auto).get(made.number("generation_id"))
    assert (made.number("keep_rows"), chosen.topic_run_id, chosen.space_id) == (1, 1, live.space_id)


@pytest.mark.parametrize(
    ("llm", "by_people", "lost", "nudged"),
    [(True, False, 0, True), (True, False, 6, False), (True, True, 0, False), (False, False, 0, False)],
)
def test_moves_by_a_language_model_are_added_to_what_passes_unless_they_show_a_loss(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, llm: bool, by_people: bool, lost: int,
    nudged: bool,
) -> None:  # fmt: skip
    plant_systems(auto, settings)
    record = NudgeRecord("N", 1.5, 8.0, None, 0, 0.0, by_people)
    lose = np.arange(lost)

    plans = []

    def moves(_: Systems, system: Any, plan: Any) -> Moved:
        plans.append(plan)
        # Rows that lose point away from every question.
        return Moved(lose, -system.chunks[lose], record, ContrastState.empty(system.chunks.shape[1]))

    monkeypatch.setattr(Systems, "find_moves", moves)
    monkeypatch.setattr(choose_step, "llm_wrote", lambda _: llm)
    made = choose(settings)
    winner = GenerationRepository(auto).get(made.number("generation_id"))
    assert bool(winner.nudge) is nudged
    name = "answers model + NUDGE + lexicon" if nudged else "answers model + lexicon"
    assert made.text("best_system") == name
    assert plans == [None, record.plan, record.plan]  # the base model's space chooses for the others
    shown = "no set shows a loss of more than 0.005 against answers model + lexicon." in made.text("verdict")
    assert shown is nudged


@pytest.mark.parametrize("already", [False, True])
def test_where_nothing_passes_moves_are_added_to_live_rows_that_are_not_moved(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, already: bool
) -> None:
    live = plant_systems(auto, settings)
    auto.execute("DELETE FROM heal.space WHERE model_uri = %s", (TRAINED_URI,))
    record = NudgeRecord("N", 1.5, 8.0, None, 0, 0.0, by_people=False)
    nothing = np.arange(0)

    def moves(_: Systems, system: Any, plan: Any) -> Moved:
        return Moved(nothing, system.chunks[nothing], record, ContrastState.empty(system.chunks.shape[1]))

    monkeypatch.setattr(Systems, "find_moves", moves)
    monkeypatch.setattr(choose_step, "llm_wrote", lambda _: True)
    if already:
        GenerationRepository(auto).set_fields(live.generation_id, nudge=record.to_json())
    # A generation with the same lexicon is live, so nothing gains.
    monkeypatch.setattr(choose_step, "compare", lambda *_: Verdict(False, ("no gain",)))
    made = choose(settings, model_uri="")
    if already:
        assert "No candidate beat the live generation" in made.note
    else:
        assert made.text("best_system") == "live model + NUDGE + lexicon"
        assert made.note.startswith("live model + NUDGE + lexicon is promoted over live generation.")


def test_new_chunks_join_the_live_vectors_where_no_candidate_passes(auto: Connection, settings: Settings) -> None:
    live = plant_systems(auto, settings)
    auto.execute("DELETE FROM heal.vec_g000001 WHERE chunk_id = (SELECT max(chunk_id) FROM heal.chunk)")
    made = choose(settings, least=30)
    assert made.number("keep_rows") == 1
    assert "its vectors stay, and 1 new chunks join them" in made.note
    assert GenerationRepository(auto).get(made.number("generation_id")).space_id == live.space_id


def test_without_anything_live_the_base_model_is_the_first_generation(auto: Connection, settings: Settings) -> None:
    plant_questions(auto)
    space = plant_space(auto, settings.model, model_sha256(resolve_model(settings.model)), 384, range(DOCUMENTS))
    made = choose(settings, model_uri="", least=30)
    first = GenerationRepository(auto).get(made.number("generation_id"))
    assert (first.space_id, first.nudge) == (space.space_id, None)
    # Nothing supports a lexicon beside the encoder; search by text has one all the same.
    record = lexicon_record_of(first)
    assert record is not None
    assert record.lexicon_weight == 0
    assert record.relevance["encoder"]["scores"] != record.relevance["text"]["scores"]
    assert "So no candidate replaces the base model; it becomes the first generation, without NUDGE." in made.note


def test_a_second_attempt_replaces_what_the_first_left(auto: Connection, settings: Settings) -> None:
    plant_systems(auto, settings)
    first = choose(settings).number("generation_id")
    auto.execute("DELETE FROM heal.step_result")
    second = choose(settings).number("generation_id")
    states = {item.generation_id: item.state for item in GenerationRepository(auto).list()}
    assert (states[first], states[second]) == ("failed", "building")


def test_a_night_that_keeps_the_model_encodes_nothing_twice(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_questions(auto)
    asked: list[str] = []
    load = filling.load_encoder

    class Counting:
        def __init__(self, encoder: Any) -> None:
            self._encoder = encoder

        def encode(self, texts: Sequence[str], **named: Any) -> Any:
            asked.extend(texts)
            return self._encoder.encode(texts, **named)

    monkeypatch.setattr(filling, "load_encoder", lambda *given: Counting(load(*given)))
    for step in ("embed_base", "embed"):
        load_step(step).run(settings, Manifest(run_id="first"))
    assert len(asked) == 2 * DOCUMENTS  # each chunk and each question
    space = SpaceRepository(auto).find_by_uri(settings.model)
    assert space is not None
    serve(auto, space)
    asked.clear()
    for run_id in ("second", "third"):
        for step in ("embed_base", "embed", "embed_new"):
            load_step(step).run(settings, Manifest(run_id=run_id))
    assert asked == []
    auto.execute(
        "INSERT INTO heal.chunk (chunk_id, document_id, ordinal, text, content_hash) "
        "SELECT 1, document_id, 9, 'a new chunk', 'h' FROM heal.document LIMIT 1"
    )
    for step in ("embed_base", "embed"):
        load_step(step).run(settings, Manifest(run_id="fourth"))
    assert len(asked) == 1
    assert [item.space_id for item in SpaceRepository(auto).list()] == [space.space_id]


def test_spaces_are_loaded_in_the_order_of_the_tables(auto: Connection, settings: Settings) -> None:
    plant_systems(auto, settings)
    space = SpaceRepository(auto).find_by_uri(TRAINED_URI)
    assert space is not None
    ids, vectors = SpaceRepository(auto).load_chunks(space)
    np.testing.assert_array_equal(ids, np.sort(ids))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_document_that_is_deleted_after_the_embedding_leaves_its_duplicate_with_a_vector(
    auto: Connection, settings: Settings
) -> None:
    plant_systems(auto, settings)
    twins = [Record(name, "Report 0", body(0)) for name in ("d0", "twin")]
    DocumentRepository(auto).apply_records("s", twins, lambda title, text: [("", text)])
    assert auto.execute("SELECT * FROM heal.delete_document(%s)", (document_id("s", "d0"),)).fetchone() == (1, 1)
    assert choose(settings).number("generation_id")
    for space in SpaceRepository(auto).list():
        ids, _ = SpaceRepository(auto).load_chunks(space)
        assert len(ids) == DOCUMENTS
