"""The contrast state of a generation: how far each row was displaced, and by what later rows are displaced."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.store.arrays import Float32Array, Int64Array, arrays
from heal_tasks.store.db import SNAPSHOT, Repository
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.spaces.spaces import space_table
from heal_tasks.store.spaces.vector_tables import create_keyed, read_keyed, write_keyed


@dataclass(frozen=True, slots=True)
class ContrastState:
    """Contrastive displacements by chunk, and log-sum-exp levels by question."""

    chunk_ids: Int64Array  # (p,)
    vectors: Float32Array  # (p, d): the displacement of each row; zero vectors are not stored
    question_ids: Int64Array  # (q,): the questions that displaced rows
    levels: Float32Array  # (q,): see :class:`~heal_tasks.nudge.contrast.QuestionLevels`
    weights: Float32Array  # (q,)

    @classmethod
    def empty(cls, dims: int) -> "ContrastState":
        """No displacements and no levels."""
        ids, none = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        return cls(ids, np.empty((0, dims), dtype=np.float32), ids, none, none)


class Pushing(NamedTuple):
    """The questions that displace rows that arrive later."""

    vectors: Float32Array  # (q, d)
    levels: Float32Array  # (q,)
    weights: Float32Array  # (q,)
    pairs: Int64Array  # (p, 2): question index, ascending, and the index of a late chunk that answers it


class ContrastRepository(Repository):
    """Contrast state of generations."""

    def write(self, generation: Generation, state: ContrastState) -> None:
        """Store a state in place of any earlier one; nothing is stored if the nudge record has no contrast steps."""
        table, number = generation.table("push"), generation.generation_id
        with self._conn.transaction():
            self._conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
            self._conn.execute("DELETE FROM heal.contrast_level WHERE generation_id = %s", (number,))
            if not generation.contrast_steps:
                return
            create_keyed(self._conn, table, "chunk", generation.dims)
            self.add(generation, state.chunk_ids, state.vectors)
            self._conn.execute(
                "INSERT INTO heal.contrast_level SELECT %s, l.* FROM "
                "unnest(%s::bigint[], %s::real[], %s::real[]) AS l (question_id, level, weight) "
                "JOIN heal.question q USING (question_id)",
                (number, state.question_ids.tolist(), state.levels.tolist(), state.weights.tolist()),
            )

    def add(self, generation: Generation, chunk_ids: Int64Array, vectors: Float32Array) -> None:
        """Store displacements of chunks that have none; int64, shape (p,), and float32, shape (p, d)."""
        moved = vectors.any(axis=1)
        write_keyed(self._conn, generation.table("push"), "chunk", generation.dims, chunk_ids[moved], vectors[moved])

    def load(self, generation: Generation) -> ContrastState:
        """The whole state; empty if the nudge record has no contrast steps."""
        with self._conn.transaction():
            self._conn.execute(SNAPSHOT)
            return ContrastState(*self.of_chunks(generation), *self._levels(generation))

    def of_chunks(self, generation: Generation, among: Int64Array | None = None) -> tuple[Int64Array, Float32Array]:
        """Displacements of all or some chunks: ids, int64, shape (p,), ascending; float32, shape (p, d)."""
        if not generation.contrast_steps:
            state = ContrastState.empty(generation.dims)
            return state.chunk_ids, state.vectors
        return read_keyed(self._conn, generation.table("push"), "chunk", generation.dims, among)

    def pushing(self, generation: Generation, late: Int64Array) -> Pushing:
        """The questions that displace late chunks, int64, shape (m,), ascending."""
        table = space_table(generation.space_id, "question")
        with self._conn.transaction():
            self._conn.execute(SNAPSHOT)
            ids, levels, weights = self._levels(generation)
            _, vectors = read_keyed(self._conn, table, "question", generation.dims, ids)
            answered = self._conn.execute(
                "SELECT DISTINCT k.question_id, m.chunk_id FROM heal.moved_chunk m "
                "JOIN heal.question q USING (question_id) "
                "JOIN heal.question k ON heal.text_key(k.text) = heal.text_key(q.text) "
                "JOIN heal.contrast_level l ON l.question_id = k.question_id AND l.generation_id = %s "
                "WHERE m.chunk_id = ANY(%s) ORDER BY 1",
                (generation.generation_id, late.tolist()),
            ).fetchall()
        question, chunk = arrays(answered, np.int64, np.int64)
        pairs = np.column_stack([np.searchsorted(ids, question), np.searchsorted(late, chunk)])
        return Pushing(vectors, levels, weights, pairs)

    def _levels(self, generation: Generation) -> list[NDArray[Any]]:
        rows = self._conn.execute(
            "SELECT question_id, level, weight FROM heal.contrast_level WHERE generation_id = %s ORDER BY 1",
            (generation.generation_id,),
        ).fetchall()
        return arrays(rows, np.int64, np.float32, np.float32)
