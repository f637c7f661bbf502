"""Paid batches are found again: after a kill at any place, a restart of the server, by a later run."""

from typing import Any

import pytest

from heal_tasks.core.errors import RetryableError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.batch_api import BatchApi
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.engine.runner import Waiting
from heal_tasks.steps.writing.batch_collector import BatchAnswers
from heal_tasks.steps.writing.batch_sending import BATCH_POLL_S
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.llm.batches import Batch, BatchRepository
from tests.fake_batches import FakeBatches, Job
from tests.fake_openai import FakeOpenAI, Reply
from tests.steps.asking import add, ask, number, step_process, wait_until, with_llm
from tests.steps.batching import answered, batching, check_ledger, to_end


def test_waiting_names_its_batches_and_sends_nothing_again(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))
    memory = FakeBatches(polls=0)
    with FakeOpenAI(batches=memory) as fake:
        for _ in range(3):
            with pytest.raises(Waiting, match=r"5 chunks in 1 batches \(batch_0\)") as found:
                ask(batching(settings, fake))
            assert found.value.batch_ids == ["batch_0"]
            assert 86000 < found.value.wait_s <= 86400
        assert len(memory.jobs) == 1
        assert len(fake.probes) == 1
        message = number(auto, "SELECT message FROM heal.step_result WHERE step = 'ask'")
        assert message.startswith("waiting for 5 chunks")
        port = int(fake.base_url.split(":")[2].split("/")[0])
    memory.polls = 1
    with FakeOpenAI(batches=memory, port=port) as restarted:
        made = to_end(batching(settings, restarted))
    assert made.counts["asked"] == 5
    assert len(memory.jobs) == 1
    assert not memory.files, "what was sent and what came back is deleted at the endpoint"


def lost_reply(job: Job) -> Reply:
    return Reply(job.body, fault="drop")


def test_a_batch_whose_creation_was_cut_off_is_found_again(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))
    memory = FakeBatches(on_create=lost_reply)
    with FakeOpenAI(batches=memory) as fake:
        with pytest.raises(RetryableError, match="does not answer"):
            ask(batching(settings, fake))
        assert number(auto, "SELECT state FROM heal.llm_batch") == "sending"
        made = to_end(batching(settings, fake))
        assert len(memory.jobs) == 1
        assert not fake.requests
    assert made.counts["asked"] == 5
    check_ledger(auto, fake)


def test_a_creation_that_did_not_happen_is_repeated_when_it_is_certain(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))
    memory = FakeBatches()

    def forget(job: Job) -> Reply:
        memory.jobs.clear()
        return Reply({}, fault="drop")

    memory.on_create = forget
    with FakeOpenAI(batches=memory) as fake:
        with pytest.raises(RetryableError):
            ask(batching(settings, fake))
        memory.on_create = None
        with pytest.raises(Waiting) as found:
            ask(batching(settings, fake))
        assert found.value.batch_ids == []
        assert found.value.wait_s == BATCH_POLL_S
        auto.execute("UPDATE heal.llm_batch SET sent_at = sent_at - interval '1 hour'")
        made = to_end(batching(settings, fake))
    assert made.counts["asked"] == 5
    assert len(memory.files) == 0
    check_ledger(auto, fake)


