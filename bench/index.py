"""Measures the indexes of served rows: size, build time, time of a search and recall of each kind.

Run from the project's root: ``python -m bench.index``. Vectors are clustered and synthetic, of 384 dimensions, 250 rows
to a cluster (at least 200 clusters); with ``--folders`` those that a model made of collections on disk, each folder
with its queries. Every kind is built on the same rows. The effort of a search (ef_search; oversampling for bits) is the
one that a switch would choose: doubled until recall@10 against an exact scan reaches .95. Then ``heal.search`` for ten
and the query that a user of plain pgvector would write, with the same effort and with pgvector's own defaults
(ef_search 40; for bits the fourfold number of candidates of its README), take turns on one connection. Times are of the
server's process: a busy machine stretches wall time, and CPU time hardly.

A second table shows the number of rows up to which an exact search is as cheap as one through an index; EXACT_ROWS and
HALFVEC_ROWS in steps/vectors/indexing.py follow from it.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import load_collection, load_query_vectors, parent_parser, table, versions, write_json
from bench.query import OURS, by_hand
from bench.scratch import (
    Vectors,
    activate,
    backend_cpu_s,
    clustered,
    load,
    scratch_store,
    server_cpu_s,
    store_documents,
)
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository, IndexKind
from heal_tasks.store.generations.indexing import IndexReport, build_indexes, reach_recall

KINDS: tuple[IndexKind, ...] = ("vector", "halfvec", "bit")
TARGET, RECALL_QUESTIONS = 0.95, 50
PGVECTOR_EF_SEARCH, README_OVERSAMPLING = 40, 4


def build(
    conn: Connection, generation: Generation, kind: IndexKind, memory_mb: int, workers: int = 0
) -> tuple[IndexReport, dict[str, Any]]:
    """Build one kind, and return its report and the columns of its cost."""
    start = server_cpu_s(conn)
    built = build_indexes(conn, generation, memory_mb=memory_mb, parallel=workers, kind=kind)
    return built, {
        "rows": built.rows, "index": kind, "build s": built.seconds, "CPU s": server_cpu_s(conn) - start,
        "MiB": built.size_bytes / 2**20, "fitted": "no" if built.spilled else "yes",
    }  # fmt: skip


def exact_distances(conn: Connection, generation: Generation, queries: Vectors) -> Vectors:
    """Distance of the tenth nearest row to each query; float32, shape (n,)."""
    statement = (
        "SELECT max(n.distance) FROM heal.generation g, heal.nearest(%s, g, 10, exact => true) n "
        "WHERE g.generation_id = %s::bigint"
    )
    found = [conn.execute(statement, (query, generation.generation_id)).fetchone() for query in queries]
    return np.array([row[0] for row in found if row], dtype=np.float32)


def search(
    conn: Connection, generation: Generation, kind: IndexKind, queries: Vectors, tenth: Vectors
) -> dict[str, float]:
    """Median milliseconds, median CPU milliseconds and recall@10 of each way, in turns after a warm-up.

    ``tenth`` has the exact distances of the first of the queries, by which recall is measured. In a turn each way has
    another query: of a million rows a way that repeated one would find its pages in memory (12 ms after 32).
    """
    plain = replace(generation, ef_search=PGVECTOR_EF_SEARCH, oversampling=README_OVERSAMPLING if kind == "bit" else 1)
    ways: dict[str, tuple[Any, Generation]] = {
        "ours": (OURS, generation),
        "by hand": (by_hand(generation, kind), generation),
        "by hand, defaults": (by_hand(plain, kind), plain),
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    conn.prepare_threshold = 0
    for turn in range(-10, len(queries)):
        for way, (name, (statement, effort)) in enumerate(ways.items()):
            number = (turn + way * len(queries) // len(ways)) % len(queries)
            query = queries[number]
            width = max(effort.ef_search, 10 * effort.oversampling)
            conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(min(width, 1000)),))
            values = {"query": query, "generation": generation.generation_id}
            cpu, start = backend_cpu_s(conn), time.perf_counter()
            hits = conn.execute(statement, values).fetchall()
            sample = time.perf_counter() - start, backend_cpu_s(conn) - cpu
            if turn >= 0:
                samples[name].append(sample)
            if turn >= 0 and number < len(tenth):
                shares[name].append(np.mean([row[3] <= tenth[number] + 1e-6 for row in hits]))
    columns: dict[str, float] = {}
    for name in ways:
        wall, cpu_ms = np.median(1000 * np.array(samples[name]), axis=0)
        columns |= {f"{name} p50": wall, f"{name} CPU": cpu_ms, f"{name} recall": float(np.mean(shares[name]))}
    return columns


def compare(
    conn: Connection,
    generation: Generation,
    queries: Vectors,
    kinds: Sequence[IndexKind] = KINDS,
    memory_mb: int = 1024,
    workers: int = 0,
) -> list[dict[str, Any]]:
    """A row per kind of index, of a generation that is live."""
    rows, tenth = list[dict[str, Any]](), exact_distances(conn, generation, queries[:RECALL_QUESTIONS])
    for kind in kinds:
        _, cost = build(conn, generation, kind, memory_mb, workers)
        GenerationRepository(conn).set_fields(generation.generation_id, ef_search=100)
        reached = reach_recall(conn, generation, RECALL_QUESTIONS, TARGET)
        rows.append({**cost, "effort": reached.effort, **search(conn, reached, kind, queries, tenth)})
        print(table(rows[-1:]), flush=True)
    return rows


def search_ms(conn: Connection, generation: Generation, queries: Vectors) -> float:
    """CPU milliseconds of one ``heal.nearest`` of ten, mean over the queries after a warm-up."""
    statement = "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%s, g, 10) n WHERE g.generation_id = %s::bigint"
    GenerationRepository(conn).set_fields(generation.generation_id, ef_search=100)
    for query in queries[:10]:
        conn.execute(statement, (query, generation.generation_id))
    start = server_cpu_s(conn)
    for query in queries:
        conn.execute(statement, (query, generation.generation_id)).fetchall()
    return 1000 * (server_cpu_s(conn) - start) / len(queries)


def crossover(conn: Connection, generation: Generation, queries: Vectors) -> dict[str, Any]:
    """The cost of a search with and without an index, at the default ef_search."""
    row: dict[str, Any] = {}
    for name, kind in zip(("none (exact)", *KINDS), ("none", *KINDS), strict=True):
        built, _ = build(conn, generation, kind, 1024)
        row["rows"] = built.rows
        row[f"{name}, CPU ms"] = search_ms(conn, generation, queries)
    return row


def real_vectors(folders: list[Path], queries: int) -> tuple[Vectors, Vectors]:
    """Vectors of the documents of all folders, and of at most so many queries of each; unit length."""
    found = [(load_collection(folder).vectors, load_query_vectors(folder)[:queries]) for folder in folders]
    rows = np.concatenate([vectors for vectors, _ in found if vectors is not None])
    return _unit(rows), _unit(np.concatenate([asked for _, asked in found]))


def _unit(vectors: Vectors) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 200_000], help="sizes of the first table")
    parser.add_argument("--folders", type=Path, nargs="*", default=[], help="collections for one more size")
    parser.add_argument("--small", type=int, nargs="*", default=[500, 1000, 2000, 5000, 10_000], help="of the second")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of the first table (default all)")
    parser.add_argument("--queries", type=int, default=200, help="queries per size and index (default 200)")
    parser.add_argument("--memory-mb", type=int, default=4096, help="maintenance_work_mem of a build (default 4096)")
    parser.add_argument("--workers", type=int, default=0, help="extra workers of a build (default 0)")
    arguments = parser.parse_args()
    tables: dict[str, list[dict[str, Any]]] = {"index": [], "crossover": []}
    sizes = [("index", size) for size in arguments.rows] + [("crossover", size) for size in arguments.small]
    for name, size in [*sizes, *[("index", 0)] * bool(arguments.folders)]:
        if size:
            made = clustered(size + arguments.queries, clusters=max(200, size // 250))
            vectors, queries = made[:size], made[size:]
        else:
            vectors, queries = real_vectors(arguments.folders, arguments.queries)
        with scratch_store() as url, connect(url, autocommit=True) as conn:
            store_documents(conn, [f"text {number}" for number in range(len(vectors))])
            generation = load(conn, vectors, queries)
            if name == "index":
                activate(conn, generation)
                tables[name] += compare(
                    conn, generation, queries, arguments.kinds, arguments.memory_mb, arguments.workers
                )
            else:
                tables[name].append(crossover(conn, generation, queries))
    for rows in filter(None, tables.values()):
        print(f"\n{table(rows)}")
    print(versions())
    write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
