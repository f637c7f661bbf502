"""Stores what a language model answered every few chunks, together with the calls that it cost, and counts."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from heal_tasks.questions.writer import Answered, Author, Call
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, cost_usd
from heal_tasks.store.llm.batches import Batch
from heal_tasks.store.llm.ledger import LlmCall

STORE_EVERY = 50

T = TypeVar("T")
RowT = TypeVar("RowT")
Store = Callable[[str, Sequence[RowT], Sequence[LlmCall]], None]
"""Stores rows and calls, paid by a run, in one transaction."""


class Recorder(ABC, Generic[T, RowT]):
    """Records what one author answered, and counts it by name. Calls in a batch are paid by the run that sent it."""

    def __init__(
        self,
        context: Context,
        purpose: str,
        author: Author,
        store: Store[RowT],
        names: Iterable[str],
        batch: Batch | None = None,
    ) -> None:
        self.context, self._purpose, self._author, self._batch = context, purpose, author, batch
        self._store_rows, self._rows, self._calls, self._cost_usd = store, list[RowT](), list[LlmCall](), 0.0
        always = ("failed", "reused", "over_spend_limit", "input_tokens", "output_tokens")
        self.counts: Counter[str] = Counter(dict.fromkeys((*names, *always), 0))

    def add(self, answer: Answered[T]) -> None:
        """Add the answer about one chunk."""
        self.add_calls(answer.calls, answer.chunk.content_hash, answer.chunk.chunk_id)
        if answer.status == "failed":
            self.counts["failed"] += 1
        else:
            # Refused and never valid replies are final, too: asking again would cost again.
            self._rows.append(self._row(answer))
        if len(self._rows) + len(self._calls) >= STORE_EVERY:
            self.store()

    def add_calls(self, calls: Sequence[Call], content_hash: str = "", chunk_id: int | None = None) -> None:
        """Add the calls about a chunk, or those that probed the endpoint."""
        price_factor, batch_id = (BATCH_PRICE_FACTOR, self._batch.batch_id) if self._batch else (1.0, None)
        for call in calls:
            cost = price_factor * cost_usd(self.context.settings, call.input_tokens, call.output_tokens)
            self._calls.append(
                LlmCall(
                    self._purpose, self._author.model, self._author.prompt_hash, content_hash, chunk_id, call.status,
                    call.input_tokens, call.output_tokens, cost, call.latency_s, call.raw_reply, batch_id,
                )
            )  # fmt: skip
            self.counts.update(input_tokens=call.input_tokens, output_tokens=call.output_tokens)
            self._cost_usd += cost

    def store(self) -> None:
        """Store what was added since the last time."""
        payer = self._batch.run_id if self._batch else self.context.run_id
        self._store_rows(payer, self._rows, self._calls)
        self._rows, self._calls = [], []

    def figures(self) -> dict[str, float]:
        """Counts, and the cost in USD, up to now."""
        return {**self.counts, "cost_usd": round(self._cost_usd, 6)}

    @abstractmethod
    def _row(self, answer: Answered[T]) -> RowT:
        """Make the stored form of an answer, and count it."""
