"""What a generation keeps of a contrastive plan: pushes of rows, and what rows that come later are weighed against."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from psycopg import sql

from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.spaces.copying import Float32Array, Int64Array, copy_vectors_out
from heal_tasks.store.spaces.vector_tables import among_chunks, create_keyed, write_keyed

_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


@dataclass(frozen=True, slots=True)
class KeptPushes:
    """Pushes by chunk, and levels by question.

    Args:
        chunk_ids: int64, shape (p,).
        vectors: float32, shape (p, d); zero ones are not kept.
        question_ids: int64, shape (q,): the questions that pushed.
        levels: float32, shape (q,): see :class:`~heal_tasks.nudge.contrast.Levels`.
        weights: float32, shape (q,).
    """

    chunk_ids: Int64Array
    vectors: Float32Array
    question_ids: Int64Array
    levels: Float32Array
    weights: Float32Array


class Pushing(NamedTuple):
    """The questions that push rows that come later.

    Args:
        vectors: float32, shape (q, d).
        levels: float32, shape (q,).
        weights: float32, shape (q,).
        pairs: int64, shape (p, 2): question index, ascending, and the place of a late chunk that answers it.
    """

    vectors: Float32Array
    levels: Float32Array
    weights: Float32Array
    pairs: Int64Array


class PushRepository:
    """Pushes of generations with a contrastive plan.

    Args:
        conn: an autocommit connection.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def write(self, generation: Generation, kept: KeptPushes) -> None:
        """Keep these instead of what was kept before."""
        table, questions = generation.table("push"), generation.table("question")
        pushed = kept.vectors.any(axis=1)
        with self._conn.transaction():
            self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
            create_keyed(self._conn, generation, "push")
            write_keyed(self._conn, generation, "push", kept.chunk_ids[pushed], kept.vectors[pushed])
            self._conn.execute(
                sql.SQL("UPDATE {} SET push_level = NULL, push_weight = NULL WHERE push_level IS NOT NULL").format(
                    questions
                )
            )
            self._conn.execute(
                sql.SQL(
                    "UPDATE {} b SET push_level = n.level, push_weight = n.weight FROM "
                    "unnest(%s::bigint[], %s::real[], %s::real[]) AS n (question_id, level, weight) "
                    "WHERE b.question_id = n.question_id"
                ).format(questions),
                (kept.question_ids.tolist(), kept.levels.tolist(), kept.weights.tolist()),
            )

    def add(self, generation: Generation, chunk_ids: Int64Array, vectors: Float32Array) -> None:
        """Keep pushes of chunks that had none; as in ``KeptPushes``."""
        pushed = vectors.any(axis=1)
        write_keyed(self._conn, generation, "push", chunk_ids[pushed], vectors[pushed])

    def load(self, generation: Generation) -> KeptPushes:
        """All that is kept; nothing where the plan is not contrastive."""
        with self._conn.transaction():
            self._conn.execute(_SNAPSHOT)
            chunk_ids, vectors = self.of_chunks(generation)
            question_ids, levels, weights = self._levels(generation)
        return KeptPushes(chunk_ids, vectors, question_ids, levels, weights)

    def of_chunks(self, generation: Generation, among: Int64Array | None = None) -> tuple[Int64Array, Float32Array]:
        """Pushes of all or some chunks: ids, int64, shape (p,), ascending; float32, shape (p, d)."""
        if not generation.nudge_contrast:
            return np.empty(0, dtype=np.int64), np.empty((0, generation.dims), dtype=np.float32)
        query = sql.SQL("SELECT chunk_id, embedding FROM {} WHERE {} ORDER BY 1").format(
            generation.table("push"), among_chunks(among)
        )
        (ids,), vectors = copy_vectors_out(self._conn, query, generation.dims)
        return ids, vectors

    def pushing(self, generation: Generation, late: Int64Array) -> Pushing:
        """The questions that push chunks that have come since, int64, shape (m,), ascending."""
        questions = generation.table("question")
        with self._conn.transaction():
            self._conn.execute(_SNAPSHOT)
            ids, levels, weights = self._levels(generation)
            _, vectors = copy_vectors_out(
                self._conn,
                sql.SQL("SELECT question_id, embedding FROM {} WHERE push_level IS NOT NULL ORDER BY 1").format(
                    questions
                ),
                generation.dims,
            )
            answered = self._conn.execute(
                sql.SQL(
                    "SELECT DISTINCT k.question_id, q.chunk_id FROM heal.question q "
                    "JOIN heal.question k ON heal.text_key(k.text) = heal.text_key(q.text) "
                    "JOIN {} b ON b.question_id = k.question_id AND b.push_level IS NOT NULL "
                    "WHERE q.chunk_id = ANY(%s) ORDER BY 1"
                ).format(questions),
                (late.tolist(),),
            ).fetchall()
        question, chunk = np.array(answered, dtype=np.int64).reshape(-1, 2).T
        pairs = np.column_stack([np.searchsorted(ids, question), np.searchsorted(late, chunk)])
        return Pushing(vectors, levels, weights, pairs)

    def _levels(self, generation: Generation) -> tuple[Int64Array, Float32Array, Float32Array]:
        rows: list[tuple[int, float, float]] = []
        if generation.nudge_contrast:
            rows = self._conn.execute(
                sql.SQL(
                    "SELECT question_id, push_level, push_weight FROM {} WHERE push_level IS NOT NULL ORDER BY 1"
                ).format(generation.table("question"))
            ).fetchall()
        ids, levels, weights = zip(*rows, strict=True) if rows else ((), (), ())
        return np.array(ids, np.int64), np.array(levels, np.float32), np.array(weights, np.float32)
