"""Verdicts of the filters that need vectors (round trip, cross-encoder) on generated questions."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from heal_tasks.core.types import Split
from heal_tasks.store.db import Repository
from heal_tasks.store.questions.questions import HUMAN, SAMPLES, QuestionRepository
from heal_tasks.store.rows import select

DroppedBy = Literal["round_trip", "cross_encoder"]


class Check(NamedTuple):
    """A generated question and its verdicts."""

    question_id: int
    chunk_id: int  # the chunk that answers it
    round_trip_rank: int | None  # rank of that chunk among all chunks, from 1; None before the first check
    cross_encoder: str | None  # the model that gave the score
    cross_encoder_score: float | None  # in [0, 1]; None without one
    dropped_by: DroppedBy | None  # the filter that dropped it; None if it is in use


class CheckRepository(Repository):
    """Verdicts on questions."""

    def questions(self, *splits: Split) -> list[Check]:
        """Generated questions of live chunks in some splits, by id."""
        rest = """FROM heal.question q JOIN heal.chunk c USING (chunk_id)
            WHERE q.split = ANY(%s) AND q.writer <> %s AND c.superseded_at IS NULL ORDER BY q.question_id"""
        return select(self._conn, Check, rest, (list(splits), HUMAN))

    def store(self, run_id: str, checks: Sequence[Check]) -> None:
        """Store verdicts, with samples of newly dropped questions; touch the chunks of questions that came or went."""
        columns = [list(column) for column in zip(*checks, strict=True)] or [[] for _ in Check._fields]
        with self._conn.transaction():
            written = self._conn.execute(
                """WITH v AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::integer[], %s::text[], %s::real[],
                    %s::text[]) AS v (question_id, chunk_id, rank, judge, score, dropped_by)),
                before AS (SELECT q.question_id, q.dropped_by FROM heal.question q JOIN v USING (question_id) FOR UPDATE
                    OF q)
                UPDATE heal.question q SET round_trip_rank = v.rank, cross_encoder = v.judge,
                    cross_encoder_score = v.score, dropped_by = v.dropped_by
                FROM v JOIN before USING (question_id) WHERE q.question_id = v.question_id
                    AND (q.round_trip_rank, q.cross_encoder, q.cross_encoder_score, q.dropped_by)
                        IS DISTINCT FROM (v.rank, v.judge, v.score, v.dropped_by)
                RETURNING q.question_id, v.dropped_by, before.dropped_by""",
                columns,
            ).fetchall()
            # Touch the chunks that these questions move, as the trigger touch_chunks does for new questions.
            self._conn.execute(
                """SELECT heal.touch(array_agg(DISTINCT o.chunk_id))
                FROM heal.question q JOIN heal.question o ON heal.text_key(o.text) = heal.text_key(q.text)
                WHERE q.question_id = ANY(%s) AND heal.moves_rows(o.split)""",
                ([key for key, reason, before in written if (reason is None) != (before is None)],),
            )
            taken = Counter(QuestionRepository(self._conn).sampled(run_id, 0))
            for key, reason, before in sorted(written):
                if reason is not None and before is None and taken[reason] < SAMPLES:
                    taken[reason] += 1
                    self._conn.execute(
                        """INSERT INTO heal.question_dropped
                            (run_id, shard, chunk_id, text, answer, evidence, kind, writer, reason)
                        SELECT %s, 0, chunk_id, text, answer, evidence, kind, writer, %s
                        FROM heal.question WHERE question_id = %s""",
                        (run_id, reason, key),
                    )
