"""The LLM writer against a real HTTP server: every way a reply can be bad, and no chunk lost."""

import json
import socket
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import openai
import pytest

from heal_tasks.core.errors import RetryableError, SettingsError
from heal_tasks.questions.filters import apply_filters
from heal_tasks.questions.llm.client import LLM, LLMWriter, question_inquiry
from heal_tasks.questions.llm.prompts import Reply as ReplyModel
from heal_tasks.questions.writer import ChunkToAsk, Written
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error, queries
from tests.questions.llm_writers import chunk, writer

FAST = {"retry_after_ms": "1"}


def good(request: Request, **options: Any) -> Reply:
    return completion(json.dumps({"items": queries(request.passage)}), **options)


def one(fake: FakeOpenAI, asked: ChunkToAsk | None = None, **overrides: Any) -> Written:
    """What was written of one chunk, without the probe's calls."""
    (written,) = writer(fake, **overrides).write([asked or chunk(1)])
    return replace(written, calls=tuple(call for call in written.calls if "capability probe" not in call.raw_reply))


def statuses(written: Written) -> list[str]:
    return [call.status for call in written.calls]


def test_writes_drafts_that_pass_the_filters() -> None:
    with FakeOpenAI() as fake:
        written = one(fake)
    assert statuses(written) == ["ok"]
    kept, dropped = apply_filters(written.drafts, written.chunk)
    assert [draft.kind for draft in kept] == ["question", "keyword", "claim"]
    assert not dropped
    body = fake.requests[0].body
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["temperature"] == 0.7
    assert written.calls[0].input_tokens == 100
    assert written.calls[0].output_tokens == 20
    assert 0 < written.calls[0].latency_s < 5
    assert json.loads(written.calls[0].raw_reply)["items"]


def test_schema_is_the_one_the_sdk_would_send() -> None:
    with FakeOpenAI() as fake:
        one(fake)
        client = openai.OpenAI(base_url=fake.base_url, api_key="x")
        client.chat.completions.parse(model="m", messages=fake.requests[0].body["messages"], response_format=ReplyModel)
    assert fake.requests[0].body["response_format"] == fake.requests[1].body["response_format"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_throttling_and_server_errors_are_retried(status: int) -> None:
    with FakeOpenAI(lambda request: error(status, "later", **FAST) if request.attempt < 2 else None) as fake:
        written = one(fake)
    assert statuses(written) == ["ok"]
    assert len(fake.requests) == 3


def test_a_server_error_that_stays_fails_only_its_chunk() -> None:
    def rule(request: Request) -> Reply | None:
        return error(500, "broken", **FAST) if "number3 " in request.passage else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake).write([chunk(number) for number in range(8)]))
    failed = [written for written in results if written.status == "failed"]
    assert [written.chunk.chunk_id for written in failed] == [3]
    assert "broken" in failed[0].calls[-1].raw_reply
    assert not failed[0].drafts
    assert len(results) == 8


def test_refusal_is_final() -> None:
    with FakeOpenAI(lambda request: completion(None, refusal="I cannot help with that.")) as fake:
        written = one(fake)
    assert statuses(written) == ["refused"]
    assert written.calls[0].raw_reply == "I cannot help with that."
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [completion('{"items": []}', finish_reason="content_filter"), error(400, "filtered", code="content_filter")],
    ids=["finish reason", "error 400"],
)
def test_content_filter_counts_as_refused(reply: Reply) -> None:
    with FakeOpenAI(lambda request: reply) as fake:
        assert statuses(one(fake)) == ["refused"]
    assert len(fake.requests) == 1


