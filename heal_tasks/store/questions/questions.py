"""Questions with the chunks that answer them: generated ones with cost and verdicts of filters, and judgments."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

from psycopg import sql

from heal_tasks.core.ids import natural_key, question_id, sha256_hex
from heal_tasks.core.text import storable
from heal_tasks.core.types import Question, Split
from heal_tasks.store.db import Repository, insert, scalar, select
from heal_tasks.store.documents.chunks import IN_PART, LiveChunk, live_chunks
from heal_tasks.store.llm.ledger import LlmCall, settle

SplitOf = Callable[[int, str], Split]
"""The split of a question, from its document's id and its text."""

DroppedBy = Literal["round_trip", "cross_encoder"]

HUMAN = "human"

SAMPLES = 20
"""Dropped questions stored as samples, per reason, run and shard, at most."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A question that a filter dropped, as in ``heal.question_dropped``; reason is the filter's name."""

    chunk_id: int
    text: str
    answer: str
    evidence: str
    kind: str
    writer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A chunk that a writer has answered, even if the filters kept no question, or refused."""

    chunk_id: int
    content_hash: str  # of its title and text
    prompt_hash: str
    model: str
    questions: Sequence[Question]
    dropped: int  # number of questions that the filters dropped
    samples: Sequence[Dropped] = ()  # some of the dropped questions
    status: str = "answered"  # answered or refused
    reason: str = ""  # the beginning of a refusal


class Check(NamedTuple):
    """A generated question and its verdicts."""

    question_id: int
    chunk_id: int  # the chunk that answers it
    round_trip_rank: int | None  # rank of that chunk among all chunks, from 1; None before the first check
    cross_encoder: str | None  # the model that gave the score
    cross_encoder_score: float | None  # in [0, 1]; None without one
    dropped_by: DroppedBy | None  # the filter that dropped it; None if it is in use


_ADD_ASKED = (
    "INSERT INTO heal.chunk_asked (content_hash, prompt_hash, model, chunk_id, questions, dropped, status, reason) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (chunk_id, prompt_hash, model) "
    "DO UPDATE SET questions = EXCLUDED.questions, dropped = EXCLUDED.dropped, status = EXCLUDED.status, "
    "reason = EXCLUDED.reason, asked_at = now()"
)

_NOT_ASKED = sql.SQL(
    "NOT EXISTS (SELECT FROM heal.chunk_asked a WHERE a.chunk_id = c.chunk_id AND a.prompt_hash = %s AND a.model = %s)"
)
_REUSABLE = sql.SQL(
    "SELECT c.chunk_id, c.document_id, c.content_hash, a.dropped, a.status, a.reason, "
    "q.text, q.answer, q.evidence, q.kind, q.writer FROM heal.chunk c CROSS JOIN LATERAL "
    "(SELECT a.chunk_id, a.dropped, a.status, a.reason FROM heal.chunk_asked a "
    "WHERE a.content_hash = c.content_hash AND a.prompt_hash = %s AND a.model = %s ORDER BY a.asked_at DESC LIMIT 1) a "
    "LEFT JOIN heal.question q ON q.chunk_id = a.chunk_id AND q.prompt_hash = %s AND q.model = %s "
    "WHERE c.superseded_at IS NULL AND {} AND {} ORDER BY c.chunk_id, q.question_id"
).format(_NOT_ASKED, IN_PART)


class QuestionRepository(Repository):
    """Generated questions, judgments, and the verdicts of filters that need vectors (round trip, cross-encoder)."""

    def unasked(self, prompt_hash: str, model: str, shard: int = 0, shards: int = 1) -> Iterator[LiveChunk]:
        """Live chunks that this model with this prompt has neither answered nor refused, by id, in one part."""
        condition = sql.SQL(" AND ").join([_NOT_ASKED, IN_PART])
        return live_chunks(self._conn, condition, (prompt_hash, model, shards, shard))

    def reuse_cached(self, prompt_hash: str, model: str, split_of: SplitOf, shard: int = 0, shards: int = 1) -> int:
        """Copy the questions of equal texts to unasked chunks, so that none is paid for again; return their number."""
        key, asked = (prompt_hash, model), list[Asked]()
        rows = self._conn.execute(_REUSABLE, (*key, *key, *key, shards, shard)).fetchall()
        for (chunk, document, content_hash, *outcome), copies in groupby(rows, key=lambda row: row[:6]):
            dropped, status, reason = outcome
            questions = [
                Question(
                    question_id(chunk, writer, text), chunk, text, answer, evidence, kind, writer, model, prompt_hash,
                    split_of(document, text),
                )
                for *_, text, answer, evidence, kind, writer in copies
                if text is not None
            ]  # fmt: skip
            asked.append(Asked(chunk, content_hash, *key, questions, dropped, (), status, reason))
        self.store("", asked, [])
        return len(asked)

    def store(self, run_id: str, asked: Sequence[Asked], calls: Sequence[LlmCall], shard: int = 0) -> None:
        """Store questions and all calls, failed ones included, and settle the reservations, in one transaction.

        Of a chunk that was deleted while the model wrote, only the cost of the call is stored.
        """
        with self._conn.transaction(), self._conn.cursor() as cursor:
            live = settle(cursor, run_id, calls, [item.chunk_id for item in asked])
            kept = [item for item in asked if item.chunk_id in live]
            questions = [question for item in kept for question in item.questions]
            insert(cursor, "question", questions, "ON CONFLICT DO NOTHING")
            rows = [
                (
                    item.content_hash, item.prompt_hash, item.model, item.chunk_id, len(item.questions), item.dropped,
                    item.status, storable(item.reason),
                )
                for item in kept
            ]  # fmt: skip
            cursor.executemany(_ADD_ASKED, rows)
            samples = [sample for item in kept for sample in item.samples]
            insert(cursor, "question_dropped", samples, run_id=run_id, shard=shard)

    def import_judgments(
        self, source: str, pairs: Sequence[tuple[str, str]], split_of: SplitOf
    ) -> tuple[int, list[str]]:
        """Store human questions, each with the external id of a document that answers it, at the first chunk of that.

        Returns:
            The number of new judgments, and the external ids that no live document has.
        """
        names = {external: natural_key(external) for _, external in pairs}
        found = self._conn.execute(
            "SELECT d.external_id, d.document_id, first.chunk_id FROM heal.document d, LATERAL "
            "(SELECT c.chunk_id FROM heal.chunk c WHERE c.document_id = coalesce(d.duplicate_of, d.document_id) "
            "AND c.superseded_at IS NULL ORDER BY c.ordinal LIMIT 1) first "
            "WHERE d.source = %s AND d.external_id = ANY(%s) AND d.deleted_at IS NULL",
            (source, list(names.values())),
        )
        places = {name: (document, chunk) for name, document, chunk in found}
        rows = [
            Question(
                question_id(place[0], HUMAN, storable(query)), place[1], query, answer="", evidence="", kind="question",
                writer=HUMAN, model="", prompt_hash=sha256_hex(HUMAN), split=split_of(place[0], query),
            )
            for query, external in pairs
            if (place := places.get(names[external]))
        ]  # fmt: skip
        with self._conn.transaction(), self._conn.cursor() as cursor:
            stored = insert(cursor, "question", rows, "ON CONFLICT DO NOTHING")
        return stored, sorted(external for external, name in names.items() if name not in places)

    def judgments(self) -> list[tuple[str, str, str, Split]]:
        """Text, external id and source of the document, and split of all human questions."""
        return self._conn.execute(
            "SELECT q.text, d.external_id, d.source, q.split FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
            "JOIN heal.document d USING (document_id) WHERE q.writer = %s ORDER BY 1, 3, 2",
            (HUMAN,),
        ).fetchall()

    def remove_judgments(self, text: str | None, external_id: str | None) -> int:
        """Delete the human questions of a text, with one document or all; all questions without a text.

        The votes that judgments were made of are deleted, too, or the next run would make them again.
        """
        removed = scalar(
            self._conn,
            """WITH removed AS (
                DELETE FROM heal.question q USING heal.chunk c JOIN heal.document d USING (document_id)
                WHERE c.chunk_id = q.chunk_id AND q.writer = %(human)s AND q.text = coalesce(%(text)s, q.text)
                    AND d.external_id = coalesce(%(id)s, d.external_id)
                RETURNING d.document_id, heal.text_key(q.text) AS question_key
            ), unvoted AS (
                DELETE FROM heal.feedback f USING heal.document d, removed r
                WHERE d.document_id = f.document_id AND f.question_key = r.question_key
                    AND r.document_id IN (d.document_id, d.duplicate_of)
            )
            SELECT count(*) FROM removed""",
            {"human": HUMAN, "text": text, "id": external_id},
        )
        return int(removed)

    def counts(self) -> list[tuple[str, str, str, int]]:
        """Numbers of questions in use of live chunks, by writer, kind and split."""
        return self._conn.execute(
            "SELECT q.writer, q.kind, q.split, count(*) FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
            "WHERE c.superseded_at IS NULL AND q.dropped_by IS NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        ).fetchall()

    def sampled(self, run_id: str, shard: int) -> dict[str, int]:
        """Numbers of dropped questions of a run and shard that are stored, by reason."""
        query = "SELECT reason, count(*) FROM heal.question_dropped WHERE run_id = %s AND shard = %s GROUP BY 1"
        return dict(self._conn.execute(query, (run_id, shard)).fetchall())

    def checkable(self, *splits: Split) -> list[Check]:
        """Generated questions of live chunks in some splits, by id."""
        rest = """FROM heal.question q JOIN heal.chunk c USING (chunk_id)
            WHERE q.split = ANY(%s) AND q.writer <> %s AND c.superseded_at IS NULL ORDER BY q.question_id"""
        return select(self._conn, Check, rest, (list(splits), HUMAN))

    def store_checks(self, run_id: str, checks: Sequence[Check]) -> None:
        """Store verdicts, with samples of newly dropped questions."""
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
            taken = Counter(self.sampled(run_id, 0))
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
