"""The served rows of a generation: written into a bare table, or, once it is live, where they differ; health."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.arrays import Int64Array, rows_of
from heal_tasks.store.db import Connection, Repository, select
from heal_tasks.store.documents.chunks import lock_exclusive, lock_shared, purge_superseded
from heal_tasks.store.generations.generations import Generation, State
from heal_tasks.store.spaces.vector_tables import among_ids, check_vectors, copy_vectors, copy_vectors_out, stage

SAME_VECTOR = 1e-6
"""Largest difference of a coordinate that counts as rounding, not as a moved vector."""
_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Served:
    """Served vectors with what is stored beside them, ordered by chunk id."""

    chunk_ids: NDArray[np.int64]  # (n,)
    document_ids: NDArray[np.int64]  # (n,)
    leaves: NDArray[np.int32]  # (n,); -1 where the document has no topic
    vectors: NDArray[np.float32]  # (n, d); of unit length unless the metric is the inner product


@dataclass(frozen=True, slots=True)
class Upserted:
    """Counts of rows that publishing changed in a served table."""

    added: int
    changed: int
    removed: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class ServedRow:
    """A searchable generation, as in ``heal.generation_status``; rows as of the last ANALYZE."""

    generation_id: int
    state: State
    rows: int | None
    dead_rows: int
    bytes: int
    index_bytes: int | None
    recall: float | None
    ef_search: int
    index_kind: str = ""  # empty in the stored states of runs from before there were kinds
    oversampling: int = 1


class ServedRepository(Repository):
    """Served rows of generations."""

    def load_served(self, generation: Generation, among: Int64Array | None = None) -> Served:
        """The served rows, all or those of some chunks, int64, shape (m,)."""
        query = sql.SQL("SELECT chunk_id, document_id, leaf, embedding FROM {} WHERE {} ORDER BY 1").format(
            generation.table("vec"), among_ids("chunk_id", among)
        )
        (chunk_ids, document_ids, leaves), vectors = copy_vectors_out(self._conn, query, generation.dims, (8, 8, 4))
        return Served(chunk_ids, document_ids, leaves, vectors)

    def write_served(self, generation: Generation, served: Served) -> int:
        """Replace all rows of a generation that is not live, and return their number; build its indexes afterwards.

        Rows of chunks that were deleted meanwhile are left out.
        """
        if generation.state in ("active", "previous"):
            raise StoreError(
                f"generation {generation.generation_id} is {generation.state}; use upsert_served, which keeps readers"
            )
        check_vectors(served.vectors, generation.dims, unit=generation.metric == "cosine")
        table = generation.table("vec")
        with self._conn.transaction():
            lock_shared(self._conn)
            drop_indexes(self._conn, generation)
            self._conn.execute(sql.SQL("TRUNCATE {}").format(table))
            copy_vectors(self._conn, table, _columns(served), served.vectors)
            query = sql.SQL(
                "DELETE FROM {} v WHERE NOT EXISTS (SELECT FROM heal.chunk c WHERE c.chunk_id = v.chunk_id)"
            )
            removed = self._conn.execute(query.format(table)).rowcount
        return len(served.chunk_ids) - removed

    def upsert_served(self, generation: Generation, served: Served, among: Int64Array | None = None) -> Upserted:
        """Change the rows of a live generation to a wanted state, in one transaction that does not block readers.

        Only rows that differ are written, because rewriting an equal vector costs a search of the index and leaves a
        dead row in it. Superseded chunks whose successors are served then are deleted in the same transaction.
        With ``among``, int64, shape (m,), only rows of these chunks change, and ``served`` has the wanted ones of them.
        """
        check_vectors(served.vectors, generation.dims, unit=generation.metric == "cosine")
        table = generation.table("vec")
        with self._conn.transaction():
            lock_exclusive(self._conn)
            old = self.load_served(generation, among)
            differs = _differing(old, served)
            gone = old.chunk_ids[rows_of(np.sort(served.chunk_ids), old.chunk_ids) < 0]
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
            if written or len(gone):
                self._conn.execute("CALL heal.announce('rows', %s::bigint)", (generation.generation_id,))
        added = sum(new for (new,) in written)
        return Upserted(added, len(written) - added, len(gone), int((~differs).sum()))

    def health(self, generation: Generation) -> dict[str, int]:
        """Count rows served, superseded, orphans (their chunk no longer exists: a fault), and chunks without a row."""
        tables = [generation.table("vec")] + [generation.table("push")] * bool(generation.contrast_steps)
        count = sql.SQL("(SELECT count(*) FROM {} v LEFT JOIN heal.chunk c USING (chunk_id) WHERE c.chunk_id IS NULL)")
        orphans = sql.SQL(" + ").join(count.format(table) for table in tables)
        row = self._conn.execute(
            sql.SQL(
                "SELECT (SELECT count(*) FROM {vec}), "
                "(SELECT count(*) FROM {vec} v JOIN heal.chunk c USING (chunk_id) WHERE c.superseded_at IS NOT NULL), "
                "(SELECT count(*) FROM heal.chunk c WHERE c.superseded_at IS NULL "
                "AND NOT EXISTS (SELECT FROM {vec} v WHERE v.chunk_id = c.chunk_id)), {orphans}"
            ).format(vec=generation.table("vec"), orphans=orphans)
        ).fetchall()[0]
        return dict(zip(("served", "superseded", "missing", "orphans"), row, strict=True))


def served_rows(conn: Connection) -> list[ServedRow]:
    """The active and the previous generation."""
    rest = "FROM heal.generation_status WHERE state IN ('active', 'previous') ORDER BY state"
    return select(conn, ServedRow, rest)


def index_name(generation: Generation, suffix: str) -> sql.Identifier:
    """Name of an index of the served table: ``pkey``, ``leaf``, ``document`` or ``hnsw``."""
    return sql.Identifier(f"vec_g{generation.generation_id:06d}_{suffix}")


def drop_indexes(conn: Connection, generation: Generation) -> None:
    """Drop the indexes that ``indexing.build_indexes`` made, if there are any."""
    key = index_name(generation, "pkey")
    conn.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(generation.table("vec"), key))
    for suffix in ("leaf", "document", "hnsw"):
        conn.execute(sql.SQL("DROP INDEX IF EXISTS heal.{}").format(index_name(generation, suffix)))


def _columns(served: Served) -> dict[str, NDArray[Any]]:
    return {"chunk_id": served.chunk_ids, "document_id": served.document_ids, "leaf": served.leaves.astype(np.int32)}


def _differing(old: Served, wanted: Served) -> NDArray[np.bool_]:
    """Mask of the wanted rows that are new or differ from the old ones; bool, shape (n,)."""
    rows = rows_of(old.chunk_ids, wanted.chunk_ids)
    if not len(old.chunk_ids):
        return rows < 0
    differs: NDArray[np.bool_] = (
        (rows < 0) | (old.document_ids[rows] != wanted.document_ids) | (old.leaves[rows] != wanted.leaves)
    )
    for start in range(0, len(rows), _BLOCK_ROWS):  # in blocks, because there may be gigabytes of vectors
        block = slice(start, start + _BLOCK_ROWS)
        distance = np.abs(old.vectors[rows[block]] - wanted.vectors[block]).max(axis=1)
        differs[block] |= distance > SAME_VECTOR
    return differs
