"""How many questions there are to train, to validate and to judge by: what a run can measure."""

from collections.abc import Mapping
from dataclasses import dataclass

from heal_tasks.store.db import Connection


@dataclass(frozen=True, slots=True)
class QuestionCounts:
    """Numbers of documents, chunks, and distinct questions in use of live chunks."""

    documents: int
    chunks: int  # live ones
    asked: int  # live chunks for which somebody was asked for questions
    dropped: int  # questions that filters dropped
    dropped_by: tuple[str, ...]  # the filters, those with most samples first
    generated: Mapping[str, int]  # questions by split; those of language model and extractive writer
    human: Mapping[str, int]  # the same of people

    @property
    def questions(self) -> int:
        """All questions in use."""
        return sum(self.generated.values()) + sum(self.human.values())


def read_question_counts(conn: Connection) -> QuestionCounts:
    """Count what is in the store."""
    ((documents, chunks, asked, dropped, dropped_by),) = conn.execute(
        """SELECT (SELECT count(*) FROM heal.document WHERE deleted_at IS NULL),
            (SELECT count(*) FROM heal.chunk WHERE superseded_at IS NULL),
            (SELECT count(DISTINCT chunk_id) FROM heal.chunk_asked JOIN heal.chunk USING (chunk_id)
             WHERE superseded_at IS NULL),
            (SELECT coalesce(sum(dropped), 0)::bigint FROM heal.chunk_asked)
                + (SELECT count(*) FROM heal.question WHERE dropped_by IS NOT NULL),
            ARRAY(SELECT reason FROM heal.question_dropped GROUP BY 1 ORDER BY count(*) DESC, reason)"""
    ).fetchall()
    counted = conn.execute(
        """SELECT q.writer = 'human', q.split, count(DISTINCT heal.text_key(q.text))
        FROM heal.question q JOIN heal.chunk c USING (chunk_id)
        WHERE c.superseded_at IS NULL AND q.dropped_by IS NULL GROUP BY 1, 2"""
    ).fetchall()
    generated, people = ({split: number for who, split, number in counted if who == human} for human in (False, True))
    return QuestionCounts(documents, chunks, asked, dropped, tuple(dropped_by), generated, people)
