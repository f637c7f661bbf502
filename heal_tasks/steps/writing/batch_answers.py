"""The replies of a batch, stored as they are read: questions, ledger, and what has come of each text, all at once."""

from collections import Counter

from heal_tasks.questions.llm.batch_lines import BatchReply
from heal_tasks.questions.writer import Author, ChunkToAsk, Draft, Written
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.writing.question_recorder import QuestionRecorder
from heal_tasks.store.llm.batches import Batch, BatchRepository, TextOutcome, Tried

Reply = BatchReply[tuple[Draft, ...]]


class BatchAnswers(QuestionRecorder):
    """The replies of one batch: in one transaction with what is stored, each text is settled.

    Args:
        context: of the step.
        batches: where.
        batch: which; what has come of it before is counted on.
    """

    def __init__(self, context: Context, batches: BatchRepository, batch: Batch) -> None:
        super().__init__(context, Author("llm", batch.model, batch.prompt_hash), batch)
        self._batches, self._batch = batches, batch
        self._answered, self._tried = list[str](), list[Tried]()

    def take(self, replies: dict[str, tuple[Reply, int]]) -> None:
        """Take in replies, by content hash with the chunk that was asked about, and store them."""
        live = self._batches.live({text: chunk_id for text, (_, chunk_id) in replies.items()})
        for text, (reply, chunk_id) in replies.items():
            found = live.get(text)
            if reply.call is None:
                self._tried.append(Tried(text, "unanswered", ""))
            elif found is None:
                # Deleted in the meantime: nothing is left of it but that it was paid for.
                self._answered.append(text)
                self.bill.add(ChunkToAsk(chunk_id, "", "", text), [reply.call])
            elif reply.call.status in ("ok", "refused"):
                self._answered.append(text)
                self._document_of[found.chunk_id] = found.document_id
                chunk = ChunkToAsk(found.chunk_id, found.title, found.text, text)
                self.add(Written(chunk, reply.value or (), (reply.call,)))
            else:
                outcome = _outcome(reply)
                self._tried.append(Tried(text, outcome, reply.problem if outcome == "invalid" else ""))
                self.bill.add(ChunkToAsk(found.chunk_id, "", "", text), [reply.call])
        self.store()

    def figures(self) -> dict[str, float]:
        """Counts, tokens and cost of the whole batch up to now."""
        total = Counter(self._batch.counts)
        total.update(super().figures())
        return dict(total)

    def store(self) -> None:
        """Store what was taken in since the last time, and settle its texts."""
        with self._context.conn.transaction():
            super().store()
            self._batches.settle(self._batch, self._answered, self._tried, self.figures())
        self._answered, self._tried = [], []


def _outcome(reply: Reply) -> TextOutcome:
    assert reply.call is not None
    if reply.call.status == "failed":
        return "failed"
    return "cut_off" if reply.cut_off else "invalid"
