"""Spend limits of the steps and of ``plan``: none is exceeded, and none is left unused without need."""

import json
import threading

import pytest

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.endpoint import EndpointConfig
from heal_tasks.questions.llm.client import LLM
from heal_tasks.questions.llm.dialect import MOST_PROBE_TOKENS
from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.questions.maps.map_prompt import map_prompt
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.writing import llm_calls
from heal_tasks.store.db import Connection
from heal_tasks.store.llm.ledger import SpendLimit
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error
from tests.steps.asking import PRICE, add, ask, body, dear, map_entities, mapped, most_usd, number, traffic, with_llm


def test_a_reached_limit_ends_the_step_well_and_the_next_run_goes_on(auto: Connection, settings: Settings) -> None:
    add(auto, range(60))
    with FakeOpenAI() as fake:
        # A call costs 0.12 USD and may cost thirty times as much.
        fake.rule = dear
        limit = most_usd(settings) + 0.5
        limited = with_llm(settings, fake, llm_run_spend_limit_usd=limit, **PRICE)
        first = ask(limited)
        spent = number(auto, "SELECT sum(cost_usd) FROM heal.llm_call")
        assert spent == pytest.approx(first.counts["cost_usd"])
        assert spent <= limit
        assert len(fake.probes) == 1, "money that calls did not need is handed out without starting anew"
        assert 0 < first.counts["asked"] == len(fake.requests) < 60
        assert first.counts["over_spend_limit"] == 60 - first.counts["asked"]
        assert "the spend limit is reached" in first.note
        # What is left is less than one more chunk could cost.
        assert limit - spent < most_usd(settings)
        second = ask(limited, "r2")
        assert second.counts["asked"] > 0
        rest = ask(with_llm(settings, fake, **PRICE), "r3")
        assert rest.counts["over_spend_limit"] == 0
        assert len(fake.requests) == 60
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0


