"""Common parts of the steps that call a language model: the model, its price, its spend limit, and what it answered."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from heal_tasks.core.errors import StepError
from heal_tasks.core.models import api_model
from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.calls import Call, without_key
from heal_tasks.endpoint.endpoint import EndpointConfig
from heal_tasks.questions.llm.client import LLM, UselessRepliesError
from heal_tasks.questions.llm.dialect import MOST_PROBE_TOKENS, PROBED
from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk, Write
from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.documents.chunks import LiveChunk
from heal_tasks.store.llm.batches import Batch
from heal_tasks.store.llm.ledger import LlmCall, SpendLimit, can_answer, failed_before

MAX_FAILED_SHARE = 0.2
"""Share of chunks whose calls may fail: with more the endpoint or the model is unfit, and waiting does not help."""
FAILED_ALLOWED = 10
"""Number of failed chunks that never stops a run, whatever their share; they are asked about again next time."""

BATCH_PRICE_FACTOR = 0.5
"""Price of a call in a batch as a share of a single call's, at OpenAI and at those that copy its Batch API."""

STORE_EVERY = 50
"""Rows and calls that are stored at once where nothing has to be paid again: of the extractive writer, or of a batch.
A paid reply is stored when it comes: a killed task pays twice for calls under way, and no others."""
RESERVED = 50
"""Number of chunks that money is reserved for at a time."""

T = TypeVar("T")
RowT = TypeVar("RowT")
Store = Callable[[str, Sequence[RowT], Sequence[LlmCall]], None]  # the run that pays, rows, calls; one transaction


def make_llm(settings: Settings) -> LLM:
    """The language model that the settings name."""
    config = EndpointConfig(settings.llm_url, settings.llm_key, settings.llm_model, settings.llm_timeout_s)
    return LLM(config, settings.llm_concurrency)


def cost_usd(settings: Settings, input_tokens: int, output_tokens: int) -> float:
    """The price of tokens, in USD."""
    return (
        input_tokens * settings.llm_input_usd_per_million + output_tokens * settings.llm_output_usd_per_million
    ) / 1e6


def embedding_cost_usd(settings: Settings, tokens: float) -> float:
    """The price of tokens to embed, in USD."""
    return tokens * settings.embed_usd_per_million / 1e6


def one_per_text(chunks: Iterable[LiveChunk]) -> list[ChunkToAsk]:
    """The first chunk of each text; its copies are given its results afterwards."""
    by_text: dict[str, ChunkToAsk] = {}
    for chunk in chunks:
        by_text.setdefault(chunk.content_hash, ChunkToAsk(chunk.chunk_id, chunk.title, chunk.text, chunk.content_hash))
    return list(by_text.values())


def spend_limit_of(context: Context) -> SpendLimit:
    """The spend limits that the settings set for a run; none where nothing has to be paid."""
    settings = context.settings
    paid = settings.llm_configured or api_model(settings.model)
    return SpendLimit(
        context.conn, context.run_id,
        run_usd=settings.llm_run_spend_limit_usd if paid else 0.0,
        day_usd=settings.llm_day_spend_limit_usd if paid else 0.0,
    )  # fmt: skip


def left_over_note(counts: Mapping[str, float]) -> str:
    """The end of a step's note where chunks are left over."""
    unpaid, left, rest = counts["over_spend_limit"], counts["left"], "are left for the next run"
    note = f"; the spend limit is reached: {unpaid:.0f} chunks {rest}" if unpaid else ""
    return note + (f"; {left:.0f} chunks that failed before {rest}" if left else "")


