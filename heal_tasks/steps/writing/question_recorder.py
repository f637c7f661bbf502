"""What comes back about a chunk, whoever wrote it: judged, counted, and stored with what it cost."""

from collections import Counter
from collections.abc import Sequence

from heal_tasks.core.ids import question_id, stable_id
from heal_tasks.core.setting_groups import ROUND_TRIP
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Split
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.filters import Reason, judge
from heal_tasks.questions.llm.client import LLMWriter, question_inquiry
from heal_tasks.questions.llm.prompt_spec import PromptSpec
from heal_tasks.questions.splits import split_of
from heal_tasks.questions.writer import Author, ChunkToAsk, Draft, Writer, Written
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import STORE_EVERY, Bill, make_llm, one_per_text
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.llm.batches import Batch
from heal_tasks.store.questions.questions import SAMPLES, Asked, Dropped, QuestionRepository

TEMPERATURE = 0.7
"""Sampling temperature of questions: at 0 the questions of like chunks are alike. Not sent where it is refused."""


def make_writer(settings: Settings, conn: Connection) -> Writer:
    """The LLM writer where an endpoint or a key is set, else the extractive writer."""
    if not settings.llm_configured:
        return ExtractiveWriter(settings.questions_per_chunk, Corpus(conn).sampled_texts)
    return LLMWriter(make_llm(settings), make_inquiry(settings))


def make_inquiry(settings: Settings) -> PromptSpec[tuple[Draft, ...]]:
    """What the settings have a language model asked for questions."""
    return question_inquiry(settings.questions_per_chunk, TEMPERATURE)


class QuestionRecorder:
    """What one shard asks: judges what comes back, stores it every few chunks, and counts.

    Args:
        context: of the step.
        writer: whose questions these are.
        batch: that the calls were part of; its run pays for them.
    """

    def __init__(self, context: Context, writer: Writer | Author, batch: Batch | None = None) -> None:
        self._context, self._writer = context, writer
        self._repository = QuestionRepository(context.conn)
        self._document_of: dict[int, int] = {}
        self._asked = list[Asked]()
        self.bill = Bill(
            context.settings, "questions", writer.model, writer.prompt_hash, batch_id=batch.batch_id if batch else None
        )
        self._payer = batch.run_id if batch else context.run_id
        self._samples: Counter[str] = Counter(self._repository.sampled(context.run_id, context.shard))
        self.counts: Counter[str] = Counter(asked=0, kept=0, dropped=0, failed=0)
        self.counts.update({f"dropped_{name}": 0 for name in context.settings.question_filters if name != ROUND_TRIP})
        self.reused = 0

    def to_ask(self) -> list[ChunkToAsk]:
        """This shard's chunks that have to be asked about, by id; all others are given what is known about their text.

        Returns:
            One chunk per text: its copies get its questions afterwards, by ``reuse``.
        """
        self.reuse()
        writer, shard, shards = self._writer, self._context.shard, self._context.shards
        chunks = list(self._repository.unasked(writer.prompt_hash, writer.model, shard, shards))
        self._document_of = {chunk.chunk_id: chunk.document_id for chunk in chunks}
        return one_per_text(chunks)

    def reuse(self) -> None:
        """Give chunks the questions that an equal text of a live document has."""
        self.reused += self._repository.reuse_cached(
            self._writer.prompt_hash, self._writer.model, _split, self._context.shard, self._context.shards
        )

    def add(self, written: Written) -> None:
        """Take in what came of one chunk; stored from time to time."""
        chunk = written.chunk
        self.bill.add(chunk, written.calls)
        if written.status == "failed":
            self.counts["failed"] += 1
        else:
            # What was refused or never valid is settled too: asked again it would be paid for again.
            reasons = self._judge(chunk, written.drafts)
            self.counts["asked"] += 1
            self.counts["dropped"] += reasons.total()
            self.counts["kept"] += len(written.drafts) - reasons.total()
            self.counts.update({f"dropped_{reason}": number for reason, number in reasons.items()})
        if len(self._asked) + len(self.bill.calls) >= STORE_EVERY:
            self.store()

    def store(self) -> None:
        """Store what was taken in since the last time."""
        self._repository.store(self._payer, self._asked, self.bill.calls, self._context.shard)
        self._asked, self.bill.calls = [], []

    def figures(self) -> dict[str, float]:
        """Counts, tokens and cost up to now."""
        return {**self.counts, **self.bill.figures()}

    def _judge(self, chunk: ChunkToAsk, drafts: Sequence[Draft]) -> Counter[Reason]:
        """Put a chunk's questions with those to be stored; how many were dropped, by reason."""
        writer, kept, samples, reasons = self._writer, list[Question](), list[Dropped](), Counter[Reason]()
        document = self._document_of[chunk.chunk_id]
        for draft, reason in judge(drafts, chunk, self._context.settings.question_filters):
            if reason is None:
                number = question_id(chunk.chunk_id, writer.name, draft.text)
                kept.append(
                    Question(
                        question_id=number, chunk_id=chunk.chunk_id, text=draft.text, answer=draft.answer,
                        evidence=draft.evidence, kind=draft.kind, writer=writer.name, model=writer.model,
                        prompt_hash=writer.prompt_hash, split=_split(document, draft.text),
                    )
                )  # fmt: skip
                continue
            reasons[reason] += 1
            self._samples[reason] += 1
            if self._samples[reason] <= SAMPLES:
                samples.append(
                    Dropped(chunk.chunk_id, draft.text, draft.answer, draft.evidence, draft.kind, writer.name, reason)
                )
        asked = Asked(
            chunk.chunk_id, chunk.content_hash, writer.prompt_hash, writer.model, kept, reasons.total(), samples
        )
        self._asked.append(asked)
        return reasons


def _split(document_id: int, text: str) -> Split:
    return split_of(document_id, stable_id(text))
