"""Questions over the Batch API, for half the price and some hours later: sent, waited for and collected by step ask.

All state is in ``heal.llm_batch``, so the step is simply run again, by a retry or by a later run: it collects what has
ended, sends what was not sent, and waits for what is under way. Texts to which a batch brought no usable reply are
asked about one by one afterwards; an invalid reply counts as the first attempt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from heal_tasks.core.errors import HealError
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.batch_api import BatchApi, NoBatchApiError, batch_sizes, read_line, request_line
from heal_tasks.questions.llm.dialect import MOST_PROBE_TOKENS, Dialect
from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.questions.writer import Author, ChunkToAsk
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.batch_collector import BATCH_WAIT_S, CANCELLING_S, BatchAnswers, BatchCollector, Reading
from heal_tasks.steps.writing.batch_sending import send_batch, waiting_for
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, STORE_EVERY, cost_usd, make_llm, spend_limit_of
from heal_tasks.steps.writing.question_recorder import QuestionRecorder
from heal_tasks.store.llm.batches import Batch, BatchRepository

AUTO_CHUNKS = 200
"""Number of chunks from which a task sends a batch with HEAL_LLM_BATCH=auto: fewer would save a few cents."""


def waits_for_batches(settings: Settings, route: object) -> bool:
    """Return whether step ask may send batches and wait for them: not on the route nudge, which is to take minutes."""
    return settings.llm_configured and settings.llm_batch != "off" and route != "nudge"


def make_batch_api(settings: Settings) -> BatchApi:
    """The Batch API of the endpoint that the settings name."""
    return BatchApi(settings.llm_url, settings.llm_key, settings.llm_timeout_s)


def worth_a_batch(settings: Settings, chunks: int) -> bool:
    """Return whether a task sends this number of chunks in a batch, if the endpoint can."""
    return chunks >= (1 if settings.llm_batch == "on" else AUTO_CHUNKS)


@dataclass(frozen=True)
class Remaining:
    """Chunks that no batch will answer in this run."""

    chunks: list[ChunkToAsk]  # to be asked about one by one
    over_spend_limit: int = 0  # number of chunks that the spend limit has no room for
    under_way: int = 0  # number of chunks in a batch that is not waited for


class Batches:
    """One task's batches at the endpoint that the settings name."""

    def __init__(self, context: Context) -> None:
        settings = self._settings = context.settings
        self._context, self._spec = context, question_prompt(settings.questions_per_chunk)
        self._limit = spend_limit_of(context)
        self._api = make_batch_api(settings)
        self._store = BatchRepository(context.conn, settings.llm_url)
        parse = self._spec.parse
        reading = Reading(
            lambda line: read_line(line, parse), lambda batch: BatchAnswers(context, self._store, batch), STORE_EVERY
        )
        self._collector = BatchCollector(context, self._api, self._store, reading)
        self._may_wait = waits_for_batches(settings, context.manifest.refs.get("route"))

    def collect(self) -> None:
        """Store the replies of every batch that has ended, whichever run sent it."""
        try:
            self._collector.collect()
        except HealError as error:
            if self._may_wait:
                raise  # the others go on without batches
            self._context.log.warning("batches are left for a later run: %s", error)

    def submit_or_defer(self, chunks: Sequence[ChunkToAsk]) -> Remaining:
        """Send the chunks that no batch has had yet; raise Waiting while some are in a batch, if this task may wait."""
        tried = self._store.texts_tried(self._context.run_id, self._settings.llm_model, self._spec.prompt_hash)
        under_way = self._under_way()
        again = [
            replace(chunk, problem=known.problem, cut_off=known.outcome == "cut_off")
            for chunk in chunks
            if (known := tried.get(chunk.content_hash)) and chunk.content_hash not in under_way
        ]
        fresh = [item for item in chunks if item.content_hash not in tried and item.content_hash not in under_way]
        over_spend_limit = 0
        if self._limit.limited and fresh and any(batch.age_s > BATCH_WAIT_S for batch in self.counted()):
            # Under a spend limit one small batch follows another; a run does not go on with that for days.
            over_spend_limit, fresh = len(fresh), []
        elif self._may_wait and self._worth_a_batch(fresh):
            self._submit(fresh)
            under_way = self._under_way()
            over_spend_limit, fresh = sum(item.content_hash not in under_way for item in fresh), []
        waiting = [chunk for chunk in chunks if chunk.content_hash in under_way]
        if waiting and self._may_wait:
            keys = {under_way[chunk.content_hash] for chunk in waiting}
            raise waiting_for(self._store, f"{len(waiting)} chunks", keys, "llm")
        return Remaining([*again, *fresh], over_spend_limit, len(waiting))

    def counted(self) -> list[Batch]:
        """The batches that this task has collected, with their counts."""
        return self._store.counted(self._context.run_id, self._context.shard)

    def _under_way(self) -> dict[str, str]:
        return self._store.texts_under_way(self._settings.llm_model, self._spec.prompt_hash)

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

    def _submit(self, chunks: list[ChunkToAsk]) -> None:
        """Send chunks in as few batches as the endpoint accepts, as far as the spend limit has room for them."""
        widest = Dialect("json_schema", "max_completion_tokens")
        sizes = [len(self._line(chunk, widest)) for chunk in chunks]
        dialect, probed, start = widest, dict[str, float](), 0
        for size in batch_sizes(sizes):
            part = chunks[start : start + size]
            granted = self._reserve(part, probing=not start)
            if granted and not start:
                dialect, probed = self._learn_dialect()
            if granted:
                self._send(part[:granted], dialect, probed)
            if granted < size:
                return
            start, probed = start + size, {}

    def _reserve(self, chunks: list[ChunkToAsk], *, probing: bool) -> int:
        if not self._limit.limited:
            return len(chunks)
        costs = [
            (chunk.chunk_id, BATCH_PRICE_FACTOR * cost_usd(self._settings, *self._spec.most_first_tokens(chunk)))
            for chunk in chunks
        ]
        if probing:
            costs[0] = (costs[0][0], costs[0][1] + cost_usd(self._settings, *MOST_PROBE_TOKENS))
        return self._limit.reserve(costs, lease_s=BATCH_WAIT_S + 2 * CANCELLING_S).count

    def _learn_dialect(self) -> tuple[Dialect, dict[str, float]]:
        """The request fields that the endpoint understands, and the counts of the probe."""
        dialect, calls = make_llm(self._settings).learn_dialect(self._spec)
        recorder = QuestionRecorder(self._context, Author("llm", self._settings.llm_model, self._spec.prompt_hash))
        recorder.add_calls(calls)
        recorder.store()
        return dialect, recorder.figures()

    def _line(self, chunk: ChunkToAsk, dialect: Dialect) -> bytes:
        fields = dialect.fields(self._spec.schema, self._spec.token_limit, self._spec.temperature)
        return request_line(chunk.content_hash, self._settings.llm_model, self._spec.messages(chunk), fields)

    def _send(self, chunks: list[ChunkToAsk], dialect: Dialect, counts: dict[str, float]) -> None:
        by_text = {chunk.content_hash: chunk for chunk in chunks}
        send_batch(
            self._context, self._api, self._store, self._collector,
            (self._settings.llm_model, self._spec.prompt_hash),
            [(chunk.content_hash, chunk.chunk_id) for chunk in chunks],
            lambda text: self._line(by_text[text], dialect),
            self._limit.release,
            counts,
        )  # fmt: skip
