"""Records the replies of a batch page by page: questions, calls and the state of each text in one transaction."""

from collections import Counter

from heal_tasks.questions.llm.replies import ParsedReply
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk, Drafts
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.question_recorder import QuestionRecorder
from heal_tasks.store.llm.batches import Batch, BatchRepository, TextOutcome, Tried

Reply = ParsedReply[Drafts] | None
"""None for a request that was never run."""


class BatchAnswers(QuestionRecorder):
    """Records the replies of one batch, whose counts it continues."""

    def __init__(self, context: Context, batches: BatchRepository, batch: Batch) -> None:
        super().__init__(context, Author("llm", batch.model, batch.prompt_hash), batch)
        self._batches, self._batch = batches, batch
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
                self.add_calls(ChunkToAsk(chunk_id, "", "", text), [reply.call])
            elif reply.call.status in ("ok", "refused"):
                self._answered.append(text)
                self._document_of[found.chunk_id] = found.document_id
                chunk = ChunkToAsk(found.chunk_id, found.title, found.text, text)
                self.add(Answered(chunk, reply.value, (reply.call,)))
            else:
                outcome: TextOutcome = "failed" if reply.call.status == "failed" else "invalid"
                tried = Tried(text, "cut_off", "") if reply.cut_off else Tried(text, outcome, reply.problem)
                self._tried.append(tried)
                self.add_calls(ChunkToAsk(found.chunk_id, "", "", text), [reply.call])
        self.store()

    def figures(self) -> dict[str, float]:
        """Counts, tokens and cost of the whole batch up to now."""
        total = Counter(self._batch.counts)
        total.update(super().figures())
        return dict(total)

    def store(self) -> None:
        """Store what was added since the last time, and record the outcome of its texts."""
        with self._context.conn.transaction():
            super().store()
            self._batches.settle(self._batch, self._answered, self._tried, self.figures())
        self._answered, self._tried = [], []
