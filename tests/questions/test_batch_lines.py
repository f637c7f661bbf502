"""Files of a batch: lines are divided into batches, and every result line is read by itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.questions.llm import batch_api
from heal_tasks.questions.llm.batch_api import batch_sizes, read_line, request_line
from heal_tasks.questions.llm.question_prompt import parse_drafts
from heal_tasks.questions.llm.replies import ParsedReply
from tests.fake_openai import completion, queries

GOOD = completion(json.dumps({"items": queries("Copper melts at a high temperature in air.")}), usage=(11, 5)).body


def line(body: Any = None, status: int = 200, problem: Any = None) -> str:
    response = None if body is None else {"status_code": status, "body": body}
    return json.dumps({"id": "x", "custom_id": "h", "response": response, "error": problem})


def read(text: str) -> ParsedReply[Any] | None:
    found = read_line(text, parse_drafts)
    assert found is not None
    assert found[0] == "h"
    return found[1]


def reply_in(text: str) -> ParsedReply[Any]:
    found = read(text)
    assert found is not None
    return found


@given(st.lists(st.integers(1, 60)), st.integers(1, 5), st.integers(20, 100))
def test_batches_hold_every_line_once_and_are_as_large_as_they_may_be(
    lines: list[int], most: int, most_bytes: int
) -> None:
    rest, batches = lines, list[list[int]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_api, "MAX_REQUESTS", most)
        patch.setattr(batch_api, "MAX_FILE_BYTES", most_bytes)
        for size in batch_sizes(lines):
            batches, rest = [*batches, rest[:size]], rest[size:]
    assert not rest
    assert [length for batch in batches for length in batch] == lines
    for number, batch in enumerate(batches):
        assert len(batch) == 1 or (len(batch) <= most and sum(batch) <= most_bytes)
        if number + 1 < len(batches):
            assert len(batch) == most or sum(batch) + batches[number + 1][0] > most_bytes


def test_a_request_is_one_line_whatever_the_text() -> None:
    sent = request_line("h", "m", [{"role": "user", "content": "a\nb\u2028c\x00 \ud800"}], {"max_tokens": 5})
    assert sent.count(b"\n") == 1
    assert sent.isascii()
    found = json.loads(sent)
    assert found["custom_id"] == "h"
    assert found["url"] == "/v1/chat/completions"
    assert found["body"]["max_tokens"] == 5


def test_a_good_line() -> None:
    reply = reply_in(line(GOOD))
    assert len(reply.value or ()) == 3
    assert (reply.call.status, reply.call.input_tokens, reply.call.output_tokens) == ("ok", 11, 5)


@pytest.mark.parametrize(
    ("text", "status", "kept"),
    [
        (line(completion("no JSON").body), "invalid", "no JSON"),
        (line(completion(None, refusal="never").body), "refused", "never"),
        (line({"choices": []}), "invalid", "choices"),
        (line("down for maintenance"), "failed", "maintenance"),
        (line({"error": {"code": "server_error", "message": "broken"}}, 500), "failed", "broken"),
        (line({"error": {"code": "content_filter", "message": "moderated"}}, 400), "refused", "moderated"),
        (line(None, problem={"code": "content_policy_violation", "message": "moderated"}), "refused", "moderated"),
        (line({"error": {"code": 17}}, 400), "failed", "17"),
        (line({"error": "plain"}, 400), "failed", "plain"),
        (line([1, 2], 502), "failed", "502"),
        (line(), "failed", "custom_id"),
    ],
)
def test_a_rejected_line_is_kept_as_it_came(text: str, status: str, kept: str) -> None:
    reply = reply_in(text)
    assert reply.value is None
    assert reply.call.status == status
    assert kept in reply.call.raw_reply


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled"])
def test_a_request_that_never_ran_has_no_reply(code: str) -> None:
    assert read(line(None, problem={"code": code, "message": "too late"})) is None


def test_tokens_of_a_failed_line_are_paid() -> None:
    body = {"error": {"code": "x", "message": "y"}, "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    call = reply_in(line(body, 500)).call
    assert (call.input_tokens, call.output_tokens) == (7, 2)


def test_a_line_that_is_cut_off_says_so() -> None:
    reply = reply_in(line(completion('{"items": [', finish_reason="length").body))
    assert reply.cut_off
    assert reply.call.status == "invalid"


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)).map(json.dumps))
def test_a_line_without_a_custom_id_is_ignored(text: str) -> None:
    assert read_line(text, parse_drafts) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["choices", "message", "content", "error", "usage"]), inner, max_size=3)
        ),
    ),
    st.integers(100, 599),
)
def test_no_body_breaks_the_reader(body: Any, status: int) -> None:
    assert read(line(body, status)) is not None
