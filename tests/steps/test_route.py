"""Step route: the facts that it reads from the store."""

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest

from heal_tasks.core.errors import StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.nudge.route import TRAINING_PATIENCE
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.documents.topics import TopicRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.steps.lexicon_world import LexiconWorld
from tests.steps.planted_systems import plant_questions, plant_space, serve
from tests.topics.conftest import plant


def refuse_trainings(conn: Connection) -> None:
    for number in range(TRAINING_PATIENCE):
        run = f"refused {number}"
        RunRepository(conn).open_run(run)
        conn.execute(
            "INSERT INTO heal.evaluation (run_id, system, question_set, metric, value, questions) "
            "VALUES (%s, 'answers model', 's', 'ndcg@10', 0.5, 9)",
            (run,),
        )
        refs = {"refs": {"best_system": "answers model", "best_id": 9, "generation_id": 0}}
        conn.execute(
            "INSERT INTO heal.step_result (step, fingerprint, shard, run_id, result, finished_at) "
            "VALUES ('choose', %s, 0, %s, %s, %s)",
            (run, run, refs, datetime.now(UTC)),
        )


def skipped(settings: Settings, run_id: str) -> str:
    refs: dict[str, int | str] = {"new": 0, "changed": 0, "deleted": 0}
    made = load_step("route").run(settings, Manifest(run_id=run_id, refs=refs))
    assert made.text("route") == "realign"
    return str(made.refs["skip_training"])


def test_refused_trainings_of_another_base_model_do_not_count(auto: Connection, settings: Settings) -> None:
    plant_questions(auto)
    live = serve(auto, plant_space(auto, settings.model, "old", 384, ()))
    assert GenerationRepository(auto).get(live.generation_id).topic_run_id is None
    refuse_trainings(auto)
    assert skipped(settings, "r1").startswith(f"No training: the last {TRAINING_PATIENCE} trained models")
    assert skipped(settings.model_copy(update={"model": "models/another"}), "r2") == ""
    plant_space(auto, settings.model, "other files at the same place", 384, ())
    assert skipped(settings, "r3") == ""


@pytest.fixture(scope="module")
def known() -> list[str]:
    return plant(0, documents=161).texts


def read_documents(conn: Connection, texts: list[str], first: int = 0) -> dict[str, int | str]:
    records = [Record(str(first + number), "", text) for number, text in enumerate(texts)]
    DocumentRepository(conn).apply_records("s", records, lambda title, body: [("", body)])
    return {"new": len(texts), "changed": 0, "deleted": 0}


def realigned(conn: Connection, settings: Settings, run_id: str, cause: str = "other", promoted: bool = True) -> int:
    """The end of a realignment: a tree of today's documents, which is served, and the steps that say so."""
    runs = RunRepository(conn)
    runs.open_run(run_id)
    runs.set_route(run_id, "realign", "because", {"cause": cause})
    topic_run_id = load_step("label").run(settings, Manifest(run_id=run_id)).number("topic_run_id")
    generations = GenerationRepository(conn)
    space = SpaceRepository(conn).ensure("m", "sha", 2)
    made = generations.create(run_id=run_id, space=space, topic_run_id=topic_run_id)
    generations.create_tables(made)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=1000)
    best = made.generation_id if promoted else made.generation_id + 1
    for step, refs in (("choose", {"best_id": best}), ("publish", {"generation_id": made.generation_id})):
        runs.begin(step, run_id, 0, run_id)
        runs.finish(step, run_id, 0, run_id, {"refs": refs})
    return topic_run_id


def newest(conn: Connection, count: int) -> list[int]:
    query = "SELECT document_id FROM heal.document ORDER BY created_at DESC, external_id::int DESC LIMIT %s"
    return [key for (key,) in conn.execute(query, (count,))]