def test_a_limit_is_not_exceeded_whatever_the_replies_cost(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_calls.Recorder, "refuse_if_failing", lambda *args: None)
    add(auto, range(30))

    def rule(request: Request) -> Reply:
        limit = request.body.get("max_completion_tokens") or request.body["max_tokens"]
        tokens = (len(json.dumps(request.body["messages"])) // 4, limit)
        return completion("{", finish_reason="length" if not request.attempt else "stop", usage=tokens)

    with FakeOpenAI(rule) as fake:
        made = ask(with_llm(settings, fake, llm_day_spend_limit_usd=9.0, **PRICE))
    assert 0 < number(auto, "SELECT sum(cost_usd) FROM heal.llm_call") <= 9.0
    assert made.counts["over_spend_limit"] > 0


def test_two_shards_share_a_limit(auto: Connection, settings: Settings) -> None:
    add(auto, range(60))
    with FakeOpenAI() as fake:
        limited = with_llm(settings, fake, llm_day_spend_limit_usd=8.0, llm_timeout_s=10, **PRICE)
        made: list[Manifest] = []
        threads = [
            threading.Thread(target=lambda shard=shard: made.append(ask(limited, shard=shard, shards=2)))
            for shard in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert number(auto, "SELECT sum(cost_usd) FROM heal.llm_call") <= 8.0
    assert [item.counts["over_spend_limit"] for item in made] == [0, 0], "one shard's promises do not end the other"
    assert len(fake.requests) == 60


def test_nothing_is_sent_where_the_limit_is_reached(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    with FakeOpenAI() as fake:
        made = ask(with_llm(settings, fake, llm_run_spend_limit_usd=0.001, **PRICE))
        assert traffic(fake) == 0
    assert made.counts["over_spend_limit"] == 3


def test_the_extractive_writer_needs_no_money(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    free = settings.model_copy(update={"llm_run_spend_limit_usd": 1e-9, "llm_day_spend_limit_usd": 1e-9})
    made = ask(free)
    assert made.counts["asked"] == 3
    assert made.counts["over_spend_limit"] == 0
    assert "run_spend_limit_usd" not in made.counts


def test_the_most_tokens_are_those_that_the_writer_may_use() -> None:
    chunk, spec = ChunkToAsk(1, "Tïtle", "Ünïcode " * 50, "h"), question_prompt(4)

    def rule(request: Request) -> Reply:
        return completion("{", finish_reason="length" if not request.attempt else "stop", usage=(100, 2560))

    with FakeOpenAI(rule, lambda request: completion("no")) as fake:
        list(LLM(EndpointConfig(fake.base_url, None, "m", 5), 1).ask(spec, [chunk]))

    def used(requests: list[Request]) -> tuple[int, int]:
        limits = [request.body.get("max_tokens") or request.body["max_completion_tokens"] for request in requests]
        return sum(len(request.raw) for request in requests), sum(limits)

    sent, limit = used(fake.requests)
    most_sent, most_limit = spec.most_tokens(chunk)
    assert limit == most_limit
    assert sent <= most_sent
    probe_sent, probe_limit = used(fake.probes)
    assert probe_sent <= MOST_PROBE_TOKENS[0]
    assert 0 < probe_limit <= MOST_PROBE_TOKENS[1]


@pytest.fixture
def planned(settings: Settings) -> Settings:
    folder = settings.var_dir / "inbox"
    folder.mkdir()
    lines = [json.dumps({"id": str(n), "title": f"Report {n}", "text": body(n)}) for n in range(40)]
    (folder / "docs.jsonl").write_text("\n".join(lines))
    return settings


def test_plan_says_what_the_limit_leaves(auto: Connection, planned: Settings) -> None:
    with FakeOpenAI() as fake:
        made = make_plan(with_llm(planned, fake, **PRICE))
        assert made.questions.chunks == 40
        assert not made.limit
        auto.execute(
            "INSERT INTO heal.llm_call (run_id, purpose, model, prompt_hash, content_hash, status, cost_usd) "
            "VALUES ('r0', 'questions', 'm', 'p', 'h', 'ok', 0.75)"
        )
        SpendLimit(auto, "r0", run_usd=9, day_usd=9).reserve([(1, 0.25)])
        limit = 1.0 + 10.5 * made.questions.cost_usd / 40
        line = make_plan(with_llm(planned, fake, llm_day_spend_limit_usd=limit, **PRICE)).lines()[-1]
        assert line == (
            f"limit      {limit:.2f} USD per day, 0.75 spent today and 0.25 reserved: about 10 of 40 chunks"
        )
        line = make_plan(with_llm(planned, fake, llm_run_spend_limit_usd=500, **PRICE)).lines()[-1]
        assert line == "limit      500.00 USD per run: all 40 chunks"
        assert traffic(fake) == 0
    assert number(auto, "SELECT count(*) FROM heal.document") == 0


def test_plan_says_what_entity_maps_would_cost(auto: Connection, planned: Settings) -> None:
    with FakeOpenAI() as fake:
        with_maps = with_llm(planned, fake, map_rate=0.3, llm_run_spend_limit_usd=500, **PRICE)
        made = make_plan(with_maps)
        assert made.maps is not None
        assert made.maps.chunks == 40
        # The prompt for maps is about twice as long, and the reply about as long as three questions.
        assert made.questions.cost_usd < made.maps.cost_usd < 3 * made.questions.cost_usd
        assert made.lines()[3].startswith("maps       40 chunks to map; about ")
        assert made.lines()[-1] == "limit      500.00 USD per run: all 80 calls"
        assert traffic(fake) == 0
        load_step("ingest").run(with_maps, Manifest(run_id="r1"))
        map_entities(with_maps)
        assert make_plan(with_maps).lines()[3] == "maps       0 chunks to map; nothing to pay"
        # Only a realignment trains.
        idle = make_plan(with_maps.model_copy(update={"force_route": "nothing"}))
        assert idle.maps is None
        assert idle.lines()[2].endswith("only HEAL_FORCE_ROUTE=realign would ask for them")
        assert make_plan(with_llm(planned, fake)).maps is None


def test_plan_says_what_answers_can_cost(auto: Connection, planned: Settings) -> None:
    with FakeOpenAI() as fake:
        wanting = with_llm(planned, fake, answer_questions=10, llm_run_spend_limit_usd=500, **PRICE)
        made = make_plan(wanting)
        # Nothing is live yet: base model and candidate.
        assert made.answers is not None
        assert (made.answers.chunks, made.answers.input_tokens) == (20, 20 * (300 + 3 * wanting.chunk_tokens))
        assert made.lines()[3].startswith("answers    at most 20 answers; about 20,400 tokens in, 1,200 out, 2.16 USD")
        assert made.lines()[-1] == "limit      500.00 USD per run: all 60 calls"
        assert make_plan(wanting.model_copy(update={"force_route": "nothing"})).answers is None
        assert make_plan(with_llm(planned, fake)).answers is None
        assert traffic(fake) == 0


def test_plan_of_unchanged_texts_asks_for_nothing(auto: Connection, planned: Settings) -> None:
    with FakeOpenAI() as fake:
        limited = with_llm(planned, fake)
        load_step("ingest").run(limited, Manifest(run_id="r1"))
        ask(limited)
        sent = traffic(fake)
        made = make_plan(limited)
        assert (made.questions.chunks, made.questions.cost_usd) == (0, 0.0)
        assert "nothing to pay" in made.lines()[2]
        assert traffic(fake) == sent


def test_an_account_without_money_keeps_none_reserved(auto: Connection, settings: Settings) -> None:
    add(auto, range(3))
    with (
        FakeOpenAI(lambda request: error(429, "no quota", code="insufficient_quota")) as fake,
        pytest.raises(SettingsError, match="no quota"),
    ):
        ask(with_llm(settings, fake, llm_run_spend_limit_usd=100))
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0


def test_a_reached_limit_ends_map_entities_well_and_the_next_run_goes_on(auto: Connection, settings: Settings) -> None:
    add(auto, range(30))
    tokens = map_prompt().most_tokens(ChunkToAsk(1, "Report 1", body(1), "h"))
    limit = 100 * (sum(tokens) + sum(MOST_PROBE_TOKENS)) / 1e6 + 0.3
    with FakeOpenAI() as fake:
        limited = mapped(settings, fake, llm_run_spend_limit_usd=limit, **PRICE)
        first = map_entities(limited)
        assert 0 < first.counts["ok"] == len(fake.requests) < 30
        assert number(auto, "SELECT sum(cost_usd) FROM heal.llm_call") <= limit
        assert first.counts["over_spend_limit"] == 30 - first.counts["ok"]
        assert "the spend limit is reached" in first.note
        map_entities(mapped(settings, fake, **PRICE), "r2")
        assert len(fake.requests) == 30
    assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 0
    assert number(auto, "SELECT count(*) FROM heal.entity_map WHERE status = 'ok'") == 30


def test_questions_and_maps_share_a_run_and_its_spend_limit(auto: Connection, settings: Settings) -> None:
    add(auto, range(6))
    with FakeOpenAI() as fake:
        both = mapped(settings, fake, llm_run_spend_limit_usd=50, **PRICE)
        ask(both)
        map_entities(both)
    rows = auto.execute(
        "SELECT purpose, count(*), sum(cost_usd) > 0 FROM heal.llm_call WHERE raw_reply NOT LIKE '%probe%' "
        "GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert rows == [("maps", 6, True), ("questions", 6, True)]
