"""Step ask over the Batch API, against a real Postgres and a real HTTP server: nothing lost, nothing paid twice."""

import json

import pytest

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.dry_run import make_plan
from heal_tasks.steps.engine.runner import Waiting
from heal_tasks.store.db import Connection
from tests.fake_batches import FakeBatches, Job, broken, expire_half, row
from tests.fake_openai import FakeOpenAI, Reply, Request, answer, completion, error
from tests.steps.asking import PRICE, add, ask, delete, number, with_llm
from tests.steps.batching import answered, batching, check_ledger, to_end


def test_a_batch_brings_the_same_questions_for_half_the_price(auto: Connection, settings: Settings) -> None:
    add(auto, range(30))
    questions = "SELECT string_agg(text || evidence || split, '|' ORDER BY question_id) FROM heal.question"
    with FakeOpenAI(batches=FakeBatches()) as fake:
        single = ask(with_llm(settings, fake, **PRICE))
        expected = number(auto, questions)
        for table in ("question", "chunk_asked", "llm_call"):
            auto.execute(f"DELETE FROM heal.{table}".encode())
        fake.input_tokens = fake.output_tokens = 0
        made = to_end(batching(settings, fake, **PRICE), "r2")
        assert len(fake.requests) == len(fake.batched) == 30
        assert number(auto, questions) == expected
        alone, batched = (
            {json.dumps(item.body, sort_keys=True) for item in sent} for sent in (fake.requests, fake.batched)
        )
        assert batched == alone
    check_ledger(auto, fake)
    for name in ("asked", "kept", "dropped", "input_tokens", "output_tokens"):
        assert made.counts[name] == single.counts[name]
    probe = 22 * 100 / 1e6
    assert made.counts["cost_usd"] - probe == pytest.approx((single.counts["cost_usd"] - probe) / 2)
    assert number(auto, "SELECT sum(cost_usd) FROM heal.llm_call") == pytest.approx(made.counts["cost_usd"])
    assert number(auto, "SELECT count(DISTINCT batch_id) FROM heal.llm_call") == 1


def failing(request: Request) -> Reply | None:
    """What is wrong with a tenth of the texts each; a text that is asked about again gets a good reply."""
    kind = int(request.title.split()[-1]) % 10
    good = answer(request)
    if kind == 4:
        return completion(None, refusal="I would rather not.", usage=(90, 7))
    if request.raw:
        return good
    if kind == 0:
        return broken(good)
    if kind == 1:
        return completion('{"items": [{"type": "quest', finish_reason="length", usage=(100, 2048))
    if kind == 2:
        return error(500, "broken")
    if kind == 3:
        return error(400, "moderated", code="content_filter")
    return good


def spoil(job: Job) -> None:
    """Lines are missing, twice there, foreign or not JSON."""
    job.output += [row(name, reply) for name, reply in list(job.answers.items())[::7] if reply.status == 200]
    job.output += ["{", '"text"', row("somebody else's", completion("{}")), json.dumps({"custom_id": 5})]


def test_every_way_a_line_can_be_bad_loses_no_chunk(auto: Connection, settings: Settings) -> None:
    add(auto, range(100))
    with FakeOpenAI(failing, batches=FakeBatches(end=spoil)) as fake:
        made = to_end(batching(settings, fake))
    assert len(fake.batched) == 100
    titles = sorted(int(request.title.split()[-1]) % 10 for request in fake.requests)
    assert titles == [kind for kind in (0, 1, 2) for _ in range(10)], "refusals are final, the rest is asked once more"
    for request in fake.requests:
        kind, last = int(request.title.split()[-1]) % 10, request.body["messages"][-1]["content"]
        assert ("could not be used: items.0.type" in last) == (kind == 0)
        assert request.body["max_tokens"] == (2 if kind == 1 else 1) * 512 * 4
    assert made.counts["asked"] == answered(auto) == 100
    assert made.counts["failed"] == 0
    check_ledger(auto, fake)
    statuses = dict(
        auto.execute("SELECT status, count(*) FROM heal.llm_call WHERE batch_id <> '' GROUP BY 1").fetchall()
    )
    assert statuses == {"ok": 50, "invalid": 20, "failed": 10, "refused": 20}
    rejected = auto.execute("SELECT raw_reply FROM heal.llm_call WHERE status <> 'ok'").fetchall()
    for kept in ("riddle", '"type": "quest', "broken", "moderated", "I would rather not."):
        assert sum(kept in raw for (raw,) in rejected) == 10, kept
    assert number(auto, "SELECT count(*) FROM heal.llm_batch_row WHERE outcome IS NULL") == 0


@pytest.mark.parametrize("missing", [1, 40])
def test_lines_that_never_come_are_asked_about_one_by_one(auto: Connection, settings: Settings, missing: int) -> None:
    add(auto, range(40))

    def lose(job: Job) -> None:
        for name in list(job.answers)[:missing]:
            del job.answers[name]

    with FakeOpenAI(batches=FakeBatches(end=lose)) as fake:
        made = to_end(batching(settings, fake))
        assert len(fake.requests) == missing
    check_ledger(auto, fake)
    assert made.counts["asked"] == answered(auto) == 40


def test_an_expired_batch_is_used_as_far_as_it_came(auto: Connection, settings: Settings) -> None:
    add(auto, range(40))
    with FakeOpenAI(batches=FakeBatches(end=expire_half)) as fake:
        made = to_end(batching(settings, fake))
        assert len(fake.requests) == 20
    check_ledger(auto, fake)
    assert made.counts["asked"] == answered(auto) == 40
    assert "1 batches, 20 chunks one by one" in made.note
    assert number(auto, "SELECT note FROM heal.llm_batch") == "expired"
    assert number(auto, "SELECT count(*) FROM heal.llm_call WHERE batch_id <> ''") == 20


