"""Replies of language-model servers as people met them, each with what must come of it.

A mode that fails from the first request on is asked about the probe as well; the others begin with the first chunk.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heal_tasks.core.errors import HealError, RetryableError, SettingsError, StepError
from tests.fake_openai import Reply, Request, answer, completion, error

CHUNKS = 8
SOON = {"retry-after-ms": "1"}
GZIP = {"Content-Encoding": "gzip"}


@dataclass(frozen=True)
class Mode:
    """What a server does, and what a run over ``CHUNKS`` chunks makes of it.

    Attributes:
        rule: as of FakeOpenAI; None for its default.
        fails: the error that ends the run, and a part of its message; None where the run ends well.
        calls: the most requests that the server may see, the probe's included.
        state: of all chunks afterwards (heal.question_state), or of those that were asked about.
        statuses: of calls in the ledger, the probe's aside.
        probe: the probe gets the same replies.
        retries: how often the SDK repeats a request; its pauses after faults of the connection are long.
    """

    rule: Callable[[Request], Reply | None]
    fails: tuple[type[HealError], str] | None
    calls: int
    state: str
    statuses: set[str]
    probe: bool = False
    retries: int = 1


def always(reply: Reply) -> Callable[[Request], Reply]:
    return lambda request: reply


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Request], Reply]:
    """The good reply, changed."""

    def rule(request: Request) -> Reply:
        reply = answer(request)
        change(reply.body)
        return reply

    return rule


def message(**fields: Any) -> Callable[[Request], Reply]:
    """The good reply with other fields in place of the message's content; ``CONTENT`` stands for that."""

    def change(body: dict[str, Any]) -> None:
        content = body["choices"][0]["message"].pop("content")
        filled = json.dumps(fields).replace("CONTENT", json.dumps(content)[1:-1])
        body["choices"][0]["message"] |= json.loads(filled)

    return changed(change)


def text(write: Callable[[str], str]) -> Callable[[Request], Reply]:
    """The good reply with its content written differently."""

    def change(body: dict[str, Any]) -> None:
        found = body["choices"][0]["message"]
        found["content"] = write(found["content"])

    return changed(change)


def unless(field: str, refusal: Reply) -> Callable[[Request], Reply | None]:
    return lambda request: refusal if field in request.body else None


def fine(rule: Callable[[Request], Reply | None], calls: int = CHUNKS + 1, *statuses: str) -> Mode:
    return Mode(rule, None, calls, "answered", {"ok", *statuses})


def denied(reply: Reply, words: str) -> Mode:
    return Mode(always(reply), (SettingsError, words), 1, "failed", {"failed"}, probe=True)


def useless(rule: Callable[[Request], Reply | None], words: str, calls: int = 3 * CHUNKS + 1) -> Mode:
    return Mode(rule, (StepError, words), calls, "failed", {"invalid"})


def outage(reply: Reply, words: str, calls: int = 14, retries: int = 1) -> Mode:
    """It is asked about three chunks before it is given up, each twice, and other chunks are under way by then."""
    return Mode(always(reply), (RetryableError, words), calls, "failed", {"failed"}, probe=True, retries=retries)


def with_error(status: int | str, words: str, **more: Any) -> Reply:
    return Reply({"error": {"code": status, "message": words, **more}}, headers=SOON)


def mention(content: str) -> str:
    return content.replace("What is known", "What does </think> say")


def rambling(content: str) -> str:
    return "".join(f"{{{number}}} or [" for number in range(60)) + 'or {"items": []}</think>' + content


def late_error(body: dict[str, Any]) -> None:
    body["choices"][0] |= {"finish_reason": "error", "error": {"code": 502, "message": "the provider broke off"}}


CUT_JSON = json.dumps(completion("{}").body)[:90]
BOMB = gzip.compress(b'{"choices": [{"message": {"content": "' + b" " * (64 << 20))

