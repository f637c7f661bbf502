"""Chunks to ask about, and a writer that is quick to give up."""

from typing import Any

from heal_tasks.questions.llm.client import LLM, LLMWriter, question_inquiry
from heal_tasks.questions.writer import ChunkToAsk
from tests.fake_openai import FakeOpenAI


def chunk(number: int, text: str = "") -> ChunkToAsk:
    body = text or f"Compound number{number} lowers the boiling pressure of liquid helium by {number} percent in tests."
    return ChunkToAsk(number, f"Report {number}", body, f"hash{number}")


def writer(fake: FakeOpenAI, *, temperature: float = 0.7, questions: int = 3, **overrides: Any) -> LLMWriter:
    options: dict[str, Any] = {"concurrency": 4, "timeout_s": 5.0, "max_retries": 2, "backoff_s": 0.001, **overrides}
    llm = LLM(fake.base_url, "secret-key-123", "fake-model", **options)
    return LLMWriter(llm, question_inquiry(questions, temperature))