def test_a_batch_that_fails_validation_costs_nothing_and_holds_nothing_up(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))

    def refuse(job: Job) -> None:
        job.status, job.answers = "failed", {}
        job.body["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}]}

    with FakeOpenAI(batches=FakeBatches(end=refuse)) as fake:
        made = to_end(batching(settings, fake))
        assert len(fake.requests) == 5
    assert made.counts["asked"] == 5
    assert "Enqueued token limit" in number(auto, "SELECT note FROM heal.llm_batch")


def test_what_takes_too_long_is_cancelled(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.steps.writing.batch_collector.BATCH_WAIT_S", 1e-6)
    add(auto, range(5))
    with FakeOpenAI(batches=FakeBatches(polls=0)) as fake:
        made = to_end(batching(settings, fake))
        assert [job.status for job in fake.batches.jobs.values()] == ["cancelled"]
        assert len(fake.requests) == 5
    assert made.counts["asked"] == 5
    check_ledger(auto, fake)


def test_a_text_deleted_in_the_meantime_leaves_only_its_cost(auto: Connection, settings: Settings) -> None:
    add(auto, range(4))
    with FakeOpenAI(batches=FakeBatches(polls=3)) as fake:
        with pytest.raises(Waiting):
            ask(batching(settings, fake))
        delete(auto, range(2))
        made = to_end(batching(settings, fake))
    assert made.counts["asked"] == 2
    assert not fake.requests
    check_ledger(auto, fake)
    assert number(auto, "SELECT count(*) FROM heal.llm_call WHERE batch_id <> '' AND raw_reply IS NULL") == 2
    assert number(auto, "SELECT count(*) FROM heal.llm_batch_row") == 0


def test_a_batch_is_reserved_before_it_is_sent_and_settled_by_its_replies(auto: Connection, settings: Settings) -> None:
    add(auto, range(60))
    with FakeOpenAI(batches=FakeBatches(polls=2)) as fake:
        limited = batching(settings, fake, llm_run_spend_limit_usd=10.0, **PRICE)
        with pytest.raises(Waiting):
            ask(limited)
        first = len(next(iter(fake.batches.jobs.values())).requests)
        assert 0 < first < 60
        reserved = number(auto, "SELECT sum(cost_usd) FROM heal.llm_reservation")
        assert 9.0 < reserved <= 10.0
        made = to_end(limited)
        assert len(fake.batches.jobs) > 1, "what the replies did not cost goes into further batches"
    assert number(auto, "SELECT sum(cost_usd) FROM heal.llm_call") == pytest.approx(made.counts["cost_usd"])
    assert made.counts["cost_usd"] <= 10.0
    assert made.counts["asked"] + made.counts["over_spend_limit"] == 60
    check_ledger(auto, fake)


def test_a_spend_limit_does_not_keep_a_run_sending_for_days(auto: Connection, settings: Settings) -> None:
    add(auto, range(60))
    with FakeOpenAI(batches=FakeBatches()) as fake:
        limited = batching(settings, fake, llm_run_spend_limit_usd=10.0, **PRICE)
        with pytest.raises(Waiting):
            ask(limited)
        auto.execute("UPDATE heal.llm_batch SET sent_at = sent_at - interval '25 hours'")
        made = ask(limited)
        assert len(fake.batches.jobs) == 1
        assert made.counts["over_spend_limit"] == 60 - len(fake.batched) > 0
        assert not fake.requests


def test_large_corpora_take_several_batches(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.questions.llm.batch_api.MAX_REQUESTS", 40)
    add(auto, range(100))
    with FakeOpenAI(batches=FakeBatches()) as fake:
        made = to_end(batching(settings, fake))
        assert sorted(len(job.requests) for job in fake.batches.jobs.values()) == [20, 40, 40]
        assert len(fake.probes) == 1
    assert made.counts["asked"] == 100
    assert made.counts["input_tokens"] == fake.input_tokens
    check_ledger(auto, fake)


def test_auto_takes_a_batch_only_where_it_pays(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(auto, range(20))
    with FakeOpenAI(batches=FakeBatches()) as fake:
        assert to_end(batching(settings, fake, llm_batch="auto")).counts["asked"] == len(fake.requests) == 20
        monkeypatch.setattr("heal_tasks.steps.writing.llm_batches.AUTO_CHUNKS", 20)
        again = batching(settings, fake, llm_batch="auto", llm_model="other")
        assert to_end(again, "r2").counts["asked"] == len(fake.batched) == 20


def test_an_endpoint_without_the_batch_api(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heal_tasks.steps.writing.llm_batches.AUTO_CHUNKS", 1)
    add(auto, range(3))
    with FakeOpenAI() as fake:
        with pytest.raises(SettingsError, match="has no Batch API"):
            ask(batching(settings, fake))
        assert ask(batching(settings, fake, llm_batch="auto")).counts["asked"] == len(fake.requests) == 3


def test_plan_counts_with_the_price_of_a_batch(auto: Connection, settings: Settings) -> None:
    add(auto, range(30))
    (settings.var_dir / "inbox").mkdir()
    realigning = {"force_route": "realign", **PRICE}
    with FakeOpenAI(batches=FakeBatches(polls=0)) as fake:
        single, few, batched = (
            sum(make_plan(with_llm(settings, fake, llm_batch=batch, **realigning)).questions.costs_usd)
            for batch in ("off", "auto", "on")
        )
        assert single == few == pytest.approx(2 * batched)
        with pytest.raises(Waiting):
            ask(batching(settings, fake))
        assert make_plan(with_llm(settings, fake, **realigning)).questions.chunks == 0
