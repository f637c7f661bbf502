"""Chunks to ask about, a writer that gives up quickly, and short replies."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from heal_tasks.endpoint.endpoint import EndpointConfig
from heal_tasks.questions.llm.client import LLM
from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.questions.writer import Answered, ChunkToAsk, Drafts, Write
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, queries

KEY = "secret-key-123"
SOON = {"retry_after_ms": "1"}
"""Header of an error that may be repeated at once."""


def chunk(number: int, text: str = "") -> ChunkToAsk:
    body = text or f"Compound number{number} lowers the boiling pressure of liquid helium by {number} percent in tests."
    return ChunkToAsk(number, f"Report {number}", body, f"hash{number}")


def chunks(count: int) -> list[ChunkToAsk]:
    return [chunk(number) for number in range(count)]


def writer(fake: FakeOpenAI, *, concurrency: int = 2, **overrides: Any) -> Write[Drafts]:
    options: dict[str, Any] = {"timeout_s": 5.0, "max_retries": 2, "backoff_s": 0.001, **overrides}
    config = EndpointConfig(fake.base_url, KEY, "fake-model", **options)
    return partial(LLM(config, concurrency).ask, question_prompt(3))


def one(fake: FakeOpenAI, asked: ChunkToAsk | None = None, **overrides: Any) -> Answered[Drafts]:
    """What is written of one chunk, without the probe's calls."""
    (written,) = writer(fake, **overrides)([asked or chunk(1)])
    return replace(written, calls=tuple(call for call in written.calls if "capability probe" not in call.raw_reply))


def good(request: Request, **options: Any) -> Reply:
    return completion(json.dumps({"items": queries(request.passage)}), **options)


def once(reply: Reply) -> Callable[[Request], Reply | None]:
    return lambda request: reply if request.attempt == 0 else None


def always(reply: Reply) -> Callable[[Request], Reply | None]:
    return lambda request: reply


def statuses(written: Answered[Drafts]) -> list[str]:
    return [call.status for call in written.calls]


def by_chunk(results: list[Answered[Drafts]]) -> dict[int, str]:
    return {written.chunk.chunk_id: written.status for written in results}


def tokens(results: list[Answered[Drafts]]) -> tuple[int, int]:
    calls = [call for written in results for call in written.calls]
    return sum(call.input_tokens for call in calls), sum(call.output_tokens for call in calls)
