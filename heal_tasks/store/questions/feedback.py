"""Feedback: people's votes on answers, and the judgments that are made of them where enough people agree."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from heal_tasks.core.ids import question_id, sha256_hex
from heal_tasks.core.text import storable
from heal_tasks.core.types import Question, Split
from heal_tasks.store.db import Connection, Repository, insert, select
from heal_tasks.store.generations.search import named_errors
from heal_tasks.store.questions.questions import HUMAN

FEEDBACK = "feedback"
"""``model`` of judgments that come from feedback; those that were imported have none."""

AGREEMENT = 3
"""Votes for an answer for each vote against it, at least: one mistaken click does not undo what three people said."""


SplitOf = Callable[[int, str, Split | None], Split]
"""The split of a judgment by its document, its question, and the split of a judgment of the same question."""


class Vote(NamedTuple):
    """A vote, as in ``heal.feedback``."""

    question: str
    external_id: str  # of the document, in its source
    voter: str
    good: bool
    given_at: datetime


@named_errors()
def record_feedback(
    conn: Connection, question: str, chunk_id: int, good: bool | None, voter: str | None = None
) -> None:
    """Store whether a chunk's document answers a question: ``heal.feedback``; None takes the vote back.

    Raises:
        InputError: there is no such chunk, the question is empty or too long, or this user may not vote for ``voter``.
    """
    conn.execute("SELECT heal.feedback(%s, %s::bigint, %s, %s)", (storable(question), chunk_id, good, voter))


class FeedbackRepository(Repository):
    """Votes on answers."""

    def votes(self) -> list[Vote]:
        """All votes, by question, document and voter."""
        rest = "FROM heal.feedback JOIN heal.document USING (document_id) ORDER BY lower(question), external_id, voter"
        return select(self._conn, Vote, rest)

    def remove(self, voter: str) -> int:
        """Delete the votes of a person, and return their number; the next run takes back what they brought about."""
        return self._conn.execute("DELETE FROM heal.feedback WHERE voter = %s", (voter,)).rowcount

    def settle(self, people: int, split_of: SplitOf) -> tuple[int, int]:
        """Make judgments of votes where enough people agree, and delete those of such judgments that they left.

        Args:
            people: the number of people who have to say that a document answers a question; 0: no judgment is made.
            split_of: gives the split of a new judgment.

        Returns:
            The numbers of judgments that came, and that went.
        """
        with self._conn.transaction():
            agreed = self._conn.execute(_AGREED, {"people": people, "agreement": AGREEMENT}).fetchall()
            keys = [[row[column] for row in agreed] for column in (0, 1)]
            gone = self._conn.execute(
                _LEFT, {"human": HUMAN, "feedback": FEEDBACK, "documents": keys[0], "keys": keys[1]}
            )
            return _add(self._conn, [row for row in agreed if not row[4]], split_of), gone.rowcount


def _add(conn: Connection, agreed: list[tuple[int, int, str, int, bool, Split | None]], split_of: SplitOf) -> int:
    rows = [
        Question(
            question_id(document, HUMAN, text), chunk, text, answer="", evidence="", kind="question", writer=HUMAN,
            model=FEEDBACK, prompt_hash=sha256_hex(HUMAN), split=split_of(document, text, split),
        )
        for document, _, text, chunk, _, split in agreed
    ]  # fmt: skip
    with conn.cursor() as cursor:
        return insert(cursor, "question", rows, "ON CONFLICT DO NOTHING")


# A vote on a duplicate is one on the document whose chunks represent both. The first spelling of a question is taken.
_AGREED = """
WITH agreed AS (
    SELECT coalesce(d.duplicate_of, d.document_id) AS document_id, f.question_key,
           (array_agg(f.question ORDER BY f.given_at, f.voter))[1] AS question
    FROM heal.feedback f JOIN heal.document d USING (document_id) WHERE d.deleted_at IS NULL GROUP BY 1, 2
    HAVING %(people)s > 0 AND count(DISTINCT f.voter) FILTER (WHERE f.good)
        >= greatest(%(people)s, %(agreement)s * count(DISTINCT f.voter) FILTER (WHERE NOT f.good))
)
SELECT a.document_id, a.question_key, a.question, first.chunk_id,
       EXISTS (SELECT FROM heal.question q JOIN heal.chunk c USING (chunk_id)
               WHERE q.writer = 'human' AND heal.text_key(q.text) = a.question_key AND c.document_id = a.document_id),
       (SELECT q.split FROM heal.question q WHERE q.writer = 'human' AND heal.text_key(q.text) = a.question_key LIMIT 1)
FROM agreed a, LATERAL (SELECT c.chunk_id FROM heal.chunk c WHERE c.document_id = a.document_id
                        AND c.superseded_at IS NULL ORDER BY c.ordinal LIMIT 1) first
ORDER BY 1, 2"""

_LEFT = """
DELETE FROM heal.question q USING heal.chunk c
WHERE c.chunk_id = q.chunk_id AND q.writer = %(human)s AND q.model = %(feedback)s AND NOT EXISTS (
    SELECT FROM unnest(%(documents)s::bigint[], %(keys)s::bigint[]) AS a (document_id, question_key)
    WHERE (a.document_id, a.question_key) = (c.document_id, heal.text_key(q.text)))"""
