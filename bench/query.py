"""Measures heal.search against the same query written by hand on a plain pgvector table with the same index settings.

Run from the project's root: ``python -m bench.query``. Vectors are clustered and synthetic; every kind of index that
``build_indexes`` makes is measured. Ours and the hand-written query alternate on each connection, so that both meet the
same load; their hits are compared first. Recall is that of ten neighbours against an exact scan.
"""

import argparse
import threading
import time
from typing import Any

import numpy as np
from psycopg import sql

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import Vectors, activate, clustered, load, scratch_store, store_documents
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations import Generation
from heal_tasks.store.indexing import build_indexes, recall

OURS = "SELECT chunk_id, title, text, distance FROM heal.search(%s, %s::bigint, 10)"
KINDS: dict[str, dict[str, int]] = {
    "none (exact)": {"exact_rows": 10**9}, "vector": {}, "halfvec": {"halfvec_rows": 0},
}  # fmt: skip


def by_hand(generation: Generation, kind: str) -> sql.Composed:
    """What an application would write: the nearest ten with their texts."""
    width = sql.SQL(str(generation.dims))
    full, half = sql.SQL("v.embedding <=> %s::vector({})"), sql.SQL("v.embedding::halfvec({0}) <=> %s::halfvec({0})")
    order = (half if kind == "halfvec" else full).format(width)
    return sql.SQL(
        "SELECT n.chunk_id, d.title, c.text, n.distance FROM (SELECT v.chunk_id, {} AS distance FROM {} v "
        "ORDER BY {} LIMIT 10) n JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id) "
        "ORDER BY n.distance"
    ).format(full.format(width), generation.table("vec"), order)


def client(url: str, generation: Generation, kind: str, queries: Vectors, times: dict[str, list[float]]) -> None:
    """Ask each query both ways, ours first every other time; times in seconds are appended."""
    statement = by_hand(generation, kind)
    with connect(url, autocommit=True) as conn:
        conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(generation.ef_search),))
        ways = {
            "ours": lambda query: conn.execute(OURS, (query, generation.generation_id)).fetchall(),
            "by hand": lambda query: conn.execute(statement, (query, query)).fetchall(),
        }
        for number, query in enumerate(queries):
            for name in ("ours", "by hand")[:: 1 if number % 2 else -1]:
                start = time.perf_counter()
                ways[name](query)
                times[name].append(time.perf_counter() - start)


def same_hits(conn: Connection, generation: Generation, kind: str, queries: Vectors) -> None:
    """Both ways find the same chunks at the same distances."""
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(generation.ef_search),))
    statement = by_hand(generation, kind)
    for query in queries:
        ours = conn.execute(OURS, (query, generation.generation_id)).fetchall()
        theirs = conn.execute(statement, (query, query)).fetchall()
        assert {row[0] for row in ours} == {row[0] for row in theirs}
        np.testing.assert_allclose([row[3] for row in ours], [row[3] for row in theirs], atol=1e-6)


def measure_kind(
    url: str, generation: Generation, kind: str, queries: Vectors, clients: list[int]
) -> list[dict[str, Any]]:
    """Rows of the table for one index."""
    with connect(url, autocommit=True) as conn:
        built = build_indexes(conn, generation, memory_mb=1024, **KINDS[kind])
        found = recall(conn, generation, 50)
        same_hits(conn, generation, kind.split()[0], queries[:20])
    rows = []
    for number in clients:
        times: dict[str, list[float]] = {"ours": [], "by hand": []}
        threads = [
            threading.Thread(target=client, args=(url, generation, kind.split()[0], part, times))
            for part in np.array_split(queries, number)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ours, hand = (1000 * np.quantile(times[name], [0.5, 0.99]) for name in ("ours", "by hand"))
        rows.append({
            "rows": built.rows, "index": kind, "index s": built.seconds, "MiB": built.size_bytes / 2**20,
            "recall@10": found, "clients": number, "p50 ms": float(ours[0]), "p99 ms": float(ours[1]),
            "by hand p50": float(hand[0]), "by hand p99": float(hand[1]), "p50 ratio": float(ours[0] / hand[0]),
        })  # fmt: skip
    return rows


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000, 20_000, 200_000], help="sizes")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="connections at a time")
    parser.add_argument("--queries", type=int, default=400, help="queries per size and index (default 400)")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in arguments.rows:
        made = clustered(size + arguments.queries)
        vectors, queries = made[: -arguments.queries], made[-arguments.queries :]
        with scratch_store() as url:
            with connect(url, autocommit=True) as conn:
                store_documents(conn, [f"text {number}" for number in range(size)])
                start = time.perf_counter()
                generation = load(conn, vectors, queries)
                loaded = size / (time.perf_counter() - start)
                activate(conn, generation)
            for kind in KINDS:
                rows += measure_kind(url, generation, kind, queries, arguments.clients)
            print(f"{size} rows loaded at {loaded:.0f} a second", flush=True)
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"query": rows})


if __name__ == "__main__":
    main()
