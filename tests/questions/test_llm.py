"""The LLM writer against a real HTTP server: every way a reply can be bad, and no chunk lost."""

import json
import threading

import openai
import pytest

from heal_tasks.questions.llm.question_prompt import Reply as ReplyModel
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error
from tests.questions.filtering import apply_filters
from tests.questions.llm_writers import KEY, chunk, chunks, good, one, statuses, writer


def test_writes_drafts_that_pass_the_filters() -> None:
    with FakeOpenAI() as fake:
        written = one(fake)
    assert statuses(written) == ["ok"]
    kept, dropped = apply_filters(written.value, written.chunk)
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
    "another object": Reply({"questions": []}),
    "deeply nested": completion("[" * 20_000),
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_an_invalid_reply_is_asked_for_twice_more(reply: Reply) -> None:
    with FakeOpenAI(lambda request: reply) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid"] * 3
    assert len(fake.requests) == 3
    assert not written.value
    correction = fake.requests[1].body["messages"][-1]
    assert correction["role"] == "user"
    assert "could not be used" in correction["content"]


def test_the_validation_error_is_told_and_the_second_reply_taken() -> None:
    def rule(request: Request) -> Reply:
        return BAD_REPLIES["wrong kind"] if request.attempt == 0 else good(request)

    with FakeOpenAI(rule) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid", "ok"]
    assert len(written.value) == 3
    correction = fake.requests[1].body["messages"][-1]["content"]
    assert "items.0.type: Input should be 'question', 'keyword' or 'claim'" in correction
    assert len(fake.requests[0].body["messages"]) == 2


@pytest.mark.parametrize("usage", [(100, 2048), (100, 2000), None])
def test_a_reply_cut_off_is_asked_for_once_with_twice_the_limit(usage: tuple[int, int] | None) -> None:
    with FakeOpenAI(lambda request: completion('{"items": [', finish_reason="length", usage=usage)) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid", "invalid"]
    assert [request.body["max_tokens"] for request in fake.requests] == [2048, 4096]


def test_a_reply_cut_off_before_the_limit_is_not_asked_for_again() -> None:
    with FakeOpenAI(lambda request: completion('{"items": [', finish_reason="length", usage=(1000, 24))) as fake:
        written = one(fake)
    assert statuses(written) == ["invalid"]
    assert written.calls[0].raw_reply.startswith("cut off after 24 tokens because the server's context was full; ")
    assert written.calls[0].raw_reply.endswith('a longer one: {"items": [')


def test_tokens_of_reasoning_that_only_the_total_has_count_as_output() -> None:
    body = completion('{"items": [', finish_reason="length", usage=(1000, 0)).body
    body["usage"]["total_tokens"] = 1000 + 2048
    with FakeOpenAI(lambda request: Reply(body) if not request.attempt else None) as fake:
        written = one(fake)
    assert [request.body["max_tokens"] for request in fake.requests] == [2048, 4096]
    assert [call.output_tokens for call in written.calls] == [2048, 20]


def test_a_complete_reply_at_the_limit_is_taken() -> None:
    with FakeOpenAI(lambda request: good(request, finish_reason="length")) as fake:
        assert statuses(one(fake)) == ["ok"]


def test_no_questions_is_an_answer() -> None:
    with FakeOpenAI(lambda request: completion('{"items": []}')) as fake:
        written = one(fake)
    assert statuses(written) == ["ok"]
    assert written.value == ()


def test_concurrency_is_used_and_never_exceeded() -> None:
    with FakeOpenAI(lambda request: good(request, delay_s=0.03)) as fake:
        assert len(list(writer(fake, concurrency=3)(chunks(24)))) == 24
    assert fake.most_in_flight == 3


def test_results_come_while_others_are_still_running_and_the_queue_is_bounded() -> None:
    release = threading.Event()

    def rule(request: Request) -> Reply:
        if "number1 " in request.passage:
            release.wait(5)
        return good(request)

    with FakeOpenAI(rule) as fake:
        running = writer(fake, concurrency=2)(chunks(100))
        first = next(running)
        assert first.chunk.chunk_id != 1
        assert len(fake.requests) <= 6
        release.set()
        assert len(list(running)) == 99


def test_stopping_early_starts_no_further_call() -> None:
    with FakeOpenAI() as fake:
        running = writer(fake, concurrency=2)(chunks(100))
        next(running)
        running.close()  # type: ignore[attr-defined]
        assert len(fake.requests) <= 6


def test_key_is_sent_but_appears_nowhere_else() -> None:
    with FakeOpenAI(lambda request: error(400, "bad key secret-key-123 in request")) as fake:
        asker = writer(fake)
        (written,) = asker([chunk(1)])
    assert fake.requests[0].headers["authorization"] == "Bearer secret-key-123"
    assert "secret-key-123" not in repr(written)
    assert "[key]" in written.calls[-1].raw_reply
    assert "secret-key-123" not in repr(asker)


def test_a_redirect_is_not_followed_and_named() -> None:
    with FakeOpenAI() as other:
        away = Reply("", 307, {"Location": f"{other.base_url}/chat/completions"})
        with FakeOpenAI(lambda request: away) as fake:
            written = one(fake)
    assert statuses(written) == ["failed"]
    assert f"redirects to {other.base_url}" in written.calls[0].raw_reply
    assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert not other.requests


def test_characters_that_postgres_cannot_store_are_replaced() -> None:
    item = {"type": "claim", "query": "a \x00 b \ud800 c d", "answer": "x\x00", "evidence_quote": "y"}
    with FakeOpenAI(lambda request: completion(json.dumps({"items": [item]}))) as fake:
        written = one(fake, chunk(1, "lone \ud800 surrogate and \x00 in a text"))
    assert statuses(written) == ["ok"]
    assert written.value[0].text == "a \ufffd b \ufffd c d"
    assert written.value[0].answer == "x\ufffd"
    assert "\x00" not in written.calls[0].raw_reply
    written.calls[0].raw_reply.encode("utf-8")