@pytest.mark.parametrize("place", ["upload", "sending"])
def test_a_kill_before_anything_was_created_leaves_nothing(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    add(auto, range(5))

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with FakeOpenAI(batches=FakeBatches()) as fake:
        limited = batching(settings, fake, llm_run_spend_limit_usd=100)
        with monkeypatch.context() as patch:
            patch.setattr(BatchApi if place == "upload" else BatchRepository, place, die)
            with pytest.raises(KeyboardInterrupt):
                ask(limited)
        assert number(auto, "SELECT state FROM heal.llm_batch") == "planned"
        assert number(auto, "SELECT count(*) FROM heal.llm_reservation") == 5
        made = to_end(limited)
        assert len(fake.batches.jobs) == 1
    assert made.counts["asked"] == 5
    check_ledger(auto, fake)


def test_a_kill_while_collecting_pays_and_counts_nothing_twice(
    auto: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(auto, range(180))
    take, taken = BatchAnswers.take, list[int]()

    def die_later(self: BatchAnswers, replies: Any) -> None:
        taken.append(len(replies))
        if len(taken) == 3:
            raise KeyboardInterrupt
        take(self, replies)

    with FakeOpenAI(batches=FakeBatches()) as fake:
        with monkeypatch.context() as patch:
            patch.setattr(BatchAnswers, "take", die_later)
            with pytest.raises(KeyboardInterrupt):
                to_end(batching(settings, fake))
        assert answered(auto) == 100
        made = to_end(batching(settings, fake))
        assert len(fake.batches.jobs) == 1
        assert not fake.requests
    assert made.counts["asked"] == answered(auto) == 180
    assert made.counts["kept"] == number(auto, "SELECT count(*) FROM heal.question")
    check_ledger(auto, fake)
    assert made.counts["input_tokens"] == fake.input_tokens


def test_a_later_run_collects_what_an_earlier_one_has_paid(auto: Connection, settings: Settings) -> None:
    add(auto, range(12))
    memory = FakeBatches(polls=0)
    with FakeOpenAI(batches=memory) as fake:
        for shard in range(2):
            with pytest.raises(Waiting):
                ask(batching(settings, fake), shard=shard, shards=2)
        assert len(memory.jobs) == 2
        memory.polls = 1
        # Another number of shards, and batches switched off in the meantime.
        made = to_end(with_llm(settings, fake), "r2")
        assert made.counts["asked"] == answered(auto) == 12
        assert not fake.requests
        assert set(auto.execute("SELECT DISTINCT run_id FROM heal.llm_call").fetchall()) == {("r1",)}
        check_ledger(auto, fake)
        sent = fake.input_tokens
        assert to_end(batching(settings, fake), "r3").counts["asked"] == 0
        assert fake.input_tokens == sent


def test_a_task_that_does_not_wait_leaves_texts_under_way_alone(auto: Connection, settings: Settings) -> None:
    add(auto, range(6))
    with FakeOpenAI(batches=FakeBatches(polls=0)) as fake:
        with pytest.raises(Waiting):
            ask(batching(settings, fake))
        add(auto, range(6, 10))
        nudging = Manifest(run_id="r2", refs={"route": "nudge"})
        made = load_step("ask").run(batching(settings, fake), nudging)
        assert (made.counts["asked"], made.counts["under_way"]) == (4, 6)
        assert "6 chunks are in a batch" in made.note
        assert len(fake.requests) == 4


def test_a_process_killed_while_it_sends_leaves_a_batch_that_is_found(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))
    memory = FakeBatches(on_create=lambda job: Reply(job.body, fault="hang"))
    with FakeOpenAI(batches=memory) as fake:
        with step_process(settings, fake, "ask", HEAL_LLM_BATCH="on", HEAL_LLM_RUN_SPEND_LIMIT_USD="5"):
            wait_until(lambda: bool(memory.jobs), timeout_s=120)
        assert number(auto, "SELECT state FROM heal.llm_batch") == "sending"
        memory.on_create = None
        made = to_end(batching(settings, fake, llm_run_spend_limit_usd=5))
        assert len(memory.jobs) == 1
    assert made.counts["asked"] == answered(auto) == 5
    check_ledger(auto, fake)


def test_two_tasks_at_once_neither_send_nor_collect_the_same(auto: Connection, settings: Settings) -> None:
    add(auto, range(5))
    with FakeOpenAI(batches=FakeBatches()) as fake:
        with pytest.raises(Waiting):
            ask(batching(settings, fake))
        key = number(auto, "SELECT batch_key FROM heal.llm_batch")
        with connect(settings.require_database_url(), autocommit=True) as other:
            repository = BatchRepository(other, fake.base_url)
            texts = auto.execute("SELECT content_hash, chunk_id FROM heal.llm_batch_row").fetchall()
            asked = auto.execute("SELECT model, prompt_hash FROM heal.llm_batch").fetchall()[0]
            assert repository.plan(Batch("second", "r2", 0, *asked), texts) == set()
            with repository.holding(key) as held:
                assert held
                with pytest.raises(Waiting):
                    ask(batching(settings, fake))
                assert answered(auto) == 0
        assert to_end(batching(settings, fake)).counts["asked"] == 5
        assert len(fake.batched) == 5