def next_route(conn: Connection, settings: Settings, run_id: str, refs: dict[str, int | str]) -> tuple[str, str, int]:
    RunRepository(conn).open_run(run_id)
    load_step("route").run(settings, Manifest(run_id=run_id, refs=refs))
    run = RunRepository(conn).get_run(run_id)
    assert run is not None
    assert run.route is not None
    facts = run.route_facts or {}
    return run.route, str(run.route_reason), facts["misfits"]


def test_a_new_field_forces_a_realignment_and_one_odd_document_does_not(
    auto: Connection, settings: Settings, known: list[str]
) -> None:
    """161 documents of six planted topics, then documents of words that none of them has."""
    settings = settings.model_copy(update={"topic_perturbations": 2, "topic_max_k": 3})
    read_documents(auto, known[:145])
    realigned(auto, settings, "first")
    ordinary = read_documents(auto, known[145:160], 145)
    route, reason, misfits = next_route(auto, settings, "ordinary", ordinary)
    assert route == "nudge", reason
    assert misfits < 5, "most documents of the known topics fit them"
    realigned(auto, settings, "second")
    odd = "a recipe for barley soup with leek, and a song about it"
    route, reason, misfits = next_route(auto, settings, "odd", read_documents(auto, [odd], 500))
    assert (route, misfits) == ("nudge", 1), reason
    field = [text.replace("w", "q") for text in known[:15]]
    assert len(set(" ".join(field).split()) & set(" ".join(known).split())) == 0
    route, reason, misfits = next_route(auto, settings, "field", read_documents(auto, field, 600))
    assert (route, misfits) == ("realign", 16)
    assert reason == (
        "16 documents that are new since the last realignment fit no topic of generation 2; from 8 on they may be a "
        "new topic."
    )


def test_documents_with_readers_that_fit_no_public_topic_call_for_no_realignment(
    auto: Connection, settings: Settings, known: list[str]
) -> None:
    settings = settings.model_copy(update={"topic_perturbations": 2, "topic_max_k": 3, "public_words": True})
    read_documents(auto, known[:145])
    realigned(auto, settings, "first")
    arrived = read_documents(auto, [text.replace("w", "q") for text in known[:15]], 600)
    auto.execute("UPDATE heal.document SET acl = '{alice}' WHERE document_id = ANY (%s)", (newest(auto, 15),))
    assert next_route(auto, settings, "hidden", arrived)[::2] == ("nudge", None)
    shared = settings.model_copy(update={"public_words": False})
    assert next_route(auto, shared, "shared", arrived)[::2] == ("realign", 15)


def test_copies_of_known_documents_call_for_no_realignment(
    auto: Connection, settings: Settings, known: list[str]
) -> None:
    settings = settings.model_copy(update={"topic_perturbations": 2, "topic_max_k": 2})
    read_documents(auto, known[:40])
    realigned(auto, settings, "first")
    route, reason, _ = next_route(auto, settings, "copies", read_documents(auto, known[:40], 500))
    assert (route, "; 0.0% changed since" in reason) == ("nudge", True)


def test_documents_that_a_fruitless_realignment_has_seen_call_for_no_other(
    auto: Connection, settings: Settings, known: list[str]
) -> None:
    settings = settings.model_copy(update={"topic_perturbations": 2, "topic_max_k": 3, "nudge_max_changed_share": 0.5})
    read_documents(auto, known[:100])
    kept = realigned(auto, settings, "first")
    field = [text.replace("w", "q") for text in known[:30]]
    assert next_route(auto, settings, "field", read_documents(auto, field[:10], 500))[0] == "realign"
    realigned(auto, settings, "second", cause="topics", promoted=False)
    auto.execute("UPDATE heal.generation SET topic_run_id = %s WHERE state = 'active'", (kept,))  # the older tree stays
    seen = next_route(auto, settings, "seen", {"new": 0, "changed": 0, "deleted": 0})
    assert (seen[0], seen[2]) == ("nudge", None)
    route, reason, misfits = next_route(auto, settings, "more", read_documents(auto, field[10:22], 600))
    assert (route, misfits) == ("nudge", 12)
    assert "12 documents that are new since the last realignment fit no topic" in reason
    assert "the last realignment had the same cause, and no candidate was promoted by it" in reason
    assert "the next one is due when 16 documents fit no topic, or at an age of 30 days." in reason
    assert next_route(auto, settings, "enough", read_documents(auto, field[22:], 700))[0] == "realign"
    realigned(auto, settings, "third", cause="topics", promoted=True)
    assert scalar(auto, "SELECT route_facts ->> 'cause' FROM heal.run WHERE run_id = 'enough'") == "topics"
    again = [text.replace("w", "z") for text in known[:9]]
    assert next_route(auto, settings, "fresh", read_documents(auto, again, 800))[0] == "realign"