MODES: dict[str, Mode] = {
    # Errors with status 200.
    "200 with 429": outage(with_error(429, "slow down"), "rate limited"),
    "200 with 429 as text": outage(Reply({"error": "Too many requests"}), "rate limited"),
    "200 with a list of errors": outage(
        Reply([{"error": {"code": 429, "message": "wait", "status": "RESOURCE_EXHAUSTED"}}]), "rate limited"
    ),
    "200 with 402": denied(with_error(402, "Insufficient credits"), "no credit left"),
    "200 with a quota code": denied(with_error("insufficient_quota", "check your plan"), "no credit left"),
    "200 with 401": denied(with_error("invalid_api_key", "wrong key"), "HEAL_LLM_API_KEY"),
    "200 with 404 of vLLM": denied(
        Reply({"object": "error", "message": "The model does not exist.", "type": "NotFoundError", "code": 404}),
        "refused model 'fake'",
    ),
    "200 with detail": denied(Reply({"detail": "Not authenticated"}), "HEAL_LLM_API_KEY"),
    "200 with 500": outage(with_error("server_error", "the GPU fell off"), "the GPU fell off"),
    "200 with an error in the choice": outage(
        Reply({**completion("").body, "choices": [{"error": {"code": 502, "message": "provider down"}}]}, headers=SOON),
        "provider down",
    ),
    "200 with an error after a part": Mode(
        changed(late_error), (RetryableError, "broke off"), CHUNKS + 1, "failed", {"failed"}, retries=0
    ),
    "200 with 400 for a parameter": fine(unless("temperature", with_error(400, "temperature?")), CHUNKS + 3),
    # The answer elsewhere.
    "content as parts": fine(message(content=[{"type": "text", "text": "CONTENT"}])),
    "content after thinking parts": fine(
        message(content=[{"type": "thinking", "thinking": [{"text": "[]"}]}, {"type": "text", "text": "CONTENT"}])
    ),
    "content as an object": fine(changed(lambda body: body["choices"][0]["message"].update(
        content=json.loads(body["choices"][0]["message"]["content"])))),
    "reasoning_content": fine(message(content=None, reasoning_content='Maybe {"items": []}? No: CONTENT')),
    "only reasoning_content": fine(message(content=None, reasoning_content="CONTENT")),
    "only reasoning": fine(message(content="", reasoning="CONTENT")),
    "a tool call": fine(message(content=None, tool_calls=[{"function": {"name": "f", "arguments": "CONTENT"}}])),
    "parsed": fine(message(content=None, parsed="CONTENT")),
    "legacy text": fine(
        changed(lambda body: body["choices"][0].update(text=body["choices"][0].pop("message")["content"]))
    ),
    # Loose text.
    "think block": fine(text(lambda content: f'<think>Say {{"items": []}}?</think>\n{content}')),
    "think block, its end mentioned": fine(text(lambda content: f"<think>[] or {{}}?</think>{mention(content)}")),
    "think end mentioned": fine(text(mention)),
    "think end mentioned in a fence": fine(text(lambda content: f"```json\n{mention(content)}\n```")),
    "long think block": fine(text(rambling)),
    "fence and sentences": fine(text(lambda content: f"Sure [1]:\n```json\n{content}\n```\nAnything else?")),
    "bare list": fine(text(lambda content: json.dumps(json.loads(content)["items"]))),
    "byte order mark": fine(lambda request: Reply("\ufeff" + json.dumps(answer(request).body))),
    "wrong content type": fine(lambda request: Reply(json.dumps(answer(request).body))),
    "another charset": fine(
        lambda request: Reply(answer(request).body, headers={"Content-Type": "application/json; charset=zlib"})
    ),
    "no usage": fine(changed(lambda body: body.pop("usage"))),
    "compressed": fine(lambda request: Reply(gzip.compress(json.dumps(answer(request).body).encode()), headers=GZIP)),
    # Nothing usable.
    "draft in reasoning_content": useless(
        always(Reply({"choices": [{"finish_reason": "stop", "message": {"reasoning": 'Say {"items": []}?'}}]})),
        "ever asked for",
    ),
    "empty choices": useless(always(Reply({"choices": []})), "no chat completion|choices"),
    "null content": useless(always(completion(None)), "all that it was ever asked for"),
    "prose": useless(always(completion("I like the sea.")), "I like the sea"),
    "another schema": useless(always(completion('{"questions": ["Why?"]}')), "Why"),
    "cut by the token limit": useless(
        always(completion('{"items": [{"type', finish_reason="length", usage=(100, 2048))), "items", 2 * CHUNKS + 1
    ),
    "all spent on thinking": useless(
        always(Reply({**completion("", usage=(100, 2048)).body, "choices": [{"finish_reason": "length", "message": {
            "content": None, "reasoning_content": 'First {"items": []}, then'}}]})), "ever asked for", 2 * CHUNKS + 1,
    ),
    "another object": useless(always(Reply({"status": "fine"})), "fine"),
    # Refusals.
    "refusal": Mode(always(completion(None, refusal="No.")), None, CHUNKS + 1, "refused", {"refused"}),
    "content filter": Mode(
        always(completion("", finish_reason="content_filter")), None, CHUNKS + 1, "refused", {"refused"}
    ),
    "content filter in 200": Mode(
        always(with_error("content_filter", "moderated")), None, CHUNKS + 1, "refused", {"refused"}
    ),
    "content filter in 400": Mode(
        always(error(400, "moderated", code="content_filter")), None, CHUNKS + 1, "refused", {"refused"}
    ),
    # HTTP errors.
    "402": denied(error(402, "pay first"), "no credit left: .*HTTP 402.*pay first"),
    "400 without credit": denied(error(400, "Your credit balance is too low"), "no credit left"),
    "429 as a list": outage(Reply([{"error": {"code": 429, "message": "wait"}}], 429), "rate limited"),
    "429 as a page": outage(Reply("<html>slow down</html>", 429), "rate limited"),
    "503 with Retry-After": outage(error(503, "loading", retry_after="900"), "next attempt in 900 s"),
    "500 as a page": outage(Reply("<html>broken</html>", 500, SOON), "broken"),
    "401 as text": denied(Reply("who are you?", 401), "who are you"),
    "404": denied(error(404, "no such model"), "refused model 'fake'"),
    "413": Mode(always(error(413, "too large")), (StepError, "too large"), 3 * CHUNKS + 1, "failed", {"failed"}),
    "400 for temperature": fine(unless("temperature", error(400, "'temperature' is not supported")), CHUNKS + 3),
    "400 for max_tokens": fine(unless("max_tokens", error(400, "'max_tokens' is not supported")), CHUNKS + 3),
    "400 for response_format": fine(unless("response_format", error(400, "response_format is unknown")), CHUNKS + 5),
    "422 for a field": fine(
        unless("temperature", Reply({"detail": [{"loc": ["body", "temperature"], "msg": "extra"}]}, 422)), CHUNKS + 3
    ),
    # No API.
    "sign-in page": denied(Reply("<!DOCTYPE html><title>Sign in</title>"), "no LLM endpoint.*Sign in.*_BASE_URL"),
    "redirect": denied(Reply("", 302, {"Location": "https://login.example/?next=x"}), "redirects to https://login.example"),
    "permanent redirect": denied(Reply("", 308, {"Location": "https://api.example/v1"}), "redirects to https://api"),
    # The connection.
    "cut JSON": outage(Reply(CUT_JSON, headers={"Content-Type": "application/json", **SOON}), "chatcmpl"),
    "empty body": outage(Reply("", headers=SOON), "HTTP|Error code"),
    "closed early": outage(Reply(completion("{}").body, fault="cut"), "does not answer", 1, retries=0),
    "reset": outage(Reply("", fault="reset"), "does not answer", 1, retries=0),
    "endless body": outage(Reply(b" " * 65536, fault="endless"), "larger than any"),
    "gzip bomb": outage(Reply(BOMB, headers=GZIP), "larger than any"),
    "unknown encoding": outage(Reply(b"x", headers={"Content-Encoding": "br"}), "encoded as 'br'", 1, retries=0),
    "slow body": outage(Reply("{", fault="drip"), "does not answer", 7, retries=0),
    "slow head": outage(Reply("", fault="slow_head"), "does not answer", 7, retries=0),
}  # fmt: skip
