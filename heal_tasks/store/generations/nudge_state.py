"""The nudge state of a generation: touched chunks and probes, read and written in proportion to the changes.

Triggers record every chunk that is added or removed, or that gains or loses a question that moves rows
(``heal.nudge_touched``). The vector of a row depends only on its own base vector and its own questions, so no other row
can differ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.arrays import Float32Array, Int64Array, arrays
from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.spaces.spaces import space_table
from heal_tasks.store.spaces.vector_tables import read_keyed


@dataclass(frozen=True)
class TouchedRows:
    """Touched chunks that are live, with everything that their served vectors are computed from."""

    chunk_ids: Int64Array  # (m,), ascending
    document_ids: Int64Array  # (m,)
    leaves: NDArray[np.int32]  # (m,); -1 where the document has no label
    base: Float32Array  # (m, d)
    questions: Float32Array  # (q, d): those that move rows (``heal.moves_rows``); only human ones if the record says so
    answers: Int64Array  # (q,): the row, of the m, that answers each question
    shares: NDArray[np.float64]  # (q,): 1 / number of chunks that answer the question


@dataclass(frozen=True)
class Probes:
    """Held-out questions with the served chunks nearest to them, by question id."""

    question_ids: Int64Array  # (p,)
    question_sets: NDArray[np.str_]  # (p,): name of each question's set
    documents: Int64Array  # (p,): a document that answers each question
    positives: list[Int64Array]  # ids of the live chunks that answer each question
    vectors: Float32Array  # (p, d)
    chunk_ids: Int64Array  # (p, c), best first; -1 for an empty place
    scores: Float32Array  # (p, c); -inf for an empty place
    floor: Float32Array  # (p,): upper bound of the scores of all other chunks
    at_start: NDArray[np.float64]  # (p,): nDCG@10 when the generation was made


class NudgeState:
    """Touched chunks and probes of one generation, over an autocommit connection."""

    def __init__(self, conn: Connection, generation: Generation) -> None:
        self._conn, self._generation = conn, generation

    def touched(self) -> Int64Array:
        """Ids of all touched chunks, ascending, including chunks that no longer exist."""
        query = "SELECT chunk_id FROM heal.nudge_touched WHERE generation_id = %s ORDER BY 1"
        rows = self._conn.execute(query, (self._generation.generation_id,)).fetchall()
        return arrays(rows, np.int64)[0]

    def asked(self) -> int:
        """The number of touched chunks with human questions that came after the last nudge, even a refused one."""
        query = """
            SELECT count(DISTINCT t.chunk_id) FROM heal.nudge_touched t JOIN heal.moved_chunk m USING (chunk_id)
                JOIN heal.question q USING (question_id) JOIN heal.chunk c ON c.chunk_id = m.chunk_id
            WHERE t.generation_id = %(generation)s AND c.superseded_at IS NULL AND heal.moves_rows(q.split)
                AND q.dropped_by IS NULL AND q.writer = 'human' AND q.created_at > coalesce((
                    SELECT max(s.started_at) FROM heal.step_result s
                    WHERE s.step = 'nudge_live' AND s.finished_at IS NOT NULL
                        AND s.result -> 'refs' ->> 'generation_id' = %(generation)s::text), '-infinity')"""
        return int(scalar(self._conn, query, {"generation": self._generation.generation_id}))

    def touch(self, chunk_ids: Int64Array) -> None:
        """Mark chunks as touched: their served vectors have to be computed."""
        self._conn.execute(
            "INSERT INTO heal.nudge_touched SELECT %s, unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
            (self._generation.generation_id, chunk_ids.tolist()),
        )

    def settle(self, chunk_ids: Int64Array) -> None:
        """Mark chunks as untouched: their served vectors have been computed since ``touched`` was read."""
        self._conn.execute(
            "DELETE FROM heal.nudge_touched WHERE generation_id = %s AND chunk_id = ANY(%s)",
            (self._generation.generation_id, chunk_ids.tolist()),
        )

    def rows(self, touched: Int64Array) -> TouchedRows:
        """The live chunks among some ids, int64, shape (t,); StoreError if one or its question has no vector yet."""
        generation = self._generation
        live = self._conn.execute(
            """SELECT c.chunk_id, c.document_id, coalesce(t.leaf, -1) FROM heal.chunk c
            LEFT JOIN heal.document_topic t ON t.document_id = c.document_id AND t.topic_run_id = %s
            WHERE c.chunk_id = ANY(%s) AND c.superseded_at IS NULL ORDER BY 1""",
            (generation.topic_run_id, touched.tolist()),
        ).fetchall()
        chunk_ids, document_ids, leaves = arrays(live, np.int64, np.int64, np.int32)
        base_table = space_table(generation.space_id, "base")
        found, base = read_keyed(self._conn, base_table, "chunk", generation.dims, chunk_ids)
        self._complete("chunk", chunk_ids, found)
        asked = self._conn.execute(
            """SELECT DISTINCT ON (m.chunk_id, heal.text_key(q.text)) m.chunk_id, q.question_id,
                (SELECT count(DISTINCT n.chunk_id) FROM heal.question o JOIN heal.moved_chunk n USING (question_id)
                    JOIN heal.chunk c ON c.chunk_id = n.chunk_id
                 WHERE heal.text_key(o.text) = heal.text_key(q.text) AND heal.moves_rows(o.split)
                   AND o.dropped_by IS NULL AND (o.writer = 'human' OR NOT %(by_people)s)
                   AND c.superseded_at IS NULL) AS answers
            FROM heal.moved_chunk m JOIN heal.question q USING (question_id)
                JOIN heal.chunk c ON c.chunk_id = m.chunk_id
            WHERE heal.moves_rows(q.split) AND q.dropped_by IS NULL AND (q.writer = 'human' OR NOT %(by_people)s)
                AND m.chunk_id = ANY(%(ids)s) AND c.superseded_at IS NULL
            ORDER BY m.chunk_id, heal.text_key(q.text), q.question_id""",
            {"ids": chunk_ids.tolist(), "by_people": generation.by_people},
        ).fetchall()
        answered, question_ids, answers = arrays(asked, np.int64, np.int64, np.int64)
        question_table = space_table(generation.space_id, "question")
        found, vectors = read_keyed(self._conn, question_table, "question", generation.dims, question_ids)
        self._complete("question", question_ids, found)
        questions, places = vectors[np.searchsorted(found, question_ids)], np.searchsorted(chunk_ids, answered)
        return TouchedRows(chunk_ids, document_ids, leaves, base, questions, places, 1 / answers)

    def write_probes(self, probes: Probes) -> None:
        """Replace all probes."""
        with self._conn.transaction():
            query = "DELETE FROM heal.nudge_probe WHERE generation_id = %s"
            self._conn.execute(query, (self._generation.generation_id,))
            self.update_probes(probes)

    def update_probes(self, probes: Probes) -> None:
        """Store some probes and leave the others as they are; those whose question is gone meanwhile are left out."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO heal.nudge_probe (generation_id, question_set, floor, at_start, chunk_ids, scores, "
                "question_id) SELECT %s::bigint, %s::text, %s::real, %s::double precision, %s::bigint[], %s::real[], "
                "question_id FROM heal.question WHERE question_id = %s FOR KEY SHARE "
                "ON CONFLICT (generation_id, question_id) "
                "DO UPDATE SET chunk_ids = EXCLUDED.chunk_ids, scores = EXCLUDED.scores, floor = EXCLUDED.floor",
                [
                    (self._generation.generation_id, *row, ids[ids >= 0].tolist(), scores[ids >= 0].tolist(), question)
                    for *row, ids, scores, question in zip(
                        probes.question_sets.tolist(), probes.floor.tolist(), probes.at_start.tolist(),
                        probes.chunk_ids, probes.scores, probes.question_ids.tolist(), strict=True,
                    )
                ],
            )  # fmt: skip

    def probes(self, width: int) -> Probes:
        """All probes whose question has a live chunk, with ``width`` places each."""
        generation = self._generation
        rows: list[tuple[Any, ...]] = self._conn.execute(
            sql.SQL(
                """SELECT p.question_id, p.question_set, c.document_id, p.floor, p.at_start, p.chunk_ids, p.scores,
                    (SELECT array_agg(DISTINCT l.chunk_id) FROM heal.question o
                     JOIN heal.chunk own ON own.chunk_id = o.chunk_id
                     JOIN heal.chunk l ON l.document_id = own.document_id AND l.superseded_at IS NULL
                        AND (o.writer = 'human' OR l.chunk_id = o.chunk_id)
                     WHERE heal.text_key(o.text) = heal.text_key(q.text) AND o.split = q.split), b.embedding
                FROM heal.nudge_probe p JOIN heal.question q USING (question_id) JOIN {} b USING (question_id)
                JOIN heal.chunk c USING (chunk_id) WHERE p.generation_id = %s AND c.superseded_at IS NULL ORDER BY 1"""
            ).format(space_table(generation.space_id, "question")),
            (generation.generation_id,),
        ).fetchall()
        question_ids, sets, documents, floor, at_start = arrays(
            [row[:5] for row in rows], np.int64, np.str_, np.int64, np.float32, np.float64
        )
        chunk_ids = np.full((len(rows), width), -1, dtype=np.int64)
        scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
        vectors = np.empty((len(rows), generation.dims), dtype=np.float32)
        for number, (places, values, _, vector) in enumerate(row[5:] for row in rows):
            chunk_ids[number, : len(places)], scores[number, : len(values)] = places, values
            vectors[number] = vector.to_numpy()
        positives = [np.array(row[7], dtype=np.int64) for row in rows]
        return Probes(question_ids, sets, documents, positives, vectors, chunk_ids, scores, floor, at_start)

    def _complete(self, what: str, wanted: Int64Array, found: Int64Array) -> None:
        missing = np.setdiff1d(wanted, found)
        if len(missing):
            raise StoreError(
                f"{len(missing)} {what} vectors of generation {self._generation.generation_id} are missing, first id "
                f"{missing[0]}; run embed_new again"
            )
