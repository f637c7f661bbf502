"""Collects the replies of batches of all runs, a page in one transaction, and ends batches that take too long."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from heal_tasks.core.errors import SettingsError, StepError
from heal_tasks.core.log import format_duration
from heal_tasks.questions.llm.batch_api import BatchApi, Job
from heal_tasks.questions.llm.replies import ParsedReply
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk, Drafts
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.question_recorder import QuestionRecorder
from heal_tasks.store.llm.batches import Batch, BatchRepository, TextOutcome, Tried

BATCH_WAIT_S = 24 * 3600.0
"""Longest wait for a batch: within 24 hours OpenAI answers it or lets it expire."""

CANCELLING_S = 3600.0
"""Time that an endpoint may take to cancel a batch before it is given up; OpenAI takes ten minutes at most."""

_NOT_LISTED_S = 60.0
"""Time, beside the timeout, until a batch whose creation was cut off is listed for certain."""

R = TypeVar("R")
Reply = ParsedReply[Drafts] | None
"""None for a request that was never run."""


class BatchAnswers(QuestionRecorder):
    """Records the replies of one batch, whose counts it continues."""

    def __init__(self, context: Context, batches: BatchRepository, batch: Batch) -> None:
        super().__init__(context, Author("llm", batch.model, batch.prompt_hash), batch)
        self._batches, self._sent = batches, batch
        self._answered, self._tried = list[str](), list[Tried]()

    def take(self, replies: dict[str, tuple[Reply, int]]) -> None:
        """Add and store replies, by content hash with the chunk that was asked about."""
        live = self._batches.live({text: chunk_id for text, (_, chunk_id) in replies.items()})
        for text, (reply, chunk_id) in replies.items():
            found = live.get(text)
            if reply is None:
                self._tried.append(Tried(text, "unanswered", ""))
            elif found is None:
                # The text was deleted in the meantime: only the call is recorded.
                self._answered.append(text)
                self.add_calls([reply.call], text, chunk_id)
            elif reply.call.status in ("ok", "refused"):
                self._answered.append(text)
                self._document_of[found.chunk_id] = found.document_id
                chunk = ChunkToAsk(found.chunk_id, found.title, found.text, text)
                self.add(Answered(chunk, reply.value, (reply.call,)))
            else:
                outcome: TextOutcome = "failed" if reply.call.status == "failed" else "invalid"
                self._tried.append(Tried(text, "cut_off", "") if reply.cut_off else Tried(text, outcome, reply.problem))
                self.add_calls([reply.call], text, found.chunk_id)
        self.store()

    def figures(self) -> dict[str, float]:
        """Counts, tokens and cost of the whole batch up to now."""
        total = Counter(self._sent.counts)
        total.update(super().figures())
        return dict(total)

    def store(self) -> None:
        """Store what was added since the last time, and record the outcome of its texts."""
        with self.context.conn.transaction():
            super().store()
            self._batches.settle(self._sent, self._answered, self._tried, self.figures())
        self._answered, self._tried = [], []


class Taker(Protocol[R]):
    """Takes the replies of one batch."""

    def take(self, replies: dict[str, tuple[R | None, int]]) -> None:
        """Store replies, by hash with the number that their text was sent with; None for a request never run."""


@dataclass(frozen=True)
class Reading(Generic[R]):
    """The way in which the replies of batches are read and stored."""

    line: Callable[[str], tuple[str, R | None] | None]  # the request's id and its reply; None for a foreign line
    taker: Callable[[Batch], Taker[R]]
    page: int  # replies that are stored at once
    prompt_hash: str = ""  # of the batches to collect; empty for all


class BatchCollector(Generic[R]):
    """Collects the batches at one endpoint."""

    def __init__(self, context: Context, api: BatchApi, store: BatchRepository, reading: Reading[R]) -> None:
        self._context, self._api, self._store, self._reading = context, api, store, reading

    def collect(self) -> None:
        """Bring every batch that no other task works on to its next state."""
        only = self._reading.prompt_hash
        for batch in (batch for batch in self._store.open() if batch.prompt_hash == (only or batch.prompt_hash)):
            with self._store.holding(batch.batch_key) as held:
                # Another task is sending or collecting what it holds.
                current = self._store.get(batch.batch_key) if held else None
                if current is not None:
                    self._advance(current)

    def withdraw(self, batch_key: str) -> None:
        """Delete a batch that was never created, and its file at the endpoint."""
        batch = self._store.get(batch_key)
        if batch is not None:
            self._store.withdraw(batch)
            self._api.delete_files(batch.input_file_id)

    def _advance(self, batch: Batch) -> None:
        if batch.state == "planned":
            self.withdraw(batch.batch_key)
        elif batch.state == "waiting":
            self._look(batch)
        elif (batch_id := self._api.find(batch.batch_key)) is not None:
            self._store.sent(batch.batch_key, batch_id)
            self._context.log.info("found batch %s again, which run %s had sent", batch_id, batch.run_id)
            self._look(replace(batch, batch_id=batch_id))
        elif batch.age_s > self._context.settings.llm_timeout_s + _NOT_LISTED_S:
            self.withdraw(batch.batch_key)

    def _look(self, batch: Batch) -> None:
        assert batch.batch_id is not None
        job = self._api.job(batch.batch_id)
        if job is not None and not job.ended and batch.age_s > BATCH_WAIT_S:
            # Some endpoints cannot cancel; a batch that does not end either is given up below.
            with suppress(SettingsError, StepError):
                self._api.cancel(batch.batch_id)
            job = self._api.job(batch.batch_id)
        if job is None:
            self._give_up(batch, "the endpoint knows no such batch any more")
        elif job.ended:
            self._collect(batch, job)
        elif batch.age_s > BATCH_WAIT_S + CANCELLING_S:
            self._give_up(batch, f"neither ended nor cancelled after {format_duration(batch.age_s)}")

    def _give_up(self, batch: Batch, reason: str) -> None:
        self._context.log.warning("batch %s is lost: %s", batch.batch_id, reason)
        self._store.begin_collecting(batch, self._context.run_id, self._context.shard)
        self._store.close(batch, "lost", reason)

    def _collect(self, batch: Batch, job: Job) -> None:
        context = self._context
        asked = self._store.begin_collecting(batch, context.run_id, context.shard)
        taker, page = self._reading.taker(batch), dict[str, tuple[R | None, int]]()
        total, ignored = len(asked), 0
        for file_id in job.files:
            for text in self._api.lines(file_id):
                line = self._reading.line(text)
                if line is None or line[0] not in asked:
                    # A second reply to the same request, one that was stored before a kill, or nothing of ours.
                    ignored += 1
                    continue
                content_hash, reply = line
                page[content_hash] = (reply, asked.pop(content_hash))
                if len(page) == self._reading.page:
                    taker.take(page)
                    page = {}
                    context.progress(total - len(asked), total, f"collecting batch {batch.batch_id}")
        taker.take(page)
        self._store.close(batch, "collected", job.problem or ("" if job.status == "completed" else job.status))
        self._api.delete_files(batch.input_file_id, *job.files)
        context.log.info(
            "batch %s %s: %d of %d texts without a reply, %d lines ignored%s",
            batch.batch_id, job.status, len(asked), batch.texts, ignored, f"; {job.problem}" if job.problem else "",
        )  # fmt: skip
