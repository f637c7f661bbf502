"""Chunks to ask about, and a writer that is quick to give up."""

from typing import Any

from heal_tasks.questions.llm import LLMWriter
from heal_tasks.questions.writer import ChunkToAsk
from tests.fake_openai import FakeOpenAI


def chunk(number: int, text: str = "") -> ChunkToAsk:
    body = text or f"Compound number{number} lowers the boiling pressure of liquid helium by {number} percent in tests."
    return ChunkToAsk(number, f"Report {number}", body, f"hash{number}")


def writer(fake: FakeOpenAI, **overrides: Any) -> LLMWriter:
    options: dict[str, Any] = {
        "questions_per_chunk": 3, "concurrency": 4, "timeout_s": 5.0, "temperature": 0.7, "max_retries": 2,
        "backoff_s": 0.001,
    }  # fmt: skip
    return LLMWriter(fake.base_url, "secret-key-123", "fake-model", **{**options, **overrides})
