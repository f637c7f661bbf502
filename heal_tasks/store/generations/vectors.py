"""The vector tables of a generation: what is missing, loading in and out, publishing the served vectors.

Base and question tables have a key from the start, because parallel shards and retries fill them. The
served table is loaded bare and indexed afterwards; once it is live only rows that differ are written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.erasing import lock_exclusive, lock_shared, purge_superseded
from heal_tasks.store.documents.reading import LiveChunk, live_chunks
from heal_tasks.store.generations.generation import Generation, find_generations
from heal_tasks.store.spaces.copying import Float32Array, Int64Array, copy_vectors, copy_vectors_out
from heal_tasks.store.spaces.vector_tables import ENTITIES, among_chunks, check_vectors, stage, write_keyed

SAME_VECTOR = 1e-6
"""Largest difference of a coordinate that is rounding, not a moved vector."""

_LIVE_CHUNK = "c.superseded_at IS NULL"
_LIVE_QUESTION = "EXISTS (SELECT FROM heal.chunk c WHERE c.chunk_id = q.chunk_id AND c.superseded_at IS NULL)"


@dataclass(frozen=True)
class Served:
    """Served vectors with what is stored beside them, ordered by chunk id.

    Args:
        chunk_ids: int64, shape (n,).
        document_ids: int64, shape (n,).
        leaves: int32, shape (n,); -1 where the document has no topic.
        vectors: float32, shape (n, d); of unit length unless the metric is the inner product.
    """

    chunk_ids: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    leaves: NDArray[np.int32]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Upserted:
    """What publishing changed in a served table."""

    added: int
    changed: int
    removed: int
    unchanged: int


class VectorRepository:
    """Vectors of generations.

    Args:
        conn: an autocommit connection.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def missing_base(self, generation: Generation, shard: int = 0, shards: int = 1) -> Iterator[LiveChunk]:
        """Live chunks without a base vector, of one of ``shards`` parts, by id; read in pages."""
        condition = sql.SQL("NOT EXISTS (SELECT FROM {} b WHERE b.chunk_id = c.chunk_id)")
        return live_chunks(self._conn, condition.format(generation.table("base")), (), shard, shards)

    def missing_questions(self, generation: Generation, shard: int = 0, shards: int = 1) -> list[tuple[int, str]]:
        """Ids and texts of live chunks' questions without a vector, of one of ``shards`` parts, by id."""
        query = sql.SQL(
            "SELECT q.question_id, q.text FROM heal.question q WHERE {live} AND q.question_id %% %s = %s "
            "AND NOT EXISTS (SELECT FROM {table} b WHERE b.question_id = q.question_id) ORDER BY 1"
        ).format(live=sql.SQL(_LIVE_QUESTION), table=generation.table("question"))
        return [(key, text) for key, text in self._conn.execute(query, (shards, shard))]

    def write_base(self, generation: Generation, chunk_ids: Int64Array, vectors: Float32Array) -> int:
        """Store encoder output; a chunk that has its vector, or was deleted meanwhile, is passed over.

        Args:
            generation: the generation whose model encoded them.
            chunk_ids: int64, shape (n,).
            vectors: float32, shape (n, d).

        Returns:
            How many rows were new.

        Raises:
            StoreError: a vector has another dimension, is zero or is not finite.
        """
        return write_keyed(self._conn, generation, "base", chunk_ids, vectors)

    def write_questions(self, generation: Generation, question_ids: Int64Array, vectors: Float32Array) -> int:
        """Store question vectors; as ``write_base``."""
        return write_keyed(self._conn, generation, "question", question_ids, vectors)

    def copy_from_same_model(self, generation: Generation) -> tuple[int, int]:
        """Copy base and question vectors that other generations of the same model have, instead of encoding again.

        Args:
            generation: the generation that lacks them.

        Returns:
            How many chunk and question vectors were copied.
        """
        others = find_generations(
            self._conn,
            sql.SQL(
                "model_sha256 = %s AND dims = %s AND generation_id <> %s "
                "AND to_regclass('heal.' || heal.vector_table(generation_id, 'base')) IS NOT NULL"
            ),
            (generation.model_sha256, generation.dims, generation.generation_id),
        )
        chunks = questions = 0
        for other in reversed(others):
            with self._conn.transaction():
                lock_shared(self._conn)
                chunks += self._conn.execute(
                    sql.SQL(
                        "INSERT INTO {} SELECT b.chunk_id, b.embedding FROM {} b JOIN heal.chunk c USING (chunk_id) "
                        "WHERE {} ON CONFLICT DO NOTHING"
                    ).format(generation.table("base"), other.table("base"), sql.SQL(_LIVE_CHUNK))
                ).rowcount
                questions += self._conn.execute(
                    sql.SQL(
                        "INSERT INTO {} SELECT b.question_id, b.embedding FROM {} b "
                        "JOIN heal.question q USING (question_id) WHERE {} ON CONFLICT DO NOTHING"
                    ).format(generation.table("question"), other.table("question"), sql.SQL(_LIVE_QUESTION))
                ).rowcount
        return chunks, questions

    def load_base(self, generation: Generation, among: Int64Array | None = None) -> tuple[Int64Array, Float32Array]:
        """Base vectors of live chunks, all or some: ids, int64, shape (n,), ascending; float32, shape (n, d)."""
        query = sql.SQL(
            "SELECT b.chunk_id, b.embedding FROM {} b JOIN heal.chunk c USING (chunk_id) WHERE {} AND {} ORDER BY 1"
        ).format(generation.table("base"), sql.SQL(_LIVE_CHUNK), among_chunks(among))
        (ids,), vectors = copy_vectors_out(self._conn, query, generation.dims)
        return ids, vectors

    def load_questions(self, generation: Generation) -> tuple[Int64Array, Float32Array]:
        """Vectors of live chunks' questions: ids, int64, shape (n,), ascending; float32, shape (n, d)."""
        query = sql.SQL(
            "SELECT b.question_id, b.embedding FROM {} b JOIN heal.question q USING (question_id) WHERE {} ORDER BY 1"
        ).format(generation.table("question"), sql.SQL(_LIVE_QUESTION))
        (ids,), vectors = copy_vectors_out(self._conn, query, generation.dims)
        return ids, vectors

    def load_served(self, generation: Generation, among: Int64Array | None = None) -> Served:
        """What a generation serves: everything, or of some chunks, int64, shape (m,)."""
        query = sql.SQL("SELECT chunk_id, document_id, leaf, embedding FROM {} WHERE {} ORDER BY 1")
        (chunk_ids, document_ids, leaves), vectors = copy_vectors_out(
            self._conn, query.format(generation.table("vec"), among_chunks(among)), generation.dims, sizes=(8, 8, 4)
        )
        return Served(chunk_ids, document_ids, leaves, vectors)

    def write_served(self, generation: Generation, served: Served) -> int:
        """Replace all served vectors of a generation that nobody reads yet; build its indexes afterwards.

        Args:
            generation: the generation.
            served: all that it is to serve; chunks deleted meanwhile are left out.

        Returns:
            How many rows are served.

        Raises:
            StoreError: the generation is live, or a vector is unfit (see ``write_base``) or not of unit length.
        """
        if generation.state in ("active", "previous"):
            raise StoreError(
                f"generation {generation.generation_id} is {generation.state}; use upsert_served, which keeps readers"
            )
        check_vectors(generation, served.vectors, unit=True)
        table = generation.table("vec")
        with self._conn.transaction():
            lock_shared(self._conn)
            drop_indexes(self._conn, generation)
            self._conn.execute(sql.SQL("TRUNCATE {}").format(table))
            copy_vectors(self._conn, table, _columns(served), served.vectors)
            removed = self._conn.execute(
                sql.SQL("DELETE FROM {} v WHERE NOT EXISTS (SELECT FROM heal.chunk c WHERE c.chunk_id = v.chunk_id)")
                .format(table)
            ).rowcount  # fmt: skip
        return len(served.chunk_ids) - removed

    def upsert_served(self, generation: Generation, served: Served, among: Int64Array | None = None) -> Upserted:
        """Bring a live generation's served vectors to a wanted state, in one transaction that readers do not notice.

        Only rows that differ are written: rewriting an equal vector costs a search of the index and leaves a dead
        row in it. Superseded chunks whose successors are served by then are purged in the same transaction.

        Args:
            generation: the generation; its primary key exists.
            served: all that it is to serve.
            among: int64, shape (m,): look at these chunks alone, and ``served`` is what it is to serve of them.

        Returns:
            Counts of rows added, changed, removed and left alone.

        Raises:
            StoreError: a vector is unfit (see ``write_base``) or not of unit length.
        """
        check_vectors(generation, served.vectors, unit=True)
        table = generation.table("vec")
        with self._conn.transaction():
            lock_exclusive(self._conn)
            old = self.load_served(generation, among)
            rows = _rows_of(old.chunk_ids, served.chunk_ids)
            differs = rows < 0
            known = np.flatnonzero(~differs)
            differs[known] = (
                (old.document_ids[rows[known]] != served.document_ids[known])
                | (old.leaves[rows[known]] != served.leaves[known])
                | (np.abs(old.vectors[rows[known]] - served.vectors[known]).max(axis=1, initial=0) > SAME_VECTOR)
            )
            gone = old.chunk_ids[_rows_of(np.sort(served.chunk_ids), old.chunk_ids) < 0]
            staging = stage(self._conn, {n: v[differs] for n, v in _columns(served).items()}, served.vectors[differs])
            written = self._conn.execute(
                sql.SQL(
                    "INSERT INTO {} AS v SELECT s.* FROM {} s JOIN heal.chunk c USING (chunk_id) "
                    "ON CONFLICT (chunk_id) DO UPDATE SET document_id = EXCLUDED.document_id, leaf = EXCLUDED.leaf, "
                    "embedding = EXCLUDED.embedding RETURNING (xmax = 0)"
                ).format(table, staging)
            ).fetchall()
            self._conn.execute(
                sql.SQL("DELETE FROM {} WHERE chunk_id = ANY(%s)").format(table), (gone.tolist(),), prepare=False
            )
            self._conn.execute(sql.SQL("DROP TABLE {}").format(staging))
            purge_superseded(self._conn)
        added = sum(new for (new,) in written)
        return Upserted(added, len(written) - added, len(gone), int((~differs).sum()))

    def estimated_rows(self, generation: Generation) -> int:
        """About how many rows a generation serves, without counting them."""
        name = generation.table("vec").as_string(self._conn)
        row = self._conn.execute(
            "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = %s::regclass", (name,)
        )
        return int((row.fetchone() or (0,))[0])

    def health(self, generation: Generation) -> dict[str, int]:
        """Rows by table, served rows without a chunk (orphans) or superseded, and live chunks not served (missing)."""
        row = self._conn.execute(
            sql.SQL(
                "SELECT (SELECT count(*) FROM {base}), (SELECT count(*) FROM {question}), "
                "(SELECT count(*) FROM {vec}), "
                "(SELECT count(*) FROM {vec} v JOIN heal.chunk c USING (chunk_id) WHERE c.superseded_at IS NOT NULL), "
                "(SELECT count(*) FROM heal.chunk c WHERE c.superseded_at IS NULL "
                "AND NOT EXISTS (SELECT FROM {vec} v WHERE v.chunk_id = c.chunk_id))"
            ).format(base=generation.table("base"), question=generation.table("question"), vec=generation.table("vec"))
        ).fetchone()
        names = ("base", "questions", "served", "superseded", "missing")
        return {**dict(zip(names, row or (), strict=True)), "orphans": self.orphans(generation)}

    def orphans(self, generation: Generation) -> int:
        """Rows of a generation's tables whose chunk or question no longer exists; anything but 0 is a fault."""
        keys = {prefix: key for prefix, key in ENTITIES.items() if prefix != "push" or generation.nudge_contrast}
        counts = [
            sql.SQL("(SELECT count(*) FROM {} b WHERE NOT EXISTS (SELECT FROM {} e WHERE e.{key} = b.{key}))").format(
                generation.table(prefix), sql.Identifier("heal", entity), key=sql.Identifier(f"{entity}_id")
            )
            for prefix, entity in keys.items()
        ]
        row = self._conn.execute(sql.SQL("SELECT {}").format(sql.SQL(" + ").join(counts))).fetchone()
        return int(row[0]) if row else 0


def index_name(generation: Generation, suffix: str) -> sql.Identifier:
    """Name of an index of the served table: ``pkey``, ``leaf``, ``document`` or ``hnsw``."""
    return sql.Identifier(f"vec_g{generation.generation_id:06d}_{suffix}")


def drop_indexes(conn: Connection, generation: Generation) -> None:
    """Drop what ``indexing.build_indexes`` made; nothing happens where there is none."""
    key = index_name(generation, "pkey")
    conn.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(generation.table("vec"), key))
    for suffix in ("leaf", "document", "hnsw"):
        conn.execute(sql.SQL("DROP INDEX IF EXISTS heal.{}").format(index_name(generation, suffix)))


def _columns(served: Served) -> dict[str, NDArray[Any]]:
    return {
        "chunk_id": np.asarray(served.chunk_ids, dtype=np.int64),
        "document_id": np.asarray(served.document_ids, dtype=np.int64),
        "leaf": np.asarray(served.leaves, dtype=np.int32),
    }


def _rows_of(ids: Int64Array, wanted: Int64Array) -> Int64Array:
    """Row of each wanted id in ``ids`` (ascending), -1 where it is absent."""
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    rows = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[rows] == wanted, rows, -1)
