"""Bodies of replies: which error each one is, and values that no server may have."""

import json

import pytest

from heal_tasks.endpoint.calls import without_key
from heal_tasks.endpoint.complaints import WEB_PAGE, error_codes, error_status
from heal_tasks.questions.llm.question_prompt import parse_drafts
from heal_tasks.questions.llm.replies import read_completion
from tests.fake_openai import completion

GOOD = completion('{"items": []}').body

BODIES: list[tuple[object, int | None]] = [
    (GOOD, None),
    ({**GOOD, "error": None}, None),
    ({**GOOD, "error": {"code": 0, "message": ""}}, None),
    ({**GOOD, "base_resp": {"status_code": 0, "status_msg": "success"}}, None),
    ({"choices": [], "error": None}, None),
    ({"id": "x", "status": "fine"}, None),
    ({"error": {"code": "429", "message": "x"}}, 429),
    ({"error": {"code": 429, "type": "insufficient_quota", "message": "x"}}, 402),
    ({"error": {"type": "overloaded_error", "message": "Overloaded"}, "type": "error"}, 503),
    ({"error": "model 'x' not found, try pulling it first"}, 404),
    ({"error": {"message": "Rate limit reached for requests"}}, 429),
    ({"error": {"message": "???"}}, 500),
    ({"error": {"code": 1113, "message": "余额不足"}}, 402),
    ({"error": {"code": "AccessDenied", "message": "x"}}, 403),
    ({"error": {"code": "context_length_exceeded", "message": "x"}}, 400),
    ({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail: carry the key"}}, 401),
    ({"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]}, 401),
    ({"code": "Throttling", "message": "x"}, 429),
    ({"detail": [{"loc": ["body", "seed"], "msg": "extra"}]}, 422),
    ({"message": "no Route matched with those values"}, 500),
    ([{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "x"}}], 400),
    ({"choices": [{"error": {"code": 502, "message": "x"}}]}, 502),
    ({"choices": [{"finish_reason": "error", "message": {"content": "a"}}]}, 500),
    ({"error": [{"code": 402, "message": "x"}]}, 402),
    ({"error": {"code": 429.0}}, 429),
    ({"error": {"code": "429 Too Many Requests"}}, 429),
    ({"detail": {"message": "x", "code": "insufficient_quota"}}, 402),
    ({"Message": "User is not authorized to access this resource"}, 401),
    ({"errorMessage": "x", "errorCode": "ThrottlingException"}, 429),
    ({"fault": {"faultstring": "x", "detail": {"errorcode": "policies.ratelimit.QuotaViolation"}}}, 429),
    ({"type": "about:blank", "title": "Payment Required", "status": 402}, 402),
    ({"statusCode": 503, "body": "x"}, 503),
    ({"error": {"code": 5000, "message": "x"}}, 500),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=[json.dumps(body)[:60] for body, _ in BODIES])
def test_a_body_with_status_200(body: object, status: int | None) -> None:
    assert error_status(200, json.dumps(body), "choices") == status
    assert error_status(200, "\ufeff \n" + json.dumps(body), "choices") == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("<html>", WEB_PAGE),
        ("\ufeff\n<!DOCTYPE html>", WEB_PAGE),
        ("", 502),
        ('{"choices": [{"mess', 502),
        ("[" * 100_000, 502),
        ("Too Many Requests", 429),
        ("Service Unavailable", 503),
    ],
)
def test_a_body_that_is_no_json(body: str, status: int) -> None:
    assert error_status(200, body, "choices") == status


@pytest.mark.parametrize(
    ("http_status", "body", "status"),
    [
        (429, {"error": {"code": "insufficient_quota"}}, 402),
        (500, {"error": {"message": "the input length exceeds the context length"}}, 413),
        (500, {"error": {"message": "input buffer lost"}}, 500),
        (429, [{"error": {"message": "check your plan and billing details", "status": "RESOURCE_EXHAUSTED"}}], 429),
        (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}, 402),
        (400, {"error": {"code": 500}}, 400),
        (500, "<html>", 500),
    ],
)
def test_another_status_stays_unless_the_account_has_no_credit(http_status: int, body: object, status: int) -> None:
    assert error_status(http_status, json.dumps(body) if not isinstance(body, str) else body, "choices") == status


def test_what_is_no_completion_may_have_any_fields() -> None:
    batch = {"id": "b", "status": "failed", "errors": {"data": [{"code": "x"}]}}
    assert error_status(200, json.dumps(batch)) is None
    assert error_status(200, json.dumps({"error": {"code": 401}})) == 401


def test_codes_are_found_wherever_the_error_is() -> None:
    found = {"error": {"code": "content_filter"}}
    for body in (found, [found], {"choices": [found]}):
        assert "content_filter" in error_codes(json.dumps(body))


@pytest.mark.parametrize("count", [-5, 10**30, "many", [1], float("inf")])
def test_impossible_token_counts_are_guessed(count: object) -> None:
    body = json.dumps({**GOOD, "usage": {"prompt_tokens": count, "completion_tokens": count}})
    call = read_completion(body, parse_drafts, 0.0, 300).call
    assert (call.input_tokens, call.output_tokens, call.guessed_tokens) == (0, 0, (100, 5))


def test_of_a_reply_with_far_too_many_questions_the_first_are_read() -> None:
    item = {"type": "claim", "query": "q", "answer": "a", "evidence_quote": "e"}
    assert len(parse_drafts(json.dumps({"items": [{**item, "query": f"q {number}"} for number in range(5000)]}))) == 50


def test_texts_and_stored_replies_are_bounded() -> None:
    item = {"type": "claim", "query": "q" * 10**6, "answer": "a" * 10**6, "evidence_quote": "e" * 10**6}
    reply = read_completion(json.dumps(completion(json.dumps({"items": [item]})).body), parse_drafts)
    assert reply.value is not None
    assert [len(text) for text in (reply.value[0].text, reply.value[0].answer, reply.value[0].evidence)] == [4000] * 3
    assert len(reply.call.raw_reply) == 20_000


@pytest.mark.parametrize("url", ["http://me:pass-word@host/v1", "https://me:p@ss-word@host", "//pass-word@host"])
def test_no_message_has_the_user_of_a_url(url: str) -> None:
    assert "ss-word" not in without_key(f"the endpoint {url} failed", None)
    assert "host" in without_key(url, None)
