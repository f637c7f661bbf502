"""Stores what a language model answered every few chunks, together with the calls that it cost, and counts."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from heal_tasks.questions.writer import Answered, Author, Call, ChunkToAsk
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, cost_usd
from heal_tasks.store.llm.ledger import LlmCall

STORE_EVERY = 50

_NAMES = ("failed", "reused", "over_spend_limit", "input_tokens", "output_tokens")

T = TypeVar("T")
RowT = TypeVar("RowT")


class Recorder(ABC, Generic[T, RowT]):
    """Records what one author answered, and counts it by name; ``batch_id`` is the endpoint's name of a batch."""

    def __init__(
        self, context: Context, purpose: str, author: Author, names: Iterable[str], batch_id: str | None = None
    ) -> None:
        self._context, self._purpose, self._author, self._batch_id = context, purpose, author, batch_id
        self._rows, self._calls, self._cost_usd = list[RowT](), list[LlmCall](), 0.0
        self.counts: Counter[str] = Counter(dict.fromkeys((*names, *_NAMES), 0))

    def add(self, answer: Answered[T]) -> None:
        """Add the answer about one chunk."""
        self.add_calls(answer.chunk, answer.calls)
        if answer.status == "failed":
            self.counts["failed"] += 1
        else:
            # Refused and never valid replies are final, too: asking again would cost again.
            self._rows.append(self._row(answer))
        if len(self._rows) + len(self._calls) >= STORE_EVERY:
            self.store()

    def add_calls(self, chunk: ChunkToAsk | None, calls: Sequence[Call]) -> None:
        """Add the calls about a chunk; None for those that probed the endpoint."""
        text, chunk_id = (chunk.content_hash, chunk.chunk_id) if chunk else ("", None)
        price_factor = BATCH_PRICE_FACTOR if self._batch_id else 1.0
        for call in calls:
            cost = price_factor * cost_usd(self._context.settings, call.input_tokens, call.output_tokens)
            self._calls.append(
                LlmCall(
                    self._purpose, self._author.model, self._author.prompt_hash, text, chunk_id, call.status,
                    call.input_tokens, call.output_tokens, cost, call.latency_s, call.raw_reply, self._batch_id,
                )
            )  # fmt: skip
            self.counts.update(input_tokens=call.input_tokens, output_tokens=call.output_tokens)
            self._cost_usd += cost

    def store(self) -> None:
        """Store what was added since the last time."""
        self._write(self._rows, self._calls)
        self._rows, self._calls = [], []

    def figures(self) -> dict[str, float]:
        """Counts, and the cost in USD, up to now."""
        return {**self.counts, "cost_usd": round(self._cost_usd, 6)}

    @abstractmethod
    def _row(self, answer: Answered[T]) -> RowT:
        """Make the stored form of an answer, and count it."""

    @abstractmethod
    def _write(self, rows: Sequence[RowT], calls: Sequence[LlmCall]) -> None:
        """Store rows and calls in one transaction."""
