"""Stores what a language model answered every few chunks, together with the calls that it cost, and counts."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from heal_tasks.core.settings import Settings
from heal_tasks.questions.writer import Answered, Author, Call, ChunkToAsk
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, cost_usd
from heal_tasks.store.llm.ledger import LlmCall

STORE_EVERY = 50


T = TypeVar("T")
RowT = TypeVar("RowT")


class Bill:
    """The calls of a step and their sums; those of a batch are cheaper.

    Attributes:
        calls: those that are not in the ledger yet.
    """

    def __init__(self, settings: Settings, purpose: str, author: Author, batch_id: str | None = None) -> None:
        self._settings, self._purpose, self._author, self._batch_id = settings, purpose, author, batch_id
        self._price_factor = BATCH_PRICE_FACTOR if batch_id else 1.0
        self._input_tokens, self._output_tokens, self._cost_usd = 0, 0, 0.0
        self.calls: list[LlmCall] = []

    def add(self, chunk: ChunkToAsk | None, calls: Sequence[Call]) -> None:
        """Add the calls about a chunk; None for those that probed the endpoint."""
        text, chunk_id = (chunk.content_hash, chunk.chunk_id) if chunk else ("", None)
        for call in calls:
            cost = self._price_factor * cost_usd(self._settings, call.input_tokens, call.output_tokens)
            self.calls.append(
                LlmCall(
                    self._purpose, self._author.model, self._author.prompt_hash, text, chunk_id, call.status,
                    call.input_tokens, call.output_tokens, cost, call.latency_s, call.raw_reply, self._batch_id,
                )
            )  # fmt: skip
            self._input_tokens += call.input_tokens
            self._output_tokens += call.output_tokens
            self._cost_usd += cost

    def figures(self) -> dict[str, float]:
        """Tokens and cost of all calls, as counts of a manifest."""
        cost = round(self._cost_usd, 6)
        return {"input_tokens": self._input_tokens, "output_tokens": self._output_tokens, "cost_usd": cost}


class Recorder(ABC, Generic[T, RowT]):
    """Stores what a model answered every few chunks, together with the calls that it cost, and counts by name."""

    def __init__(self, bill: Bill, names: Iterable[str]) -> None:
        self.bill, self._rows = bill, list[RowT]()
        self.counts: Counter[str] = Counter(dict.fromkeys((*names, "failed"), 0))

    def add(self, answer: Answered[T]) -> None:
        """Add the answer about one chunk."""
        self.bill.add(answer.chunk, answer.calls)
        if answer.status == "failed":
            self.counts["failed"] += 1
        else:
            # Refused and never valid replies are final, too: asking again would cost again.
            self._rows.append(self._row(answer))
        if len(self._rows) + len(self.bill.calls) >= STORE_EVERY:
            self.store()

    def store(self) -> None:
        """Store what was added since the last time."""
        self._write(self._rows, self.bill.calls)
        self._rows, self.bill.calls = [], []

    def figures(self) -> dict[str, float]:
        """Counts, tokens and cost up to now."""
        return {**self.counts, **self.bill.figures()}

    @abstractmethod
    def _row(self, answer: Answered[T]) -> RowT:
        """Make the stored form of an answer, and count it."""

    @abstractmethod
    def _write(self, rows: Sequence[RowT], calls: Sequence[LlmCall]) -> None:
        """Store rows and calls in one transaction."""
