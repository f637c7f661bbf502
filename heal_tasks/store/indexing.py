"""Builds the indexes of a loaded generation, and measures what they find against an exact scan."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.store.db import Connection
from heal_tasks.store.generation import Generation
from heal_tasks.store.vectors import drop_indexes, index_name

M, EF_CONSTRUCTION = 16, 64
LINK_BYTES = 700
"""HNSW memory per row beside the vector at m = 16, measured at 384 dimensions."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What building the indexes took.

    Args:
        rows: rows indexed.
        seconds: wall time of all indexes and the vacuum.
        size_bytes: size of the HNSW index.
        spilled: the graph did not fit into the allowed memory, so the build was slow and the graph is worse.
    """

    rows: int
    seconds: float
    size_bytes: int
    spilled: bool


def build_indexes(conn: Connection, generation: Generation, *, memory_mb: int, parallel: int = 2) -> IndexReport:
    """Index a generation's served vectors: primary key, B-tree on the leaf, HNSW; then vacuum and analyze.

    Args:
        conn: an autocommit connection.
        generation: a loaded generation; indexes it has already are built again.
        memory_mb: upper bound of maintenance_work_mem, MiB.
        parallel: extra workers.

    Returns:
        Rows, time, size and whether the graph fitted.
    """
    table = generation.table("vec")
    start = time.monotonic()
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    rows = int(row[0]) if row else 0
    needed_mb = int(rows * (4 * generation.dims + LINK_BYTES) * 1.2) >> 20
    memory = min(memory_mb, max(64, needed_mb))
    with _notices(conn) as notices:
        try:
            _create(conn, generation, memory, parallel)
        except psycopg.errors.DiskFull:
            # Parallel builds keep the graph in /dev/shm, which containers limit to 64 MiB; a serial one does not.
            _create(conn, generation, memory, 0)
    conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
    name = "heal." + index_name(generation, "hnsw").as_string(conn)
    size = conn.execute("SELECT pg_relation_size(%s::regclass)", (name,)).fetchone()
    return IndexReport(
        rows=rows,
        seconds=time.monotonic() - start,
        size_bytes=int(size[0]) if size else 0,
        spilled=any("no longer fits into maintenance_work_mem" in notice for notice in notices),
    )


def recall(conn: Connection, generation: Generation, vectors: NDArray[np.float32], k: int = 10) -> float:
    """Share of the true nearest neighbours that the index finds.

    Args:
        conn: an autocommit connection.
        generation: an indexed generation, in whatever state.
        vectors: query vectors, float32, shape (n, d).
        k: neighbours per query.

    Returns:
        Mean recall@k, 0 to 1; 1 where there is nothing to find.
    """
    query = (
        "SELECT n.distance FROM heal.generation g, heal.nearest(%s, g, %s::int) n WHERE g.generation_id = %s "
        "ORDER BY n.distance"
    )
    shares = []
    for vector in vectors:
        values = (vector, k, generation.generation_id)
        found = [row[0] for row in conn.execute(query, values)]
        with conn.transaction():
            conn.execute("SET LOCAL enable_indexscan = off")
            exact = [row[0] for row in conn.execute(query, values)]
        # By distance, not by id: of two equally near chunks either is right.
        if exact:
            shares.append(sum(distance <= exact[-1] + 1e-6 for distance in found) / len(exact))
    return float(np.mean(shares)) if shares else 1.0


def _create(conn: Connection, generation: Generation, memory_mb: int, parallel: int) -> None:
    table = generation.table("vec")
    opclass = "vector_cosine_ops" if generation.metric == "cosine" else "vector_ip_ops"
    with conn.transaction():
        conn.execute(
            "SELECT set_config('maintenance_work_mem', %s, true), "
            "set_config('max_parallel_maintenance_workers', %s, true)",
            (f"{memory_mb}MB", str(parallel)),
        )
        drop_indexes(conn, generation)
        conn.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY (chunk_id)").format(
                table, index_name(generation, "pkey")
            )
        )
        conn.execute(sql.SQL("CREATE INDEX {} ON {} (leaf)").format(index_name(generation, "leaf"), table))
        conn.execute(
            sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding {}) WITH (m = {}, ef_construction = {})").format(
                index_name(generation, "hnsw"), table, sql.SQL(opclass), sql.Literal(M), sql.Literal(EF_CONSTRUCTION)
            )
        )


@contextmanager
def _notices(conn: Connection) -> Iterator[list[str]]:
    """Collects the server's notices while the block runs."""
    texts: list[str] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        texts.append(notice.message_primary or "")

    conn.add_notice_handler(keep)
    try:
        yield texts
    finally:
        conn.remove_notice_handler(keep)
