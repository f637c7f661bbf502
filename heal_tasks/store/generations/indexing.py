"""Indexes of the served rows of a generation, and their recall against an exact scan."""

import time
from dataclasses import dataclass

import psycopg
from psycopg import sql

from heal_tasks.store.db import Connection, scalar
from heal_tasks.store.generations.exact import kth_distances
from heal_tasks.store.generations.generations import Generation, GenerationRepository, IndexKind
from heal_tasks.store.generations.served import drop_indexes, index_name

M, EF_CONSTRUCTION, MAX_EF_SEARCH = 16, 64, 1000
FIRST_OVERSAMPLING, MAX_OVERSAMPLING = 8, 200
"""Candidates per row that a search by an index of bits starts and ends with: 80 and, the limit of ``heal.candidates``,
2,000 for ten rows."""
LINK_BYTES = 700
"""HNSW memory per row beside the vector at m = 16, measured at 384 dimensions."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The cost of building the indexes."""

    rows: int
    seconds: float  # wall time of all indexes and the vacuum
    size_bytes: int  # size of the HNSW index, 0 without one
    kind: IndexKind  # content of the HNSW index, or none
    spilled: bool  # True if the graph did not fit into the memory, so that the build was slow and the graph is worse


def build_indexes(
    conn: Connection,
    generation: Generation,
    *,
    memory_mb: int,  # upper bound of maintenance_work_mem, MiB
    parallel: int = 0,  # extra workers
    kind: IndexKind = "vector",  # content of the HNSW index; none: only the others
) -> IndexReport:
    """Index served rows, anew if they are indexed: primary key, B-trees on leaf and document, HNSW; then vacuum."""
    table, start, rows = generation.table("vec"), time.monotonic(), count_rows(conn, generation)
    needed_mb = int(rows * (4 * generation.dims + LINK_BYTES) * 1.2) >> 20
    memory = min(memory_mb, max(64, needed_mb))
    notices: list[str] = []

    def keep(notice: psycopg.errors.Diagnostic) -> None:
        notices.append(notice.message_primary or "")

    conn.add_notice_handler(keep)
    try:
        _create(conn, generation, kind, memory, parallel)
    except psycopg.errors.DiskFull:
        # Parallel builds keep the graph in /dev/shm, which containers limit to 64 MiB; a serial one does not.
        _create(conn, generation, kind, memory, 0)
    finally:
        conn.remove_notice_handler(keep)
    conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
    name = "heal." + index_name(generation, "hnsw").as_string(conn)
    return IndexReport(
        rows=rows,
        seconds=time.monotonic() - start,
        size_bytes=int(scalar(conn, "SELECT coalesce(pg_relation_size(to_regclass(%s)), 0)", (name,))),
        kind=kind,
        spilled=any("no longer fits into maintenance_work_mem" in notice for notice in notices),
    )


def count_rows(conn: Connection, generation: Generation) -> int:
    """Count the served rows of a generation."""
    return int(scalar(conn, sql.SQL("SELECT count(*) FROM {}").format(generation.table("vec"))))


def vacuum(conn: Connection, table: str) -> int:
    """Vacuum and analyze a table of schema heal, and return its number of dead rows before.

    Dead rows cost an index recall, and hybrid search takes the weights of words from the statistics.
    """
    name = sql.Identifier("heal", table)
    dead = scalar(conn, "SELECT pg_stat_get_dead_tuples(%s::regclass)", (name.as_string(conn),))
    conn.execute(sql.SQL("VACUUM (ANALYZE) {}").format(name))
    return int(dead)


def recall(conn: Connection, generation: Generation, n: int = 200, k: int = 10) -> float | None:
    """Mean recall@k of the index for n stored questions, 0 to 1 (``heal.recall``); None if there is nothing to find."""
    query = "SELECT heal.recall(%s::bigint, %s::int, %s::int)"
    found: float | None = scalar(conn, query, (generation.generation_id, n, k))
    return found


def reach_recall(conn: Connection, generation: Generation, questions: int, target: float) -> Generation:
    """Measure recall@10 on stored questions, and double the effort of a search until the target or the limit is met.

    That is ef_search or, of an index of bits, the oversampling. It is stored with the recall in the generation's row,
    which is returned; the recall is None without questions or rows.
    """
    generations = GenerationRepository(conn)
    generation = generations.get(generation.generation_id)
    bits = generation.index_kind == "bit"
    name, limit = ("oversampling", MAX_OVERSAMPLING) if bits else ("ef_search", MAX_EF_SEARCH)
    value = generation.oversampling if bits else generation.ef_search
    exact = kth_distances(conn, generation, questions)  # once: it compares every row with every question
    query = "SELECT heal.recall_against(%s::bigint, %s::float8[])"
    while True:
        measured: float | None = scalar(conn, query, (generation.generation_id, exact))
        if measured is None or measured >= target or value >= limit:
            return generations.set_fields(generation.generation_id, recall=measured)
        value = min(2 * value, limit)
        generations.set_fields(generation.generation_id, **{name: value})


def _create(conn: Connection, generation: Generation, kind: IndexKind, memory_mb: int, parallel: int) -> None:
    names = {suffix: index_name(generation, suffix) for suffix in ("pkey", "leaf", "document", "hnsw")}
    statements = [
        "ALTER TABLE {table} ADD CONSTRAINT {pkey} PRIMARY KEY (chunk_id)",
        "CREATE INDEX {leaf} ON {table} (leaf)",
        "CREATE INDEX {document} ON {table} (document_id)",
    ]
    if kind != "none":
        statements.append(
            "CREATE INDEX {hnsw} ON {table} USING hnsw ({column} {opclass}) "
            "WITH (m = {m}, ef_construction = {ef_construction})"
        )
    dims, metric = generation.dims, "cosine" if generation.metric == "cosine" else "ip"
    column, opclass = {
        "halfvec": (f"(embedding::halfvec({dims}))", f"halfvec_{metric}_ops"),
        "bit": (f"(binary_quantize(embedding)::bit({dims}))", "bit_hamming_ops"),
    }.get(kind, ("embedding", f"vector_{metric}_ops"))
    with conn.transaction():
        conn.execute(
            "SELECT set_config('maintenance_work_mem', %s, true), "
            "set_config('max_parallel_maintenance_workers', %s, true)",
            (f"{memory_mb}MB", str(parallel)),
        )
        drop_indexes(conn, generation)
        for statement in statements:
            conn.execute(
                sql.SQL(statement).format(
                    table=generation.table("vec"), column=sql.SQL(column), opclass=sql.SQL(opclass), m=sql.Literal(M),
                    ef_construction=sql.Literal(EF_CONSTRUCTION), **names,
                )
            )  # fmt: skip
        conn.execute(
            "UPDATE heal.generation SET index_kind = %s, oversampling = %s WHERE generation_id = %s",
            (kind, FIRST_OVERSAMPLING if kind == "bit" else 1, generation.generation_id),
        )
