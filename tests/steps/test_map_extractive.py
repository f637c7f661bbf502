"""Entity maps without a language model, from step map_entities to the training set, on a real Postgres."""

import json
from pathlib import Path
from typing import Any

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.questions.maps.entity_maps import ground
from heal_tasks.questions.maps.extractive import MODEL
from heal_tasks.questions.maps.map_prompt import parse_map
from heal_tasks.questions.maps.rendering import render
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from tests.fake_openai import FakeOpenAI
from tests.steps.asking import add, ask, map_entities, mapped, number, traffic

GERMAN = "Die Wirkung der Enzyme wird durch die Temperatur und den Druck nicht beeinflusst."


def without_llm(settings: Settings, **changes: Any) -> Settings:
    return load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), **{"map_rate": 1.0, **changes}
    )


def train_texts(made: Manifest) -> set[str]:
    lines = (Path(made.text("training_set_uri")) / "train.jsonl").read_text(encoding="utf-8").split("\n")
    return {json.loads(line)["document"] for line in lines if line}


def test_maps_are_written_stored_and_shown_without_a_language_model(auto: Connection, settings: Settings) -> None:
    add(auto, range(40))
    wanted = without_llm(settings, question_filters="none")
    ask(wanted)
    made = map_entities(wanted)
    assert (made.counts["ok"], made.counts["other_language"], made.counts["cost_usd"]) == (40, 0, 0)
    assert made.note.startswith(f"40 entity maps of 40 chunks by {MODEL}, 0 failed; the 40 in store are ")
    assert number(auto, "SELECT count(*) FROM heal.llm_call") == 0
    stored = auto.execute(
        "SELECT m.model, m.map::text, d.title, c.text, m.map_tokens < m.text_tokens FROM heal.entity_map m "
        "JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)"
    ).fetchall()
    rendered = set()
    for model, found, title, text, shorter in stored:
        assert (model, shorter) == (MODEL, True)
        assert ground(parse_map(found), f"{title}\n{text}") == (parse_map(found), {})
        rendered.add(render(parse_map(found)))
    assert any("alpha chamber number0 | holds alpha vapour" in text for text in rendered)

    load_step("embed_base").run(wanted, Manifest(run_id="r1"))
    shown = load_step("mine").run(wanted, Manifest(run_id="r1", refs={"topic_run_id": 0}))
    assert shown.counts["map_chunks"] == shown.counts["chunks"] > 0
    assert train_texts(shown) <= rendered


def test_a_second_run_writes_nothing(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))
    map_entities(without_llm(settings))
    again = map_entities(without_llm(settings), "r2")
    assert (again.counts["ok"], again.counts["usable"]) == (0, 5)


def test_other_languages_have_no_map_and_are_counted(auto: Connection, settings: Settings) -> None:
    add(auto, range(2))
    DocumentRepository(auto).apply_records("s", [Record("de", "Bericht", GERMAN)], lambda title, text: [("", text)])
    made = map_entities(without_llm(settings))
    assert (made.counts["ok"], made.counts["empty"], made.counts["other_language"]) == (2, 1, 1)
    assert made.note.endswith("; 1 chunks are not in English, and the extractive writer reads no other")


def test_the_extractive_writer_spends_nothing_beside_a_language_model(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    with FakeOpenAI() as fake:
        price = {"llm_input_usd_per_million": 100.0, "llm_run_spend_limit_usd": 1e-6}
        made = map_entities(mapped(settings, fake, map_writer="extractive", **price))
        assert traffic(fake) == 0
        assert (made.counts["ok"], made.counts["over_spend_limit"]) == (3, 0)
        assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0
        # Another writer's maps are others.
        assert map_entities(mapped(settings, fake), "r2").counts["ok"] == 3
    assert number(auto, "SELECT count(DISTINCT (model, prompt_hash)) FROM heal.entity_map") == 2


def test_a_plan_asks_for_no_language_model_and_no_money(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    (settings.var_dir / "inbox").mkdir()
    plan = make_plan(without_llm(settings, force_route="realign", max_deleted_share=1.0))
    assert "maps       3 chunks to map; nothing to pay" in plan.lines()
