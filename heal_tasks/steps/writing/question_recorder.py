"""Filters, counts and stores the questions written for chunks, together with the calls that they cost."""

from collections import Counter
from collections.abc import Sequence

from heal_tasks.core.ids import question_id, stable_id
from heal_tasks.core.setting_groups import ROUND_TRIP
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Split
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.filters import check_drafts
from heal_tasks.questions.llm.client import LLMWriter
from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.questions.splits import split_of
from heal_tasks.questions.writer import Author, ChunkToAsk, Writer, Written
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import make_llm, one_per_text
from heal_tasks.steps.writing.recorder import Bill, Recorder
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.llm.batches import Batch
from heal_tasks.store.llm.ledger import LlmCall
from heal_tasks.store.questions.questions import SAMPLES, Asked, Dropped, QuestionRepository


def make_writer(settings: Settings, conn: Connection) -> Writer:
    """The LLM writer where an endpoint or a key is set, else the extractive writer."""
    if not settings.llm_configured:
        return ExtractiveWriter(settings.questions_per_chunk, Corpus(conn).sampled_texts)
    return LLMWriter(make_llm(settings), question_prompt(settings.questions_per_chunk))


class QuestionRecorder(Recorder[Written, Asked]):
    """Records the questions of one shard.

    Args:
        context: of the step.
        writer: of the questions.
        batch: that the calls were part of; its run pays for them.
    """

    def __init__(self, context: Context, writer: Writer | Author, batch: Batch | None = None) -> None:
        self._context, self._writer = context, writer
        self._repository = QuestionRepository(context.conn)
        self._document_of: dict[int, int] = {}
        self._payer = batch.run_id if batch else context.run_id
        self._samples: Counter[str] = Counter(self._repository.sampled(context.run_id, context.shard))
        self.reused = 0
        filters = (f"dropped_{name}" for name in context.settings.question_filters if name != ROUND_TRIP)
        super().__init__(
            Bill(
                context.settings, "questions", writer.model, writer.prompt_hash, batch.batch_id if batch else None
            ),
            ("asked", "kept", "dropped", *filters),
        )  # fmt: skip

    def to_ask(self) -> list[ChunkToAsk]:
        """This shard's chunks that have to be asked about, one per text, after a ``reuse``."""
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

    def _write(self, rows: Sequence[Asked], calls: Sequence[LlmCall]) -> None:
        self._repository.store(self._payer, rows, calls, self._context.shard)

    def _row(self, answer: Written) -> Asked:
        chunk, writer, kept, samples, dropped = answer.chunk, self._writer, list[Question](), list[Dropped](), 0
        for draft, reason in check_drafts(answer.drafts, chunk, self._context.settings.question_filters):
            if reason is None:
                number = question_id(chunk.chunk_id, writer.name, draft.text)
                kept.append(
                    Question(
                        question_id=number, chunk_id=chunk.chunk_id, text=draft.text, answer=draft.answer,
                        evidence=draft.evidence, kind=draft.kind, writer=writer.name, model=writer.model,
                        prompt_hash=writer.prompt_hash, split=_split(self._document_of[chunk.chunk_id], draft.text),
                    )
                )  # fmt: skip
                continue
            dropped += 1
            self.counts[f"dropped_{reason}"] += 1
            self._samples[reason] += 1
            if self._samples[reason] <= SAMPLES:
                samples.append(
                    Dropped(chunk.chunk_id, draft.text, draft.answer, draft.evidence, draft.kind, writer.name, reason)
                )
        self.counts.update(asked=1, kept=len(kept), dropped=dropped)
        return Asked(
            chunk.chunk_id, chunk.content_hash, writer.prompt_hash, writer.model, kept, dropped, samples
        )  # fmt: skip


def _split(document_id: int, text: str) -> Split:
    return split_of(document_id, stable_id(text))
