"""Builds the indexes of a loaded generation, and measures what they find against an exact scan."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generation import Generation, IndexKind
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.served import drop_indexes, index_name

M, EF_CONSTRUCTION, MAX_EF_SEARCH = 16, 64, 1000
LINK_BYTES = 700
"""HNSW memory per row beside the vector at m = 16, measured at 384 dimensions."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What building the indexes took.

    Args:
        rows: rows indexed.
        seconds: wall time of all indexes and the vacuum.
        size_bytes: size of the HNSW index, 0 without one.
        kind: what the HNSW index holds, or none.
        spilled: the graph did not fit into the allowed memory, so the build was slow and the graph is worse.
    """

    rows: int
    seconds: float
    size_bytes: int
    kind: IndexKind
    spilled: bool


def build_indexes(
    conn: Connection,
    generation: Generation,
    *,
    memory_mb: int,
    parallel: int = 0,
    exact_rows: int = 0,
    halfvec_rows: int = sys.maxsize,
) -> IndexReport:
    """Index a generation's served vectors: primary key, B-trees on leaf and document, HNSW; then vacuum and analyze.

    Args:
        conn: an autocommit connection.
        generation: a loaded generation; indexes it has already are built again.
        memory_mb: upper bound of maintenance_work_mem, MiB.
        parallel: extra workers.
        exact_rows: a generation with fewer rows gets no HNSW index: comparing with all of them is as fast.
        halfvec_rows: from this many rows on the HNSW index holds 16-bit copies, in half the space.

    Returns:
        Rows, time, size and whether the graph fitted.
    """
    table = generation.table("vec")
    start = time.monotonic()
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()
    rows = int(row[0]) if row else 0
    kind: IndexKind = "none" if rows < exact_rows else "halfvec" if rows >= halfvec_rows else "vector"
    needed_mb = int(rows * (4 * generation.dims + LINK_BYTES) * 1.2) >> 20
    memory = min(memory_mb, max(64, needed_mb))
    with _notices(conn) as notices:
        try:
            _create(conn, generation, kind, memory, parallel)
        except psycopg.errors.DiskFull:
            # Parallel builds keep the graph in /dev/shm, which containers limit to 64 MiB; a serial one does not.
            _create(conn, generation, kind, memory, 0)
    conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
    name = "heal." + index_name(generation, "hnsw").as_string(conn)
    size = conn.execute("SELECT coalesce(pg_relation_size(to_regclass(%s)), 0)", (name,)).fetchone()
    return IndexReport(
        rows=rows,
        seconds=time.monotonic() - start,
        size_bytes=int(size[0]) if size else 0,
        kind=kind,
        spilled=any("no longer fits into maintenance_work_mem" in notice for notice in notices),
    )


def vacuum(conn: Connection, table: str) -> int:
    """Vacuum and analyze a table of schema heal: dead rows cost an index recall, and word weights come from statistics.

    Args:
        conn: an autocommit connection.
        table: its name.

    Returns:
        How many dead rows it had, by the server's statistics.
    """
    name = sql.Identifier("heal", table)
    query = "SELECT pg_stat_get_dead_tuples(%s::regclass)"
    row = conn.execute(query, (name.as_string(conn),)).fetchone()
    conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(name))
    return int(row[0]) if row else 0


def recall(conn: Connection, generation: Generation, n: int = 200, k: int = 10) -> float | None:
    """Share of the true nearest neighbours that the index finds for stored questions (``heal.recall``).

    Args:
        conn: an autocommit connection.
        generation: an indexed generation, in whatever state.
        n: how many questions.
        k: neighbours per question.

    Returns:
        Mean recall@k, 0 to 1; None where there is no question or nothing to find.
    """
    row = conn.execute("SELECT heal.recall(%s::bigint, %s::int, %s::int)", (generation.generation_id, n, k)).fetchone()
    return row[0] if row else None


def reach_recall(conn: Connection, generation: Generation, questions: int, target: float) -> tuple[float, int]:
    """Measure the index on stored questions, and double ef_search until the target is met or no more is possible.

    Args:
        conn: an autocommit connection.
        generation: an indexed generation; its row gets what was measured and found.
        questions: how many are asked.
        target: of recall@10.

    Returns:
        recall@10 (1 where there is nothing to find), and ef_search.
    """
    generations, ef_search = GenerationRepository(conn), generation.ef_search
    while True:
        measured = recall(conn, generation, questions)
        if measured is None or measured >= target or ef_search >= MAX_EF_SEARCH:
            break
        ef_search = min(2 * ef_search, MAX_EF_SEARCH)
        generations.set_fields(generation.generation_id, ef_search=ef_search)
    generations.set_fields(generation.generation_id, recall=measured)
    return 1.0 if measured is None else measured, ef_search


def _create(conn: Connection, generation: Generation, kind: IndexKind, memory_mb: int, parallel: int) -> None:
    table = generation.table("vec")
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
        for name, column in (("leaf", "leaf"), ("document", "document_id")):
            conn.execute(
                sql.SQL("CREATE INDEX {} ON {} ({})").format(
                    index_name(generation, name), table, sql.Identifier(column)
                )
            )
        conn.execute(
            "UPDATE heal.generation SET index_kind = %s WHERE generation_id = %s", (kind, generation.generation_id)
        )
        if kind == "none":
            return
        column = "embedding" if kind == "vector" else f"(embedding::halfvec({generation.dims}))"
        opclass = f"{kind}_{'cosine' if generation.metric == 'cosine' else 'ip'}_ops"
        conn.execute(
            sql.SQL("CREATE INDEX {} ON {} USING hnsw ({} {}) WITH (m = {}, ef_construction = {})").format(
                index_name(generation, "hnsw"),
                table,
                sql.SQL(column),
                sql.SQL(opclass),
                sql.Literal(M),
                sql.Literal(EF_CONSTRUCTION),
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
