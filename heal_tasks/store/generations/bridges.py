"""Maps between spaces: the vectors that both have, the stored maps, and what is lost on the way."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from psycopg import sql

from heal_tasks.store.arrays import Float32Array, arrays
from heal_tasks.store.db import Repository, find, select
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.spaces.spaces import Space, SpacePrefix
from heal_tasks.store.spaces.vector_tables import Entity, copy_rows, copy_vectors_out, read_keyed, table_exists

Method = Literal["fitted", "composed"]

MOST_TEXTS = 20_000
"""Chunks, and questions, that a map is fitted to, at most."""
MOST_PROBES = 500
"""Test questions that a map is measured on, at most."""

ROW_COLUMNS = (
    ("from_space", "int8"), ("to_space", "int8"), ("place", "int4"), ("shift", "float4"), ("weights", "vector"),
)  # fmt: skip
"""Columns of ``heal.bridge_row`` with their types."""

_TEXTS: dict[Entity, tuple[SpacePrefix, sql.SQL]] = {
    "chunk": ("base", sql.SQL("heal.chunk WHERE superseded_at IS NULL")),
    "question": ("question", sql.SQL("heal.question WHERE heal.moves_rows(split) AND dropped_by IS NULL")),
}


@dataclass(frozen=True, slots=True)
class Bridge:
    """A stored map, as in ``heal.bridge``."""

    from_space: int
    to_space: int
    method: Method
    pairs: int
    questions: int
    recall: float
    native_recall: float
    min_share: float

    @property
    def share(self) -> float:
        """The share of the recall that mapped query vectors keep."""
        return self.recall / self.native_recall

    @property
    def in_use(self) -> bool:
        """True if the share is large enough."""
        return self.share >= self.min_share


class BridgeRepository(Repository):
    """Maps between spaces."""

    def get(self, from_space: int, to_space: int) -> Bridge | None:
        """The map from one space to another, or None."""
        rest = "FROM heal.bridge WHERE (from_space, to_space) = (%s, %s)"
        return find(self._conn, Bridge, rest, (from_space, to_space))

    def into(self, space_id: int) -> list[Bridge]:
        """The maps into a space."""
        return select(self._conn, Bridge, "FROM heal.bridge WHERE to_space = %s ORDER BY from_space", (space_id,))

    def load(self, bridge: Bridge, old: Space) -> tuple[Float32Array, Float32Array]:
        """Weights, float32, shape (d_new, d_old), and shift, float32, shape (d_new,), of a map from a space."""
        where = sql.SQL("FROM heal.bridge_row WHERE (from_space, to_space) = ({}, {}) ORDER BY place").format(
            bridge.from_space, bridge.to_space
        )
        _, weights = copy_vectors_out(self._conn, sql.SQL("SELECT place, weights {}").format(where), old.dims, (4,))
        (shift,) = arrays(self._conn.execute(sql.SQL("SELECT shift {}").format(where)).fetchall(), np.float32)
        return weights, shift

    def pairs(self, old: Space, new: Space, entity: Entity) -> tuple[Float32Array, Float32Array]:
        """Vectors of the same chunks, or of the questions that are not test questions, in two spaces.

        Ids are hashes, so the first ``MOST_TEXTS`` are a random sample. Nothing if tables of a space are dropped.

        Returns:
            Float32, shapes (n, d_old) and (n, d_new).
        """
        prefix, texts = _TEXTS[entity]
        tables = (old.table(prefix), new.table(prefix))
        if not all(table_exists(self._conn, table) for table in tables):
            return np.empty((0, old.dims), np.float32), np.empty((0, new.dims), np.float32)
        query = sql.SQL(
            "SELECT {key} FROM {texts} AND {key} IN (SELECT {key} FROM {old}) AND {key} IN (SELECT {key} FROM {new}) "
            "ORDER BY 1 LIMIT {most}"
        ).format(
            key=sql.Identifier(f"{entity}_id"), texts=texts, old=tables[0], new=tables[1], most=sql.Literal(MOST_TEXTS)
        )
        (ids,) = arrays(self._conn.execute(query).fetchall(), np.int64)
        _, left = read_keyed(self._conn, tables[0], entity, old.dims, ids)
        _, right = read_keyed(self._conn, tables[1], entity, new.dims, ids)
        return left, right

    def keep_probes(self, space: Space) -> None:
        """Store the vectors that a space has of test questions, human ones first; no change if its table is dropped."""
        if not table_exists(self._conn, space.table("question")):
            return
        with self._conn.transaction():
            self._conn.execute("DELETE FROM heal.bridge_probe WHERE space_id = %s", (space.space_id,))
            query = sql.SQL(
                "INSERT INTO heal.bridge_probe SELECT %s, p.question_id, p.embedding FROM ("
                "SELECT DISTINCT ON (heal.text_key(q.text)) "
                "q.question_id, q.writer, v.embedding, heal.text_key(q.text) FROM heal.question q "
                "JOIN heal.chunk c USING (chunk_id) JOIN {} v USING (question_id) "
                "WHERE NOT heal.moves_rows(q.split) AND q.dropped_by IS NULL AND c.superseded_at IS NULL "
                "ORDER BY heal.text_key(q.text), q.question_id) p "
                "ORDER BY p.writer <> 'human', p.text_key LIMIT %s"
            ).format(space.table("question"))
            self._conn.execute(query, (space.space_id, MOST_PROBES))

    def write(
        self,
        old: Space,
        generation: Generation,
        weights: Float32Array,
        shift: Float32Array,
        *,
        method: Method,
        pairs: int,
        min_questions: int,
        min_share: float,
    ) -> Bridge | None:
        """Store a map from a space to that of a generation with tables, in place of an earlier one, and measure it.

        Args:
            old: the space; ``keep_probes`` has stored its questions.
            generation: has another space.
            weights: float32, shape (d_new, d_old).
            shift: float32, shape (d_new,).
            method: how the map was made.
            pairs: the number of texts that it was fitted to.
            min_questions: the least number of questions to measure it on.
            min_share: the least share of the recall with which it is used.

        Returns:
            The stored map; None if it cannot be measured, and then none is stored.
        """
        key = (old.space_id, generation.space_id)
        with self._conn.transaction():
            self._conn.execute("DELETE FROM heal.bridge WHERE (from_space, to_space) = (%s, %s)", key)
            self._conn.execute(
                "INSERT INTO heal.bridge "
                "(from_space, to_space, method, pairs, min_share, questions, recall, native_recall) "
                "VALUES (%s, %s, %s, %s, %s, 0, 0, 1)",
                (*key, method, pairs, min_share),
            )
            rows = ((*key, place, float(shift[place]), row) for place, row in enumerate(weights))
            copy_rows(self._conn, sql.Identifier("heal", "bridge_row"), ROW_COLUMNS, rows)
            measured = self._conn.execute(
                "SELECT m.* FROM heal.bridge_recall(%s, %s) m", (old.space_id, generation.generation_id)
            ).fetchall()[0]
            questions, recall, native = measured
            if questions < min_questions or not native:
                self._conn.execute("DELETE FROM heal.bridge WHERE (from_space, to_space) = (%s, %s)", key)
                return None
            self._conn.execute(
                "UPDATE heal.bridge SET (questions, recall, native_recall) = (%s, %s, %s) "
                "WHERE (from_space, to_space) = (%s, %s)",
                (questions, recall, native, *key),
            )
        return self.get(*key)

    def set_min_share(self, min_share: float) -> None:
        """Change the least share of the recall of all maps."""
        self._conn.execute(
            "UPDATE heal.bridge SET min_share = %(share)s WHERE min_share <> %(share)s", {"share": min_share}
        )

    def drop_unused(self) -> int:
        """Drop the maps into spaces that are neither served nor about to be, and return their number."""
        with self._conn.transaction():
            dropped = self._conn.execute(
                "DELETE FROM heal.bridge WHERE to_space NOT IN (SELECT space_id FROM heal.generation "
                "WHERE state IN ('building', 'ready', 'active', 'previous'))"
            ).rowcount
            self._conn.execute(
                "DELETE FROM heal.bridge_probe WHERE space_id NOT IN (SELECT from_space FROM heal.bridge)"
            )
        return dropped
