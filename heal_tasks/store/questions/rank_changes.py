"""Questions whose answers a promoted generation ranks otherwise than the one before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from heal_tasks.store.db import Connection, insert, select


@dataclass(frozen=True, slots=True)
class RankChange:
    """Ranks of the first right answer to a question, before and after; None: not among the first ten."""

    question_id: int
    path: Literal["text", "encoder"]
    rank_before: int | None
    rank_after: int | None


class NamedChange(NamedTuple):
    """A rank change with the question's text and the title of the document that answers it."""

    generation_id: int
    path: str
    rank_before: int | None
    rank_after: int | None
    question: str
    title: str

    @property
    def gain(self) -> float:
        """Difference of the reciprocal ranks; positive where the answer rose."""
        return 1 / (self.rank_after or float("inf")) - 1 / (self.rank_before or float("inf"))


def write_rank_changes(conn: Connection, generation_id: int, changes: Sequence[RankChange]) -> None:
    """Store the changes that a new generation brings; those of questions that are gone are left out."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute(
            "SELECT question_id FROM heal.question WHERE question_id = ANY(%s) FOR KEY SHARE",
            ([change.question_id for change in changes],),
        )
        live = {row[0] for row in cursor}
        kept = [change for change in changes if change.question_id in live]
        insert(cursor, "rank_change", kept, generation_id=generation_id)


def last_rank_changes(conn: Connection) -> list[NamedChange]:
    """The changes of the last generation that was promoted by the gate, largest gain first; empty without any.

    Those about documents that this session may not read are left out.
    """
    rest = """FROM (
        SELECT r.*, q.text AS question, d.title FROM heal.rank_change r
        JOIN heal.question q USING (question_id)
        JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
        WHERE r.generation_id = (SELECT max(r.generation_id) FROM heal.rank_change r JOIN heal.generation g
                                 USING (generation_id) WHERE g.activated_at IS NOT NULL)
            AND heal.may_read(d.document_id)
        ORDER BY r.question_id) changed"""
    return sorted(select(conn, NamedChange, rest), key=lambda change: -change.gain)
