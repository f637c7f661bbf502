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
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.rows import arrays
from heal_tasks.store.spaces.copying import Float32Array, Int64Array, copy_vectors_out
from heal_tasks.store.spaces.space import space_table

_LIVE = "c.superseded_at IS NULL AND d.deleted_at IS NULL AND d.duplicate_of IS NULL"


@dataclass(frozen=True)
class TouchedRows:
    """Touched chunks that are live, with everything that their served vectors are computed from.

    Args:
        chunk_ids: int64, shape (m,), ascending.
        document_ids: int64, shape (m,).
        leaves: int32, shape (m,); -1 where the document has no label.
        base: float32, shape (m, d).
        questions: float32, shape (q, d): questions of these chunks that move rows (``heal.moves_rows``); only people's
            if the nudge record says so.
        answers: int64, shape (q,): the row, of the m, that answers each question.
        shares: float64, shape (q,): 1 / number of chunks that answer the question.
    """

    chunk_ids: Int64Array
    document_ids: Int64Array
    leaves: NDArray[np.int32]
    base: Float32Array
    questions: Float32Array
    answers: Int64Array
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Probes:
    """Held-out questions with the served chunks nearest to them, by question id.

    Args:
        question_ids: int64, shape (p,).
        question_sets: name of each question's set, shape (p,).
        documents: int64, shape (p,): a document that answers each question.
        positives: int64 ids of the live chunks that answer each question.
        vectors: float32, shape (p, d).
        chunk_ids: int64, shape (p, c), best first; -1 for an empty place.
        scores: float32, shape (p, c); -inf for an empty place.
        floor: float32, shape (p,): upper bound of the scores of all other chunks.
        at_start: float64, shape (p,): nDCG@10 when the generation was made.
    """

    question_ids: Int64Array
    question_sets: NDArray[np.str_]
    documents: Int64Array
    positives: list[Int64Array]
    vectors: Float32Array
    chunk_ids: Int64Array
    scores: Float32Array
    floor: Float32Array
    at_start: NDArray[np.float64]


