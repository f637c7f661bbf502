"""Step map_entities against a real Postgres and a real HTTP server: maps are grounded, and none is paid for twice."""

import json
import threading
from pathlib import Path

import pytest

from heal_tasks.cli.doctor import examine
from heal_tasks.core.errors import SettingsError, StepError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.questions.maps.entity_maps import DROP_REASONS
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.map_entities import map_author, maps_by
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, entity_map, error
from tests.steps.asking import (
    add,
    body,
    delete,
    map_entities,
    mapped,
    number,
    step_process,
    traffic,
    wait_until,
    with_llm,
)


def statuses(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT status, count(*) FROM heal.entity_map GROUP BY 1").fetchall())


def test_maps_hold_what_their_texts_say_and_the_ledger_what_they_cost(auto: Connection, settings: Settings) -> None:
    add(auto, range(12))
    with FakeOpenAI() as fake:
        made = map_entities(mapped(settings, fake))
        assert len(fake.requests) == 12
        assert all(request.body["temperature"] == 0 for request in fake.requests)
    assert statuses(auto) == {"ok": 12}
    # The fake invents a place, a relation to it, and a value.
    assert [made.counts[f"dropped_{reason}"] for reason in DROP_REASONS] == [12, 12, 0, 12]
    assert number(auto, "SELECT min(dropped) FROM heal.entity_map") == 3
    stored = auto.execute(
        "SELECT m.map, c.text, d.title FROM heal.entity_map m JOIN heal.chunk c USING (chunk_id) "
        "JOIN heal.document d USING (document_id)"
    ).fetchall()
    for found, text, title in stored:
        names = [entity["name"] for entity in found["entities"]]
        assert len(names) == 2
        assert len(found["relations"]) == 1
        assert all(name in f"{title} {text}" for name in names)
        assert "777" not in json.dumps(found)
    calls = auto.execute("SELECT DISTINCT purpose FROM heal.llm_call").fetchall()
    assert calls == [("maps",)]
    assert (made.counts["input_tokens"], made.counts["output_tokens"]) == (fake.input_tokens, fake.output_tokens)
    assert number(auto, "SELECT sum(input_tokens) FROM heal.llm_call") == fake.input_tokens
    reduction = number(auto, "SELECT 1 - avg(map_tokens::float8 / text_tokens) FROM heal.entity_map")
    assert made.counts["reduction"] == pytest.approx(reduction, abs=1e-4)
    assert 0.2 < reduction < 0.7
    assert made.note == (
        f"12 entity maps of 12 chunks by fake, 0 failed; the 12 in store are {reduction:.1%} shorter than their texts "
        "(APEX: 37.7%)"
    )


def test_a_second_run_sends_nothing_whatever_the_rate(auto: Connection, settings: Settings) -> None:
    add(auto, range(12))
    with FakeOpenAI() as fake:
        map_entities(mapped(settings, fake))
        sent = traffic(fake)
        again = map_entities(mapped(settings, fake, map_rate=1.0), "r2")
        assert traffic(fake) == sent
    assert again.counts["ok"] == again.counts["cost_usd"] == 0


def test_facts_of_the_title_are_grounded(auto: Connection, settings: Settings) -> None:
    add(auto, range(1))
    reply = {
        "entities": [{"id": "e", "type": "document", "name": "Report 0", "attributes": []}], "relations": [],
    }  # fmt: skip
    with FakeOpenAI(lambda request: completion(json.dumps(reply))) as fake:
        made = map_entities(mapped(settings, fake))
    assert (made.counts["dropped_name"], made.counts["short"] + made.counts["ok"]) == (0, 1)


def test_equal_texts_are_mapped_once_by_all_shards_together(auto: Connection, settings: Settings) -> None:
    records = [Record(f"d{n}", "T", f"{body(7)}|{body(n)}") for n in range(20, 32)]
    DocumentRepository(auto).apply_records("s", records, lambda title, text: [("", part) for part in text.split("|")])
    with FakeOpenAI() as fake:
        made = [map_entities(mapped(settings, fake), shard=shard, shards=3) for shard in range(3)]
        assert len(fake.requests) == 13
    assert sum(item.counts["reused"] for item in made) == 11
    assert statuses(auto) == {"ok": 24}
    assert number(auto, "SELECT count(DISTINCT (content_hash, map)) FROM heal.entity_map") == 13


def test_a_change_of_prompt_or_model_asks_again(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(auto, range(2))
    with FakeOpenAI() as fake:
        map_entities(mapped(settings, fake))
        map_entities(mapped(settings, fake, llm_model="other"), "r2")
        monkeypatch.setattr("heal_tasks.questions.maps.map_prompt.MAP_PROMPT_VERSION", "next")
        map_entities(mapped(settings, fake), "r3")
        assert len(fake.requests) == 6
    assert maps_by(auto, map_author(mapped(settings, fake))).usable().count == 2


def test_all_replies_are_final_except_failures(auto: Connection, settings: Settings) -> None:
    add(auto, range(24))
    good = json.dumps(entity_map(body(0)))

    def long(request: Request) -> Reply:
        relations = [{"source": "e0", "predicate": f"{a} {b}", "target": "e1"} for a in "abcdef" for b in "ghijkl"]
        return completion(json.dumps({**entity_map(request.passage), "relations": relations}))

    replies = [
        lambda request: None,
        lambda request: completion(None, refusal="I would rather not"),
        lambda request: completion("no map today", usage=(50, 5)),
        lambda request: completion('{"entities": [], "relations": []}'),
        long,
        lambda request: (
            completion(good[:50], finish_reason="length", usage=(300, 2048)) if not request.attempt else None
        ),
        lambda request: error(500, "oops", retry_after_ms="1") if not request.attempt else None,
        lambda request: error(400, "this one is not for me", code="string_above_max_length"),
    ]

    def rule(request: Request) -> Reply | None:
        return replies[int(request.title.split()[1]) % 8](request)

    with FakeOpenAI(rule) as fake:
        made = map_entities(mapped(settings, fake))
        assert statuses(auto) == {"ok": 9, "refused": 3, "empty": 3, "long": 3}
        assert made.counts["failed"] == 6
        assert number(auto, "SELECT sum(input_tokens) FROM heal.llm_call") == fake.input_tokens
        assert number(auto, "SELECT sum(output_tokens) FROM heal.llm_call") == fake.output_tokens
        sent = len(fake.requests)
        fake.rule = None
        again = map_entities(mapped(settings, fake), "r2")
        assert len(fake.requests) == sent + 6
    assert again.counts["ok"] == 6
    assert maps_by(auto, map_author(mapped(settings, fake))).usable().count == 15


def test_a_correction_names_the_problem(auto: Connection, settings: Settings) -> None:
    add(auto, range(1))

    def rule(request: Request) -> Reply | None:
        return None if request.attempt else completion('{"entities": 3, "relations": []}')

    with FakeOpenAI(rule) as fake:
        map_entities(mapped(settings, fake))
        assert "entities: Input should be a valid list" in fake.requests[1].body["messages"][-1]["content"]
    assert statuses(auto) == {"ok": 1}


def test_too_many_failures_end_the_step_and_what_was_written_is_kept(auto: Connection, settings: Settings) -> None:
    add(auto, range(40))

    def rule(request: Request) -> Reply | None:
        return error(400, "no", code="content_policy") if int(request.title.split()[1]) % 2 else None

    with FakeOpenAI(rule) as fake, pytest.raises(StepError, match="maps failed for 20 of 40 chunks"):
        map_entities(mapped(settings, fake))
    assert statuses(auto) == {"ok": 20}


def test_a_kill_loses_at_most_what_was_not_stored(auto: Connection, settings: Settings) -> None:
    add(auto, range(80))
    go_on = threading.Event()

    def rule(request: Request) -> Reply | None:
        if len(fake.requests) > 60:
            go_on.wait(60)
        return None

    with FakeOpenAI(rule) as fake:
        with step_process(
            settings,
            fake,
            "map_entities",
            HEAL_LLM_CONCURRENCY="4",
            HEAL_LLM_RUN_SPEND_LIMIT_USD="9",
            HEAL_MAP_RATE="1",
        ):
            wait_until(lambda: len(fake.requests) >= 64, timeout_s=60)
        answered = len(fake.requests)
        go_on.set()
        stored = number(auto, "SELECT count(*) FROM heal.llm_call WHERE raw_reply NOT LIKE '%probe%'")
        assert 25 <= stored < answered
        assert answered - stored <= 25 + 2 * 4
        assert number(auto, "SELECT count(*) FROM heal.llm_reservation") > 0
        fake.rule = None
        map_entities(mapped(settings, fake, llm_run_spend_limit_usd=9))
        assert len(fake.requests) == answered + 80 - stored
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0
    assert statuses(auto) == {"ok": 80}


def test_nothing_readable_of_a_deleted_document_is_kept(auto: Connection, settings: Settings) -> None:
    add(auto, range(2))
    with FakeOpenAI() as fake:
        map_entities(mapped(settings, fake))
    delete(auto, range(1))
    assert number(auto, "SELECT count(*) FROM heal.entity_map") == 1
    assert number(auto, "SELECT count(*) FROM heal.llm_call WHERE raw_reply LIKE '%number0%'") == 0
    delete(auto, range(1, 2))
    for table in ("entity_map", "llm_call", "chunk", "document"):
        kept = str(auto.execute(f"SELECT * FROM heal.{table}".encode()).fetchall())
        assert "chamber" not in kept, table
    assert number(auto, "SELECT count(*) FROM heal.llm_call") >= 2, "what was paid stays in the ledger"


def test_a_document_deleted_while_the_model_wrote_leaves_no_map(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))

    def rule(request: Request) -> Reply | None:
        if request.title == "Report 1":
            delete(auto, range(1, 2))
        return None

    with FakeOpenAI(rule) as fake:
        map_entities(mapped(settings, fake, llm_concurrency=1))
    assert statuses(auto) == {"ok": 2}
    assert number(auto, "SELECT count(DISTINCT chunk_id) FROM heal.llm_call WHERE raw_reply IS NULL") == 1


def test_no_maps_are_asked_for_at_a_rate_of_zero(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    with FakeOpenAI() as fake:
        made = map_entities(with_llm(settings, fake))
        assert traffic(fake) == 0
    assert "HEAL_MAP_RATE=0" in made.note
    assert statuses(auto) == {}


def test_maps_by_a_language_model_are_refused_without_one(auto: Connection, settings: Settings) -> None:
    add(auto, range(1))
    (settings.var_dir / "inbox").mkdir()
    wanting = settings.model_copy(update={"map_rate": 0.25, "map_writer": "llm"})
    with pytest.raises(
        SettingsError, match=r"HEAL_MAP_RATE=0\.25 requires an LLM to write entity maps.*HEAL_LLM_BASE_URL"
    ):
        map_entities(wanting)
    with pytest.raises(SettingsError, match=r"HEAL_MAP_RATE=0\.25"):
        make_plan(wanting)
    (finding,) = [item for item in examine(wanting) if item.subject == "llm"]
    assert finding.level == "fail"
    assert "HEAL_MAP_RATE=0.25 requires an LLM to write entity maps" in finding.text


def test_the_page_shows_the_status_of_the_maps(auto: Connection, settings: Settings) -> None:
    add(auto, range(9))
    with FakeOpenAI() as fake:
        for shard in range(2):
            map_entities(mapped(settings, fake), shard=shard, shards=2)
    made = load_step("report").run(settings, Manifest(run_id="r1"))
    page = (Path(made.text("report_uri")) / "report.html").read_text()
    section = page.partition(">Entity maps</h2>")[2].partition(">Topics</h2>")[0]
    assert "9 new ones to train on; 0 chunks state no fact" in section
    assert "9 entities, 9 values, 0 keys or predicates,\nand 9 facts" in section
    reduction = number(auto, "SELECT 1 - avg(map_tokens::float8 / text_tokens) FROM heal.entity_map")
    assert f"The 9 in store are {100 * reduction:.1f}% shorter than their texts on average (APEX reports" in section
    assert "<td>maps</td><td>fake</td><td>ok</td>" in section

    map_entities(with_llm(settings, fake), "r2")
    made = load_step("report").run(settings, Manifest(run_id="r2"))
    assert ">Entity maps</h2>" not in (Path(made.text("report_uri")) / "report.html").read_text()
