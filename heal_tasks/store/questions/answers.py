"""Answers that a language model gave from retrieved passages, one per question, passages, prompt and model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from heal_tasks.store.db import Connection, insert
from heal_tasks.store.llm.ledger import LlmCall, settle


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A row of ``heal.answer``."""

    content_hash: str  # of the question and the passages
    prompt_hash: str
    model: str
    chunk_ids: list[int]  # the question's source chunk, then those of the passages
    status: str  # ok or refused
    answer: str  # empty where the passages hold none, or the model refused
    evidence: str  # the quotation that the model gives for it


class AnswerRepository:
    """Answers by one model to one prompt; the connection is an autocommit one."""

    def __init__(self, conn: Connection, prompt_hash: str, model: str) -> None:
        self._conn, self._key = conn, (prompt_hash, model)

    def known(self, content_hashes: Collection[str]) -> dict[str, tuple[str, str] | None]:
        """Answer and evidence by content hash, both empty where the passages hold none; None for a refusal."""
        rows = self._conn.execute(
            "SELECT content_hash, status, answer, evidence FROM heal.answer "
            "WHERE prompt_hash = %s AND model = %s AND content_hash = ANY(%s)",
            (*self._key, list(content_hashes)),
        )
        return {key: (answer, evidence) if status == "ok" else None for key, status, answer, evidence in rows}

    def store(self, run_id: str, answers: Sequence[StoredAnswer], calls: Sequence[LlmCall]) -> None:
        """Store answers and all calls, and settle the reservations, in one transaction.

        An answer may quote any of its chunks, so it is not stored where one was deleted meanwhile. The ledger keeps
        errors but no replies: a reply would be deleted with one of its chunks only.
        """
        ledger = [call if call.status == "failed" else replace(call, raw_reply=None) for call in calls]
        with self._conn.transaction(), self._conn.cursor() as cursor:
            settle(cursor, run_id, ledger, [answer.chunk_ids[0] for answer in answers])
            wanted = list({chunk_id for answer in answers for chunk_id in answer.chunk_ids})
            cursor.execute("SELECT chunk_id FROM heal.chunk WHERE chunk_id = ANY(%s) FOR KEY SHARE", (wanted,))
            live = {row[0] for row in cursor}
            kept = [answer for answer in answers if live.issuperset(answer.chunk_ids)]
            insert(cursor, "answer", kept, "ON CONFLICT DO NOTHING")