class NudgeState:
    """Touched chunks and probes of one generation, over an autocommit connection."""

    def __init__(self, conn: Connection, generation: Generation) -> None:
        self._conn, self._generation = conn, generation

    def touched(self) -> Int64Array:
        """Ids of all touched chunks, ascending, including chunks that no longer exist."""
        query = "SELECT chunk_id FROM heal.nudge_touched WHERE generation_id = %s ORDER BY 1"
        rows = self._conn.execute(query, (self._generation.generation_id,)).fetchall()
        return arrays(rows, np.int64)[0]

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
        """The live chunks among some ids, int64, shape (t,), with their base vectors, labels and questions.

        Raises:
            StoreError: a chunk or a question has no vector yet.
        """
        generation, ids = self._generation, sql.Literal(touched.tolist())
        live = self._conn.execute(
            f"""SELECT c.chunk_id, c.document_id, coalesce(t.leaf, -1)
            FROM heal.chunk c JOIN heal.document d USING (document_id)
            LEFT JOIN heal.document_topic t ON t.document_id = d.document_id AND t.topic_run_id = %s
            WHERE c.chunk_id = ANY(%s) AND {_LIVE} ORDER BY 1""",
            (generation.topic_run_id, touched.tolist()),
        ).fetchall()
        chunk_ids, document_ids, leaves = np.array(live, dtype=np.int64).reshape(-1, 3).T
        (found,), base = copy_vectors_out(
            self._conn,
            sql.SQL("SELECT chunk_id, embedding FROM {} WHERE chunk_id = ANY({}::bigint[]) ORDER BY 1").format(
                space_table(generation.space_id, "base"), sql.Literal(chunk_ids.tolist())
            ),
            generation.dims,
        )
        self._complete("chunk", chunk_ids, found)
        asked = sql.SQL(
            """SELECT DISTINCT ON (q.chunk_id, heal.text_key(q.text)) q.chunk_id, q.question_id,
                (SELECT count(DISTINCT o.chunk_id) FROM heal.question o
                 JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
                 WHERE heal.text_key(o.text) = heal.text_key(q.text) AND heal.moves_rows(o.split)
                   AND o.dropped_by IS NULL AND (o.writer = 'human' OR NOT {by_people}) AND {live}) AS answers
            FROM heal.question q JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
            WHERE heal.moves_rows(q.split) AND q.dropped_by IS NULL AND (q.writer = 'human' OR NOT {by_people})
                AND q.chunk_id = ANY({ids}::bigint[]) AND {live}
            ORDER BY q.chunk_id, heal.text_key(q.text), q.question_id"""
        ).format(live=sql.SQL(_LIVE), ids=ids, by_people=sql.Literal(generation.by_people))
        wanted = [row[0] for row in self._conn.execute(sql.SQL("SELECT question_id FROM ({}) a").format(asked))]
        (answered, question_ids, answers), questions = copy_vectors_out(
            self._conn,
            sql.SQL(
                "SELECT a.chunk_id, a.question_id, a.answers, b.embedding FROM ({}) a JOIN {} b USING (question_id)"
            ).format(asked, space_table(generation.space_id, "question")),
            generation.dims,
            sizes=(8, 8, 8),
        )
        self._complete("question", np.array(wanted, dtype=np.int64), question_ids)
        return TouchedRows(
            chunk_ids, document_ids, leaves.astype(np.int32), base,
            questions, np.searchsorted(chunk_ids, answered), 1 / answers,
        )  # fmt: skip

    def write_probes(self, probes: Probes) -> None:
        """Replace all probes."""
        with self._conn.transaction():
            self._conn.execute(
                "DELETE FROM heal.nudge_probe WHERE generation_id = %s", (self._generation.generation_id,)
            )
            self.update_probes(probes)

    def update_probes(self, probes: Probes) -> None:
        """Store some probes and leave the others as they are."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO heal.nudge_probe (generation_id, question_id, question_set, chunk_ids, scores, floor, "
                "at_start) VALUES (%s, %s, %s, %s, %s::real[], %s, %s) ON CONFLICT (generation_id, question_id) "
                "DO UPDATE SET chunk_ids = EXCLUDED.chunk_ids, scores = EXCLUDED.scores, floor = EXCLUDED.floor",
                [
                    (self._generation.generation_id, int(key), str(name), *_list(ids, scores), float(floor), float(at))
                    for key, name, ids, scores, floor, at in zip(
                        probes.question_ids, probes.question_sets, probes.chunk_ids, probes.scores, probes.floor,
                        probes.at_start, strict=True,
                    )
                ],
            )  # fmt: skip

    def probes(self, width: int) -> Probes:
        """All probes whose question has a live chunk, with ``width`` places each."""
        generation = self._generation
        rows: list[tuple[Any, ...]] = self._conn.execute(
            sql.SQL(
                """SELECT p.question_id, p.question_set, c.document_id, p.chunk_ids, p.scores, p.floor, p.at_start,
                    (SELECT array_agg(DISTINCT c.chunk_id) FROM heal.question o
                     JOIN heal.chunk own ON own.chunk_id = o.chunk_id
                     JOIN heal.chunk c ON c.document_id = own.document_id
                        AND (o.writer = 'human' OR c.chunk_id = o.chunk_id)
                     JOIN heal.document d ON d.document_id = c.document_id
                     WHERE heal.text_key(o.text) = heal.text_key(q.text) AND o.split = q.split AND {live}), b.embedding
                FROM heal.nudge_probe p JOIN heal.question q USING (question_id) JOIN {table} b USING (question_id)
                JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id)
                WHERE p.generation_id = %s AND {live} ORDER BY 1"""
            ).format(live=sql.SQL(_LIVE), table=space_table(generation.space_id, "question")),
            (generation.generation_id,),
        ).fetchall()
        keys, sets, documents, near, found, floor, at_start, positives, asked = (
            zip(*rows, strict=True) if rows else [()] * 9
        )
        chunk_ids = np.full((len(rows), width), -1, dtype=np.int64)
        scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
        for number, (places, values) in enumerate(zip(near, found, strict=True)):
            chunk_ids[number, : len(places)], scores[number, : len(values)] = places, values
        return Probes(
            np.array(keys, dtype=np.int64), np.array(sets, dtype=np.str_), np.array(documents, dtype=np.int64),
            [np.array(ids, dtype=np.int64) for ids in positives],
            np.array([vector.to_numpy() for vector in asked], dtype=np.float32).reshape(-1, generation.dims),
            chunk_ids, scores, np.array(floor, dtype=np.float32), np.array(at_start, dtype=np.float64),
        )  # fmt: skip

    def _complete(self, what: str, wanted: Int64Array, found: Int64Array) -> None:
        missing = np.setdiff1d(wanted, found)
        if len(missing):
            raise StoreError(
                f"{len(missing)} {what} vectors of generation {self._generation.generation_id} are missing, first id "
                f"{missing[0]}; run embed_new again"
            )


def _list(ids: Int64Array, scores: Float32Array) -> tuple[list[int], list[float]]:
    kept = ids >= 0
    return ids[kept].tolist(), scores[kept].tolist()