BAD_REPLIES = {
    "truncated json": completion('{"items": [{"type": "question", "query": "What'),
    "wrong schema": completion('{"questions": ["What?"]}'),
    "wrong kind": completion('{"items": [{"type": "riddle", "query": "q", "answer": "a", "evidence_quote": "e"}]}'),
    "empty": completion(""),
    "null": completion(None),
    "prose": completion("Sure! Here are some questions."),
    "no choices": Reply({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}),
    "error with status 200": Reply({"error": {"message": "overloaded"}}),
    "not json": Reply("<html>maintenance</html>"),
    "deeply nested": completion("[" * 20_000),
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_an_invalid_reply_is_asked_for_twice_more(reply: Reply) -> None:
    with FakeOpenAI(lambda request: reply) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid"] * 3
    assert len(fake.requests) == 3
    assert not written.drafts
    correction = fake.requests[1].body["messages"][-1]
    assert correction["role"] == "user"
    assert "could not be used" in correction["content"]


def test_the_validation_error_is_told_and_the_second_reply_taken() -> None:
    def rule(request: Request) -> Reply:
        return BAD_REPLIES["wrong kind"] if request.attempt == 0 else good(request)

    with FakeOpenAI(rule) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid", "ok"]
    assert len(written.drafts) == 3
    correction = fake.requests[1].body["messages"][-1]["content"]
    assert "items.0.type: Input should be 'question', 'keyword' or 'claim'" in correction
    assert len(fake.requests[0].body["messages"]) == 2


def test_a_reply_cut_off_is_asked_for_once_with_twice_the_limit() -> None:
    with FakeOpenAI(lambda request: completion('{"items": [', finish_reason="length")) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid", "invalid"]
    assert [request.body["max_tokens"] for request in fake.requests] == [2048, 4096]


def test_a_complete_reply_at_the_limit_is_taken() -> None:
    with FakeOpenAI(lambda request: good(request, finish_reason="length")) as fake:
        assert statuses(one(fake)) == ["ok"]


def test_no_questions_is_an_answer() -> None:
    with FakeOpenAI(lambda request: completion('{"items": []}')) as fake:
        written = one(fake)
    assert statuses(written) == ["ok"]
    assert written.drafts == ()


def test_a_timeout_fails_the_chunk() -> None:
    def rule(request: Request) -> Reply:
        return good(request, delay_s=0.6 if "number1 " in request.passage else 0)

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, timeout_s=0.2, max_retries=0).write([chunk(0), chunk(1), chunk(2)]))
    assert {written.chunk.chunk_id: written.status for written in results} == {0: "ok", 1: "failed", 2: "ok"}


def test_a_server_that_never_answers_in_time_is_worth_a_retry() -> None:
    expected = pytest.raises(RetryableError, match=r"does not answer: APITimeoutError.*run the step again")
    with FakeOpenAI(slow := lambda request: good(request, delay_s=0.5), slow) as fake, expected:
        list(writer(fake, timeout_s=0.1, max_retries=0).write([chunk(1)]))


def _older_server(*, json_object: bool) -> Any:
    def rule(request: Request) -> Reply | None:
        kind = request.body.get("response_format", {}).get("type", "text")
        if kind == "json_schema" or (kind == "json_object" and not json_object):
            return error(400, f"response_format {kind} is not supported")
        return (
            None if json_object else completion(f"Sure:\n```json\n{json.dumps(queries(request.passage))}\n```\nDone.")
        )

    return rule


@pytest.mark.parametrize("json_object", [True, False])
def test_a_server_without_json_schema_is_asked_more_simply_from_then_on(json_object: bool) -> None:
    rule = _older_server(json_object=json_object)
    with FakeOpenAI(
        rule, lambda request: refusal if (refusal := rule(request)) and refusal.status == 400 else None
    ) as fake:
        results = list(writer(fake, concurrency=1).write([chunk(number) for number in range(4)]))
    assert [statuses(written) for written in results] == [["ok", "ok"], ["ok"], ["ok"], ["ok"]]
    assert all(len(written.drafts) == 3 for written in results)
    assert len(fake.requests) == 4
    assert len(fake.probes) == (2 if json_object else 3)


def test_a_server_that_refuses_the_schema_of_chunks_only_is_asked_more_simply_from_then_on() -> None:
    with FakeOpenAI(_older_server(json_object=False)) as fake:
        results = list(writer(fake, concurrency=1).write([chunk(number) for number in range(4)]))
    assert [written.status for written in results] == ["ok"] * 4
    assert len(fake.requests) == 6


def test_fields_the_server_names_are_changed() -> None:
    def rule(request: Request) -> Reply | None:
        if "max_tokens" in request.body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return error(400, "'temperature' does not support 0.7") if "temperature" in request.body else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, concurrency=1).write([chunk(1), chunk(2)]))
    assert [written.status for written in results] == ["ok", "ok"]
    assert fake.requests[-1].body["max_completion_tokens"] == 2048
    assert fake.requests[-1].body["response_format"]["type"] == "json_schema"
    assert len(fake.requests) == 4


def test_a_request_that_no_dialect_saves_fails_its_chunk() -> None:
    with FakeOpenAI(lambda request: error(400, "never")) as fake:
        written = one(fake)
    assert statuses(written) == ["failed"]
    assert len(fake.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_rejected_key_or_model_stops_the_run_and_names_the_cure(status: int) -> None:
    expected = pytest.raises(SettingsError, match="HEAL_LLM_API_KEY and HEAL_LLM_MODEL")
    with (
        FakeOpenAI(no := lambda request: error(status, "no access with secret-key-123"), no) as fake,
        expected as caught,
    ):
        list(writer(fake).write([chunk(number) for number in range(50)]))
    assert "secret-key-123" not in str(caught.value)
    assert len(fake.requests) == 0


def test_403_for_one_text_after_others_worked_is_moderation() -> None:
    def rule(request: Request) -> Reply | None:
        return error(403, "flagged") if "number2 " in request.passage else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, concurrency=1).write([chunk(number) for number in range(4)]))
    assert Counter(written.status for written in results) == {"ok": 3, "failed": 1}


