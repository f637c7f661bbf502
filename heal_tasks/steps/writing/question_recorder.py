"""Filters, counts and stores the questions written for chunks, together with the calls that they cost."""

from collections import Counter
from functools import partial

from heal_tasks.core.ids import question_id, stable_id
from heal_tasks.core.setting_groups import ROUND_TRIP
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Split
from heal_tasks.questions.extractive.writer import ExtractiveWriter
from heal_tasks.questions.filters import check_drafts
from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.questions.splits import split_of
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk, Drafts, Write
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.llm_calls import Recorder, make_llm, one_per_text
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.llm.batches import Batch
from heal_tasks.store.questions.questions import SAMPLES, Asked, Dropped, QuestionRepository


def make_writer(settings: Settings, conn: Connection) -> tuple[Author, Write[Drafts]]:
    """The language model where an endpoint or a key is set, else the extractive writer."""
    if not settings.llm_configured:
        writer = ExtractiveWriter(settings.questions_per_chunk, Corpus(conn).sampled_texts)
        return writer.author, writer.write
    spec = question_prompt(settings.questions_per_chunk)
    return Author("llm", settings.llm_model, spec.prompt_hash), partial(make_llm(settings).ask, spec)


REASON_CHARS = 500
"""Stored of a refusal beside its chunk; heal.llm_call has all of it."""


class QuestionRecorder(Recorder[Drafts, Asked]):
    """Records the questions of one shard, or of a batch."""

    def __init__(self, context: Context, author: Author, batch: Batch | None = None) -> None:
        self._repository = QuestionRepository(context.conn)
        self._document_of: dict[int, int] = {}
        self._samples: Counter[str] = Counter(self._repository.sampled(context.run_id, context.shard))
        filters = (f"dropped_{name}" for name in context.settings.question_filters if name != ROUND_TRIP)
        store = partial(self._repository.store, shard=context.shard)
        super().__init__(context, "questions", author, store, ("asked", "refused", "kept", "dropped", *filters), batch)

    def to_ask(self) -> list[ChunkToAsk]:
        """This shard's chunks that have to be asked about, one per text, after a ``reuse``."""
        self.reuse()
        author, shard, shards = self._author, self.context.shard, self.context.shards
        chunks = list(self._repository.unasked(author.prompt_hash, author.model, shard, shards))
        self._document_of = {chunk.chunk_id: chunk.document_id for chunk in chunks}
        return self.new_first(one_per_text(chunks))

    def reuse(self) -> None:
        """Give chunks the questions that an equal text of a live document has."""
        self.counts["reused"] += self._repository.reuse_cached(
            self._author.prompt_hash, self._author.model, _split, self.context.shard, self.context.shards
        )

    def _row(self, answer: Answered[Drafts]) -> Asked:
        chunk, author, drafts = answer.chunk, self._author, answer.value or ()
        kept, samples = list[Question](), list[Dropped]()
        for draft, reason in check_drafts(drafts, chunk, self.context.settings.question_filters):
            written = chunk.chunk_id, draft.text, draft.answer, draft.evidence, draft.kind
            if reason is None:
                split = _split(self._document_of[chunk.chunk_id], draft.text)
                kept.append(Question(question_id(chunk.chunk_id, author.name, draft.text), *written, *author, split))
                continue
            self.counts[f"dropped_{reason}"] += 1
            self._samples[reason] += 1
            if self._samples[reason] <= SAMPLES:
                samples.append(Dropped(*written, author.name, reason))
        dropped = len(drafts) - len(kept)
        refused = answer.status == "refused"
        self.counts.update(asked=1, kept=len(kept), dropped=dropped, refused=refused)
        return Asked(
            chunk.chunk_id, chunk.content_hash, author.prompt_hash, author.model, kept, dropped, samples,
            "refused" if refused else "answered", answer.calls[-1].raw_reply[:REASON_CHARS] if refused else "",
        )  # fmt: skip


def _split(document_id: int, text: str) -> Split:
    return split_of(document_id, stable_id(text))