class Recorder(ABC, Generic[T, RowT]):
    """Stores what one author answered every few chunks, with the calls that it cost, and counts it by name."""

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
        always = ("failed", "reused", "over_spend_limit", "left", "input_tokens", "output_tokens")
        self.counts: Counter[str] = Counter(dict.fromkeys((*names, *always), 0))
        self._failed_again, self._useless_reply = 0, ""
        self._store_every = 1 if author.name == "llm" and batch is None else STORE_EVERY

    def new_first(self, chunks: Iterable[ChunkToAsk]) -> list[ChunkToAsk]:
        """Order chunks to ask about: new ones, then those that failed in earlier runs, the last to fail last.

        So chunks that nobody can answer hold up no others.
        """
        author = self._author
        failed = failed_before(self.context.conn, self.context.run_id, author.prompt_hash, author.model)
        marked = [replace(chunk, failed_before=chunk.content_hash in failed) for chunk in chunks]
        return sorted(marked, key=lambda chunk: failed.get(chunk.content_hash, 0.0))

    def refuse_if_failing(self, failed: int, chunks: int) -> None:
        """Raise StepError where over ten and over a fifth of the chunks have failed, or nothing ever succeeded.

        Chunks that failed in earlier runs do not count: a few that no model can answer must not stop every run.
        """
        new, of = failed - self._failed_again, chunks - self._failed_again
        nothing = failed == chunks > 0 and not self.can_answer()
        if not nothing and not (new > FAILED_ALLOWED and new / of > MAX_FAILED_SHARE):
            return
        settings = self.context.settings
        key = settings.llm_key
        share = "all that it was ever asked for" if nothing else f"more than {MAX_FAILED_SHARE:.0%}"
        reply = without_key(self._useless_reply, key)[:500]
        raise StepError(
            f"{self._purpose} failed for {failed} of {chunks} chunks, {share}; the last reply of "
            f"{without_key(settings.llm_url, key)} that could not be used: {reply!r}; "
            "all are in heal.llm_call (status failed or invalid); the good ones are kept, and running this step again "
            "asks only for the rest"
        )

    def add(self, answer: Answered[T]) -> None:
        """Add the answer about one chunk."""
        self.add_calls(answer.calls, answer.chunk.content_hash, answer.chunk.chunk_id)
        if answer.status in ("failed", "invalid"):
            # It stays open: the next run asks again.
            self.counts["failed"] += 1
            self._failed_again += answer.chunk.failed_before
            self._useless_reply = answer.calls[-1].raw_reply
        else:
            self._rows.append(self._row(answer))
        if len(self._rows) + len(self._calls) >= self._store_every:
            self.store()

    def add_calls(self, calls: Sequence[Call], content_hash: str = "", chunk_id: int | None = None) -> None:
        """Add the calls about a chunk, or those that probed the endpoint."""
        price_factor, batch_id = (BATCH_PRICE_FACTOR, self._batch.batch_id) if self._batch else (1.0, None)
        for call in calls:
            tokens = call.booked_tokens
            cost = price_factor * cost_usd(self.context.settings, *tokens)
            about = "" if call.raw_reply.startswith(PROBED) else content_hash
            self._calls.append(
                LlmCall(
                    self._purpose, self._author.model, self._author.prompt_hash, about, chunk_id, call.status,
                    *tokens, cost, call.latency_s, call.raw_reply, batch_id, call.guessed,
                )
            )  # fmt: skip
            self.counts.update(input_tokens=tokens[0], output_tokens=tokens[1])
            self._cost_usd += cost

    def can_answer(self) -> bool:
        """True if the model has ever given this prompt a usable reply, as far as calls are stored."""
        return can_answer(self.context.conn, self._author.prompt_hash, self._author.model)

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


class AffordableChunks(Iterator[ChunkToAsk]):
    """Chunks that are handed out one by one while the spend limit has room for the most that each can cost.

    Money is reserved before a chunk's first call. A writer takes a chunk when a worker is free, so money that earlier
    chunks did not need is there for later ones. Iteration ends where no money is left at that moment; the next
    iteration continues there.
    """

    def __init__(self, recorder: Recorder[Any, Any], spec: PromptSpec[Any], chunks: Sequence[ChunkToAsk]) -> None:
        self._recorder, self._spec, self._chunks = recorder, spec, chunks
        self._settings, self._limit = recorder.context.settings, spend_limit_of(recorder.context)
        self._handed_out, self._reserved, self._wait = 0, 0, False

    def __next__(self) -> ChunkToAsk:
        if self._handed_out == len(self._chunks):
            raise StopIteration
        if self._handed_out == self._reserved and not self._reserve():
            # A worker is free because its chunk is finished; what that did not cost is free once it is stored.
            self._recorder.store()
            if not self._reserve():
                raise StopIteration
        self._handed_out += 1
        return self._chunks[self._handed_out - 1]

    def ask(self, write: Write[Any]) -> None:
        """Ask about the chunks while there is money, record the answers, and give back the rest of the money."""
        done, given_up = 0, False
        try:
            while self._can_start():
                for answer in write(self):
                    self._recorder.add(answer)
                    done += 1
                    self._recorder.context.progress(done, len(self._chunks))
                self._recorder.store()
        except UselessRepliesError as error:
            self._recorder.store()
            if not (error.expected and self._recorder.can_answer()):
                raise
            given_up = True
            self._recorder.counts["left"] += len(self._chunks) - done
            self._recorder.context.log.warning(
                "%d chunks are left for the next run: %s", len(self._chunks) - done, error
            )
        finally:
            # An endpoint that goes away raises; what was answered until then has been paid for.
            self._recorder.store()
            if not given_up:
                self._recorder.counts["over_spend_limit"] += len(self._chunks) - self._handed_out
            if self._limit.limited:
                self._limit.release([chunk.chunk_id for chunk in self._chunks[: self._reserved]])

    def _can_start(self) -> bool:
        """Reserve money for a chunk and for the probe; wait where other tasks have reserved the rest."""
        # No longer than a call can take: a killed task does not release its reservations.
        deadline = time.monotonic() + self._settings.llm_timeout_s
        while self._handed_out == self._reserved < len(self._chunks):
            if self._reserve(cost_usd(self._settings, *MOST_PROBE_TOKENS)):
                return True
            if not self._wait or time.monotonic() >= deadline:
                return False
            time.sleep(1.0)
        return self._handed_out < len(self._chunks)

    def _reserve(self, extra_usd: float = 0.0) -> bool:
        if not self._limit.limited:
            self._reserved = len(self._chunks)
            return self._handed_out < self._reserved
        wanted = self._chunks[self._reserved : self._reserved + RESERVED]
        costs = [(chunk.chunk_id, cost_usd(self._settings, *self._spec.most_tokens(chunk))) for chunk in wanted]
        costs[0] = (costs[0][0], costs[0][1] + extra_usd)
        grant = self._limit.reserve(costs)
        self._reserved += grant.count
        self._wait = grant.wait
        return grant.count > 0
