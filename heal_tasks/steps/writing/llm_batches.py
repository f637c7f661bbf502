"""Questions over the Batch API, for half the price and some hours later: what step ask sends, waits for and collects.

Everything there is to know stands in ``heal.llm_batch``, so the step is simply run again, be it by a retry or by a
later run: it collects what has ended, sends what was not sent, and says that it waits for what is under way. What a
batch brought no usable reply about is asked one by one afterwards; an invalid reply counts as the first attempt.
"""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import uuid4

from heal_tasks.core.errors import HealError, RetryableError, SettingsError, StepError
from heal_tasks.core.log import format_duration
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.batch_api import BatchApi, Job, NoBatchApiError
from heal_tasks.questions.llm.batch_lines import batch_sizes, read_line, request_line
from heal_tasks.questions.llm.dialect import Dialect
from heal_tasks.questions.llm.tokens import most_first_tokens, most_probe_tokens
from heal_tasks.questions.writer import Author, ChunkToAsk
from heal_tasks.steps.engine.runner import Context, Waiting
from heal_tasks.steps.writing.batch_answers import BatchAnswers, Reply
from heal_tasks.steps.writing.llm_calls import STORE_EVERY, make_llm
from heal_tasks.steps.writing.question_recorder import QuestionRecorder, make_inquiry
from heal_tasks.steps.writing.spend_limit import BATCH_PRICE_FACTOR, cost_usd
from heal_tasks.store.llm.batches import Batch, BatchRepository
from heal_tasks.store.llm.spend import Budget

BATCH_WAIT_S = 24 * 3600.0
"""Longest wait for a batch: within 24 hours OpenAI answers it or lets it expire."""

BATCH_POLL_S = 60.0
"""Time between two looks at a batch, in seconds; most batches take minutes, and a look costs one request."""

AUTO_CHUNKS = 200
"""With HEAL_LLM_BATCH=auto a task sends a batch from so many chunks on: below, it would save a few cents."""

_CANCELLING_S = 3600.0
"""So long an endpoint may take to cancel a batch before it is given up; OpenAI takes ten minutes at most."""

_NOT_LISTED_S = 60.0
"""So long, beside the timeout, a batch whose creation was cut off may take to be listed."""


def waits_for_batches(settings: Settings, route: object) -> bool:
    """Whether step ask may send batches and wait for them.

    Not when nudging: few chunks, and a run that is to take minutes. Without a route, as from the command line, it does.
    """
    return settings.llm_configured and settings.llm_batch != "off" and route != "nudge"


def make_batch_api(settings: Settings) -> BatchApi:
    """The Batch API of the endpoint that the settings name."""
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    return BatchApi(settings.llm_url, key, settings.llm_timeout_s)


def worth_a_batch(settings: Settings, chunks: int) -> bool:
    """Whether so many chunks of one task are sent in a batch, if the endpoint can."""
    return chunks >= (1 if settings.llm_batch == "on" else AUTO_CHUNKS)


@dataclass(frozen=True)
class Sorted:
    """Chunks that no batch is going to answer in this run.

    Args:
        chunks: to be asked about one by one.
        over_budget: how many the budget has no room for.
        under_way: how many are left to a batch that is not waited for.
    """

    chunks: list[ChunkToAsk]
    over_budget: int = 0
    under_way: int = 0