def test_an_unreachable_endpoint_is_worth_a_retry() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asker = LLMWriter(
        LLM(f"http://127.0.0.1:{port}/v1", None, "m", concurrency=2, timeout_s=1, max_retries=0), question_inquiry(3, 0)
    )
    with pytest.raises(RetryableError, match=f"127.0.0.1:{port}/v1 does not answer"):
        list(asker.write([chunk(number) for number in range(20)]))


def test_an_outage_in_the_middle_stops_the_run_and_keeps_what_was_paid() -> None:
    lock, answered = threading.Lock(), Counter[str]()

    def rule(request: Request) -> Reply | None:
        with lock:
            answered["all"] += 1
            return None if answered["all"] <= 10 else error(503, "down", x_should_retry="false")

    results = []
    with FakeOpenAI(rule) as fake, pytest.raises(RetryableError, match="down"):
        for written in writer(fake, concurrency=2).write([chunk(number) for number in range(500)]):
            results.append(written)
    assert sum(written.status == "ok" for written in results) == 10
    assert len(fake.requests) < 30


def test_many_faults_at_once_lose_no_chunk_and_no_token() -> None:
    faults = [
        lambda request: error(429, "slow down", **FAST),
        lambda request: error(500, "oops", **FAST),
        lambda request: completion("{", usage=(7, 3)),
        lambda request: completion("[1, 2", finish_reason="length", usage=(11, 5)),
        lambda request: completion(None, refusal="no", usage=(13, 1)),
        lambda request: Reply({"choices": []}),
        lambda request: good(request, usage=None),
    ]

    def rule(request: Request) -> Reply | None:
        number = int(request.title.split()[1])
        return faults[number % 8](request) if number % 8 < len(faults) and request.attempt == 0 else None

    chunks = [chunk(number) for number in range(160)]
    seen: list[tuple[int, int]] = []
    with FakeOpenAI(rule) as fake:
        results = list(
            writer(fake, concurrency=8).write(chunks, lambda done, total, message="": seen.append((done, total)))
        )
    assert sorted(written.chunk.chunk_id for written in results) == list(range(160))
    assert Counter(written.status for written in results) == {"ok": 140, "refused": 20}
    assert sum(call.input_tokens for written in results for call in written.calls) == fake.input_tokens
    assert sum(call.output_tokens for written in results for call in written.calls) == fake.output_tokens
    assert fake.input_tokens > 10_000
    assert seen == [(done, 160) for done in range(1, 161)]


def test_concurrency_is_used_and_never_exceeded() -> None:
    with FakeOpenAI(lambda request: good(request, delay_s=0.03)) as fake:
        assert len(list(writer(fake, concurrency=3).write([chunk(number) for number in range(24)]))) == 24
    assert fake.most_in_flight == 3


def test_results_come_while_others_are_still_running_and_the_queue_is_bounded() -> None:
    release = threading.Event()

    def rule(request: Request) -> Reply:
        if "number1 " in request.passage:
            release.wait(5)
        return good(request)

    with FakeOpenAI(rule) as fake:
        running = writer(fake, concurrency=2).write([chunk(number) for number in range(100)])
        first = next(running)
        assert first.chunk.chunk_id != 1
        assert len(fake.requests) <= 6
        release.set()
        assert len(list(running)) == 99


def test_stopping_early_starts_no_further_call() -> None:
    with FakeOpenAI() as fake:
        running = writer(fake, concurrency=2).write([chunk(number) for number in range(100)])
        next(running)
        running.close()  # type: ignore[attr-defined]
        assert len(fake.requests) <= 6


def test_key_is_sent_but_appears_nowhere_else() -> None:
    with FakeOpenAI(lambda request: error(400, "bad key secret-key-123 in request")) as fake:
        asker = writer(fake)
        (written,) = asker.write([chunk(1)])
    assert fake.requests[0].headers["authorization"] == "Bearer secret-key-123"
    assert "secret-key-123" not in repr(written)
    assert "[key]" in written.calls[-1].raw_reply
    assert "secret-key-123" not in repr(asker)


def test_what_postgres_cannot_store_is_removed() -> None:
    item = {"type": "claim", "query": "a \x00 b \ud800 c d", "answer": "x\x00", "evidence_quote": "y"}
    with FakeOpenAI(lambda request: completion(json.dumps({"items": [item]}))) as fake:
        written = one(fake, chunk(1, "lone \ud800 surrogate and \x00 in a text"))
    assert statuses(written) == ["ok"]
    assert written.drafts[0].text == "a b ? c d"
    assert written.drafts[0].answer == "x"
    assert "\x00" not in written.calls[0].raw_reply
    written.calls[0].raw_reply.encode("utf-8")
