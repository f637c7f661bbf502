"""Refused keys, accounts without credit, endpoints that hang, go away or cannot be reached."""

import socket
import threading
from collections import Counter
from typing import Any

import pytest

from heal_tasks.core.errors import RetryableError, SettingsError
from heal_tasks.endpoint.endpoint import EndpointConfig
from heal_tasks.questions.llm.client import LLM
from heal_tasks.questions.llm.question_prompt import question_prompt
from tests.fake_openai import FakeOpenAI, Reply, Request, error
from tests.questions.llm_writers import SOON, always, by_chunk, chunk, chunks, good, tokens, writer


def test_a_server_error_that_stays_fails_only_its_chunk() -> None:
    def rule(request: Request) -> Reply | None:
        return error(500, "broken", **SOON) if "number3 " in request.passage else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake)(chunks(8)))
    failed = [written for written in results if written.status == "failed"]
    assert [written.chunk.chunk_id for written in failed] == [3]
    assert "broken" in failed[0].calls[-1].raw_reply
    assert not failed[0].value
    assert len(results) == 8


def test_a_timeout_fails_the_chunk() -> None:
    def rule(request: Request) -> Reply:
        return good(request, delay_s=0.6 if "number1 " in request.passage else 0)

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, timeout_s=0.2, max_retries=0)([chunk(0), chunk(1), chunk(2)]))
    assert by_chunk(results) == {0: "ok", 1: "failed", 2: "ok"}


def test_a_server_that_never_answers_in_time_is_a_retryable_error() -> None:
    expected = pytest.raises(RetryableError, match=r"does not answer: APITimeoutError.*run the step again")
    with FakeOpenAI(slow := lambda request: good(request, delay_s=0.5), slow) as fake, expected:
        list(writer(fake, timeout_s=0.1, max_retries=0)([chunk(1)]))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_rejected_key_or_model_stops_the_run_and_names_the_cure(status: int) -> None:
    expected = pytest.raises(SettingsError, match="HEAL_LLM_API_KEY and HEAL_LLM_MODEL")
    with (
        FakeOpenAI(no := lambda request: error(status, "no access with secret-key-123"), no) as fake,
        expected as caught,
    ):
        list(writer(fake)(chunks(50)))
    assert "secret-key-123" not in str(caught.value)
    assert len(fake.requests) == 0


def test_403_for_one_text_after_others_worked_is_moderation() -> None:
    def rule(request: Request) -> Reply | None:
        return error(403, "flagged") if "number2 " in request.passage else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, concurrency=1)(chunks(4)))
    assert Counter(written.status for written in results) == {"ok": 3, "failed": 1}


def test_an_unreachable_endpoint_is_a_retryable_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = EndpointConfig(f"http://127.0.0.1:{port}/v1", None, "m", timeout_s=1, max_retries=0)
    with pytest.raises(RetryableError, match=f"127.0.0.1:{port}/v1 does not answer"):
        list(LLM(config, 2).ask(question_prompt(3), chunks(20)))


def test_an_outage_in_the_middle_stops_the_run_and_keeps_what_was_paid() -> None:
    lock, answered = threading.Lock(), Counter[str]()

    def rule(request: Request) -> Reply | None:
        with lock:
            answered["all"] += 1
            return None if answered["all"] <= 10 else error(503, "down", x_should_retry="false")

    results = []
    with FakeOpenAI(rule) as fake, pytest.raises(RetryableError, match="down"):
        for written in writer(fake, concurrency=2)(chunks(500)):
            results.append(written)
    assert sum(written.status == "ok" for written in results) == 10
    assert len(fake.requests) < 30


@pytest.mark.parametrize(
    "reply", [error(429, "over your quota", code="insufficient_quota"), error(402, "over your quota")], ids=[429, 402]
)
def test_an_account_without_credit_stops_the_run(reply: Reply) -> None:
    expected = pytest.raises(SettingsError, match=r"no credit left: .*over your quota.*; add credit")
    with FakeOpenAI(always(reply)) as fake, expected:
        list(writer(fake)(chunks(50)))
    assert len(fake.requests) <= 4


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_an_endpoint_that_hangs_fails_its_chunk_and_the_run_goes_on(fault: Any) -> None:
    def rule(request: Request) -> Reply | None:
        return Reply("{", fault=fault) if "number1 " in request.passage else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, timeout_s=0.7)(chunks(4)))
    assert by_chunk(results) == {0: "ok", 1: "failed", 2: "ok", 3: "ok"}
    # The SDK repeats a timeout as often as any other failure.
    assert len(fake.requests) == 6
    assert tokens(results) == (fake.input_tokens, fake.output_tokens)


def test_an_endpoint_that_starts_to_hang_stops_the_run() -> None:
    def rule(request: Request) -> Reply | None:
        return Reply("", fault="hang") if int(request.title.split()[1]) >= 5 else None

    with FakeOpenAI(rule) as fake, pytest.raises(RetryableError, match="does not answer: APITimeoutError"):
        list(writer(fake, timeout_s=0.4, max_retries=0)(chunks(300)))
    assert len(fake.requests) < 25