class Batches:
    """One task's batches at the endpoint that the settings name.

    Args:
        context: of the step; a language model is configured.
    """

    def __init__(self, context: Context) -> None:
        settings = self._settings = context.settings
        self._context = context
        self._api = make_batch_api(settings)
        self._store = BatchRepository(context.conn, settings.llm_url)
        self._inquiry = make_inquiry(settings)
        self._patient = waits_for_batches(settings, context.manifest.refs.get("route"))
        self._longest_s = BATCH_WAIT_S

    def collect(self) -> None:
        """Store what has come of every batch that has ended, whichever run sent it; end what takes too long.

        Raises:
            HealError: the endpoint does not say, and this task waits for batches; the others go on without.
        """
        try:
            self._collect_all()
        except HealError as error:
            if self._patient:
                raise
            self._context.log.warning("batches are left for a later run: %s", error)

    def _collect_all(self) -> None:
        for batch in self._store.open():
            with self._store.holding(batch.batch_key) as held:
                # What another task holds, it sends or collects at this moment.
                current = self._store.get(batch.batch_key) if held else None
                if current is not None:
                    self._advance(current)

    def sort(self, chunks: Sequence[ChunkToAsk], budget: Budget) -> Sorted:
        """Send what is to be sent.

        Args:
            chunks: all that this task has to ask about.
            budget: of the run; what a batch can cost at most is reserved before it is sent.

        Returns:
            What is left.

        Raises:
            Waiting: chunks are in a batch that is under way.
            SettingsError: HEAL_LLM_BATCH=on, and the endpoint has no Batch API.
        """
        tried = self._store.texts_tried(self._context.run_id, self._settings.llm_model, self._inquiry.prompt_hash)
        under_way = self._under_way()
        again = [
            replace(chunk, problem=known.problem, cut_off=known.outcome == "cut_off")
            for chunk in chunks
            if (known := tried.get(chunk.content_hash)) and chunk.content_hash not in under_way
        ]
        fresh = [item for item in chunks if item.content_hash not in tried and item.content_hash not in under_way]
        over_budget = 0
        if budget.limited and fresh and self._sent_long_ago():
            # A budget lets a small batch go at a time; a run does not go on with that for days.
            over_budget, fresh = len(fresh), []
        elif self._patient and self._worth_a_batch(fresh):
            self._submit(fresh, budget)
            under_way = self._under_way()
            over_budget, fresh = sum(item.content_hash not in under_way for item in fresh), []
        waiting = [chunk for chunk in chunks if chunk.content_hash in under_way]
        if waiting and self._patient:
            raise self._waiting(len(waiting), {under_way[chunk.content_hash] for chunk in waiting})
        return Sorted([*again, *fresh], over_budget, len(waiting))

    def counted(self) -> list[Batch]:
        """The batches that this task has collected, with what has come of them."""
        return self._store.counted(self._context.run_id, self._context.shard)

    def _sent_long_ago(self) -> bool:
        return any(batch.age_s > self._longest_s for batch in self.counted())

    def _under_way(self) -> dict[str, str]:
        return self._store.texts_under_way(self._settings.llm_model, self._inquiry.prompt_hash)

    def _worth_a_batch(self, chunks: Sequence[ChunkToAsk]) -> bool:
        if not worth_a_batch(self._settings, len(chunks)):
            return False
        try:
            self._api.check()
        except NoBatchApiError as error:
            if self._settings.llm_batch == "on":
                raise
            self._context.log.info("asking one by one: %s", error)
            return False
        return True

    def _submit(self, chunks: list[ChunkToAsk], budget: Budget) -> None:
        """Send chunks in as few batches as the endpoint takes, as far as the budget has room for them."""
        widest = Dialect("json_schema", "max_completion_tokens")
        sizes = [len(self._line(chunk, widest)) for chunk in chunks]
        dialect, probed, start = widest, dict[str, float](), 0
        for size in batch_sizes(sizes):
            part = chunks[start : start + size]
            granted = self._reserve(part, budget, probing=not start)
            if granted and not start:
                dialect, probed = self._learn_dialect()
            if granted:
                self._send(part[:granted], dialect, budget, probed)
            if granted < size:
                return
            start, probed = start + size, {}

    def _reserve(self, chunks: list[ChunkToAsk], budget: Budget, *, probing: bool) -> int:
        if not budget.limited:
            return len(chunks)
        factor = BATCH_PRICE_FACTOR
        costs = [
            (chunk.chunk_id, factor * cost_usd(self._settings, *most_first_tokens(self._inquiry, chunk)))
            for chunk in chunks
        ]
        if probing:
            costs[0] = (costs[0][0], costs[0][1] + cost_usd(self._settings, *most_probe_tokens()))
        return budget.reserve(costs, lease_s=self._longest_s + 2 * _CANCELLING_S).count

    def _learn_dialect(self) -> tuple[Dialect, dict[str, float]]:
        """How the endpoint wants to be spoken to, and what it cost to find out."""
        llm = make_llm(self._settings)
        dialect, calls = llm.learn_dialect(self._inquiry)
        probe = QuestionRecorder(self._context, Author("llm", llm.model, self._inquiry.prompt_hash))
        probe.bill.add(None, calls)
        probe.store()
        return dialect, probe.figures()

    def _line(self, chunk: ChunkToAsk, dialect: Dialect) -> bytes:
        fields = dialect.fields(self._inquiry.schema, self._inquiry.token_limit, self._inquiry.temperature)
        return request_line(chunk.content_hash, self._settings.llm_model, self._inquiry.messages(chunk, ""), fields)

    def _send(self, chunks: list[ChunkToAsk], dialect: Dialect, budget: Budget, counts: dict[str, float]) -> None:
        key, store, context = uuid4().hex, self._store, self._context
        with store.holding(key):
            mine = store.plan(
                key, context.run_id, context.shard, self._settings.llm_model, self._inquiry.prompt_hash,
                [(chunk.content_hash, chunk.chunk_id) for chunk in chunks], counts,
            )  # fmt: skip
            if budget.limited:
                budget.release([chunk.chunk_id for chunk in chunks if chunk.content_hash not in mine])
            if not mine:
                return
            try:
                with tempfile.TemporaryFile() as file:
                    file.writelines(self._line(chunk, dialect) for chunk in chunks if chunk.content_hash in mine)
                    file.seek(0)
                    file_id = self._api.upload(key, file)
                store.sending(key, file_id)
                batch_id = self._api.create(key, file_id)
            except RetryableError:
                # It may have been created all the same: the next attempt looks for it.
                raise
            except HealError:
                self._withdraw(store.get(key))
                raise
            store.sent(key, batch_id)
        context.log.info("sent %d chunks as batch %s", len(mine), batch_id)

    def _withdraw(self, batch: Batch | None) -> None:
        if batch is not None:
            self._store.withdraw(batch)
            self._api.forget(batch.input_file_id)

    def _advance(self, batch: Batch) -> None:
        """Do with a batch what is to be done now."""
        if batch.state == "planned":
            self._withdraw(batch)
        elif batch.state == "sending":
            batch_id = self._api.find(batch.batch_key)
            if batch_id is not None:
                self._store.sent(batch.batch_key, batch_id)
                self._context.log.info("found batch %s again, which run %s had sent", batch_id, batch.run_id)
                self._look(replace(batch, batch_id=batch_id))
            elif batch.age_s > self._settings.llm_timeout_s + _NOT_LISTED_S:
                self._withdraw(batch)
        elif batch.state == "waiting":
            self._look(batch)

    def _look(self, batch: Batch) -> None:
        assert batch.batch_id is not None
        job = self._api.job(batch.batch_id)
        if job is not None and not job.ended and batch.age_s > self._longest_s:
            # Some endpoints cannot cancel; one that does not end either is given up below.
            with suppress(SettingsError, StepError):
                self._api.cancel(batch.batch_id)
            job = self._api.job(batch.batch_id)
        if job is None:
            self._give_up(batch, "the endpoint knows no such batch any more")
        elif job.ended:
            self._collect(batch, job)
        elif batch.age_s > self._longest_s + _CANCELLING_S:
            self._give_up(batch, f"neither ended nor cancelled after {format_duration(batch.age_s)}")

    def _give_up(self, batch: Batch, reason: str) -> None:
        self._context.log.warning("batch %s is lost: %s", batch.batch_id, reason)
        self._store.begin_collecting(batch, self._context.run_id, self._context.shard)
        self._store.close(batch, "lost", reason)

    def _collect(self, batch: Batch, job: Job) -> None:
        context = self._context
        asked = self._store.begin_collecting(batch, context.run_id, context.shard)
        answers = BatchAnswers(context, self._store, batch)
        page: dict[str, tuple[Reply, int]] = {}
        total, strange = len(asked), 0
        for file_id in job.files:
            for line in self._api.lines(file_id):
                reply = read_line(line, self._inquiry.parse)
                if reply is None or reply.custom_id not in asked:
                    # A second reply to the same request, one that was stored before a kill, or nothing of ours.
                    strange += 1
                    continue
                page[reply.custom_id] = (reply, asked.pop(reply.custom_id))
                if len(page) == STORE_EVERY:
                    answers.take(page)
                    page = {}
                    context.progress(total - len(asked), total, f"collecting batch {batch.batch_id}")
        answers.take(page)
        self._store.close(batch, "collected", job.problem or ("" if job.status == "completed" else job.status))
        self._api.forget(batch.input_file_id, *job.files)
        context.log.info(
            "batch %s %s: %d of %d chunks without a reply, %d lines passed over%s",
            batch.batch_id, job.status, len(asked), batch.texts, strange, f"; {job.problem}" if job.problem else "",
        )  # fmt: skip

    def _waiting(self, chunks: int, keys: set[str]) -> Waiting:
        found = [batch for batch in self._store.open() if batch.batch_key in keys]
        ids = [batch.batch_id for batch in found if batch.batch_id]
        poll_s = BATCH_POLL_S
        wait_s = min((max(poll_s, self._longest_s - batch.age_s) for batch in found), default=0.0)
        message = f"waiting for {chunks} chunks in {len(found)} batches ({', '.join(ids)}) at {self._settings.llm_url}"
        return Waiting(message, ids, poll_s=poll_s, wait_s=wait_s if len(ids) == len(found) else poll_s)
