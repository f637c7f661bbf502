"""Step ask against a real Postgres and a real HTTP server: no text is paid for twice, what is dropped is counted."""

import json
import re
import threading

import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.report.page import read_page
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error
from tests.steps.asking import (
    PRICE,
    add,
    ask,
    body,
    delete,
    most_usd,
    number,
    step_process,
    traffic,
    wait_until,
    with_llm,
)


def test_a_second_run_sends_nothing(auto: Connection, settings: Settings) -> None:
    add(auto, range(12))
    with FakeOpenAI() as fake:
        first = ask(with_llm(settings, fake))
        assert first.counts["asked"] == len(fake.requests) == 12
        assert auto.execute("SELECT done, total FROM heal.step_result WHERE run_id = 'r1'").fetchall() == [(12, 12)]
        sent = traffic(fake)
        again = ask(with_llm(settings, fake), "r2")
        assert traffic(fake) == sent
    assert again.counts["asked"] == again.counts["cost_usd"] == 0
    assert number(auto, "SELECT count(*) FROM heal.question") == first.counts["kept"] > 0
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0


def test_another_writer_is_asked_in_the_same_run(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    rules = load_step("ask").run(settings, Manifest(run_id="r1"))
    with FakeOpenAI() as fake:
        made = ask(with_llm(settings, fake))
        assert made.counts["asked"] == len(fake.requests) == 3
        ask(with_llm(settings, fake))
        assert len(fake.requests) == 3
    assert load_step("ask").run(settings, Manifest(run_id="r1")).counts == rules.counts
    (row,) = RunRepository(auto).steps_of("r1")
    assert "by llm" in (row.result or {})["note"]


def test_nothing_readable_of_a_deleted_document_is_kept(auto: Connection, settings: Settings) -> None:
    add(auto, range(1))
    with FakeOpenAI() as fake:
        ask(with_llm(settings, fake))
    delete(auto, range(1))
    for table in ("question_dropped", "question", "llm_call", "chunk", "document"):
        kept = str(auto.execute(f"SELECT * FROM heal.{table}".encode()).fetchall())
        assert "saline" not in kept, table


def test_equal_texts_are_asked_about_once_by_all_shards_together(auto: Connection, settings: Settings) -> None:
    # Of equal documents one stands for all, so the copies have a second chunk of their own.
    records = [Record(f"d{n}", "T", f"{body(7)}|{body(n)}") for n in range(20, 32)]
    DocumentRepository(auto).apply_records("s", records, lambda title, text: [("", part) for part in text.split("|")])
    with FakeOpenAI() as fake:
        made = [ask(with_llm(settings, fake), shard=shard, shards=3) for shard in range(3)]
        assert sum("number7 " in request.passage for request in fake.requests) == 1
        assert len(fake.requests) == 13
    assert sum(item.counts["reused"] for item in made) == 11
    copies = number(auto, "SELECT count(DISTINCT chunk_id) FROM heal.question WHERE evidence LIKE '%number7 %'")
    assert copies == 12


def test_a_change_of_prompt_or_model_asks_again(auto: Connection, settings: Settings) -> None:
    add(auto, range(2))
    with FakeOpenAI() as fake:
        ask(with_llm(settings, fake))
        ask(with_llm(settings, fake, llm_model="other"), "r2")
        ask(with_llm(settings, fake, questions_per_chunk=2), "r3")
        assert len(fake.requests) == 6


def test_a_kill_loses_at_most_what_was_not_stored(auto: Connection, settings: Settings) -> None:
    add(auto, range(80))
    go_on = threading.Event()

    def rule(request: Request) -> Reply | None:
        if len(fake.requests) > 60:
            go_on.wait(60)
        return None

    with FakeOpenAI(rule) as fake:
        with step_process(settings, fake, "ask", HEAL_LLM_CONCURRENCY="4", HEAL_LLM_RUN_SPEND_LIMIT_USD="5"):
            wait_until(lambda: len(fake.requests) >= 64, timeout_s=60)
        answered = len(fake.requests)
        go_on.set()
        stored = number(auto, "SELECT count(*) FROM heal.llm_call WHERE raw_reply NOT LIKE '%probe%'")
        assert 25 <= stored < answered
        # Fifty rows make a batch: calls, and the chunks they were for.
        assert answered - stored <= 25 + 2 * 4
        assert number(auto, "SELECT count(*) FROM heal.llm_reservation") > 0
        fake.rule = None
        again = ask(with_llm(settings, fake, llm_run_spend_limit_usd=5))
        assert len(fake.requests) == answered + 80 - stored
    assert again.counts["over_spend_limit"] == 0
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0
    assert number(auto, "SELECT count(*) FROM heal.chunk_asked") == 80


def test_an_endpoint_that_goes_away_keeps_what_was_paid_and_frees_the_rest(
    auto: Connection, settings: Settings
) -> None:
    add(auto, range(40))

    def rule(request: Request) -> Reply | None:
        return None if len(fake.requests) <= 10 else error(401, "key withdrawn")

    with FakeOpenAI(rule) as fake, pytest.raises(SettingsError, match="key withdrawn"):
        ask(with_llm(settings, fake, llm_run_spend_limit_usd=100))
    assert number(auto, "SELECT count(*) FROM heal.chunk_asked") == 10
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0


def bad_items(request: Request) -> Reply:
    evidence = request.passage.split(".")[0]
    queries = [
        ("question", "What resists corrosion in saline water?", evidence),
        ("question", "In saline water, what is it that resists the corrosion?", evidence),
        ("question", "What does this document say of vapour?", evidence),
        ("claim", "The shell is made of pure gold.", "pure gold"),
    ]
    items = [{"type": kind, "query": text, "answer": "a", "evidence_quote": quote} for kind, text, quote in queries]
    return completion(json.dumps({"items": items}), usage=(1000, 200))


def test_what_the_filters_drop_is_counted_and_sampled(auto: Connection, settings: Settings) -> None:
    add(auto, range(30))
    with FakeOpenAI(bad_items) as fake:
        made = ask(with_llm(settings, fake))
    assert (made.counts["kept"], made.counts["dropped"]) == (30, 90)
    for name in ("near_duplicate", "dangling", "evidence"):
        assert made.counts[f"dropped_{name}"] == 30
    assert made.counts["dropped_short"] == 0
    rows = auto.execute("SELECT reason, count(*) FROM heal.question_dropped GROUP BY 1 ORDER BY 1").fetchall()
    assert rows == [("dangling", 20), ("evidence", 20), ("near_duplicate", 20)]
    assert number(auto, "SELECT min(dropped) FROM heal.chunk_asked") == 3


def test_samples_stay_few_when_a_step_is_repeated_and_go_with_their_chunk(auto: Connection, settings: Settings) -> None:
    with FakeOpenAI(bad_items) as fake:
        for numbers in (range(15), range(15, 30)):
            add(auto, numbers)
            auto.execute("DELETE FROM heal.step_result")
            ask(with_llm(settings, fake))
    assert number(auto, "SELECT count(*) FROM heal.question_dropped") == 60
    delete(auto, range(30))
    assert number(auto, "SELECT count(*) FROM heal.question_dropped") == 0


def test_filters_that_are_switched_off_drop_nothing(auto: Connection, settings: Settings) -> None:
    add(auto, range(2))
    with FakeOpenAI(bad_items) as fake:
        some = ask(with_llm(settings, fake, question_filters="evidence near_duplicate"))
        assert (some.counts["kept"], some.counts["dropped"]) == (4, 4)
        assert "dropped_dangling" not in some.counts
        none = ask(with_llm(settings, fake, question_filters="none", llm_model="other"), "r2")
    assert (none.counts["kept"], none.counts["dropped"]) == (8, 0)


def test_an_unknown_filter_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(SettingsError, match=r"HEAL_QUESTION_FILTERS='evidnce'.*'evidence'.*'near_duplicate'"):
        load_settings(question_filters="short evidnce")


def test_the_page_shows_writers_filters_samples_and_cost(auto: Connection, settings: Settings) -> None:
    add(auto, range(9))
    with FakeOpenAI(bad_items) as fake:
        limit = most_usd(settings) + 0.2
        ask(with_llm(settings, fake, llm_run_spend_limit_usd=limit, **PRICE))
    made = load_step("report").run(settings, Manifest(run_id="r1"))
    assert made.text("report_uri")
    page = read_page(auto, artifact_store(settings), "r1")
    assert page
    section = page.partition(">Questions</h2>")[2]
    kept = number(auto, "SELECT count(*) FROM heal.question")
    assert 0 < kept < 9
    assert f"{kept} by llm" in section
    assert "<td>llm</td><td>question</td>" in section
    assert f"{3 * kept} of {4 * kept}:" in section
    assert f"near_duplicate {kept}" in section
    assert "duplicate 0" in section
    dropped = "The shell is made of pure gold.|evidence|claim|llm|Report "
    assert dropped in re.sub(r"</td><td[^>]*>", "|", section)
    assert f"Spend limit: {limit:.2f} USD per run." in section
    assert f"It is reached: {9 - kept} chunks are left for the next run." in section
    assert f"{number(auto, 'SELECT sum(cost_usd) FROM heal.llm_call'):.4f}</b>" in section