def test_questions_alone_call_for_a_nudge_once(auto: Connection, settings: Settings) -> None:
    world = LexiconWorld(auto, settings)
    world.ask_of_all("train", "human")
    world.ask_of_all("unseen_test", "human")
    world.go_live()
    refs: dict[str, int | str] = {"new": 0, "changed": 0, "deleted": 0}

    def routed(run_id: str) -> tuple[str, str]:
        made = load_step("route").run(settings, Manifest(run_id=run_id, refs=refs))
        return made.text("route"), made.note

    assert routed("quiet")[0] == "nothing"
    world.ask("d1", "a test question", "seen_test", "human")
    assert routed("held out")[0] == "nothing", "it moves no row"
    for name in ("d1", "d2"):
        world.ask(name, f"new question about {name}", "train", "human")
    name, note = routed("asked")
    assert name == "nudge"
    assert "2 chunks with new questions" in note
    world.choose("refused")
    assert routed("after a realignment that kept the rows")[0] == "nudge"
    NudgeState(auto, world.active).touch(np.array([world.chunk("d3").chunk_id]))
    world.night("asked")
    assert routed("after")[0] == "nothing"
    world.ask("d4", "a question that a filter dropped", "train", "human")
    auto.execute("UPDATE heal.question SET dropped_by = 'round_trip' WHERE text LIKE '%dropped%'")
    assert routed("dropped")[0] == "nothing"


def test_a_document_that_gets_another_language_calls_for_a_nudge_once(auto: Connection, settings: Settings) -> None:
    """Its words have other stems then, which the live lexicon lacks: its own words would not find it."""
    world = LexiconWorld(auto, settings)
    world.ask_of_all("unseen_test")
    world.go_live()
    refs: dict[str, int | str] = {"new": 0, "changed": 0, "deleted": 0}

    def routed(run_id: str) -> str:
        return load_step("route").run(settings, Manifest(run_id=run_id, refs=refs)).note

    assert routed("quiet").startswith("nothing")
    records = [Record("d1", "", world.texts["d1"], {"language": "german"})]
    changes = DocumentRepository(auto).apply_records("s", records, lambda title, body: [("", body)])
    assert (changes.new, changes.changed) == (0, 0)
    assert routed("german").startswith("nudge: ")
    assert "0 chunks to publish or to remove, 8 word stems that the lexicon lacks" in routed("german again")
    world.night("german")
    assert [language for language, _ in world.lexicon().stems].count("german") == 8
    assert routed("after").startswith("nothing")


def test_a_nudge_without_the_files_of_the_live_topics_says_what_to_do(auto: Connection, settings: Settings) -> None:
    read_documents(auto, ["a walrus", "a heron"])
    run = TopicRepository(auto).get(realigned(auto, settings, "first"))
    read_documents(auto, ["a gecko"], 2)
    shutil.rmtree(run.uri)
    said = f"files of topic run {run.topic_run_id}, {run.uri}, are gone.*HEAL_FORCE_ROUTE=realign"
    with pytest.raises(StepError, match=said):
        load_step("assign_labels").run(settings, Manifest(run_id="night"))
