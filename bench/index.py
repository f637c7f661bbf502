"""Measures the indexes of served rows: build time, size and recall of each kind.

Run from the project's root: ``python -m bench.index``. Vectors are clustered and synthetic, of 384 dimensions. Recall
is recall@10 against an exact scan, for several ef_search. CPU time is the server's, workers included, so that a busy
machine matters little. A second table shows the number of rows up to which an exact search is as cheap as one through
an index; EXACT_ROWS and HALFVEC_ROWS in steps/vectors/indexing.py follow from it.
"""

import argparse
from typing import Any

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import Vectors, clustered, load, scratch_store, server_cpu_s, store_documents
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import IndexReport, build_indexes, recall

EVER, NEVER = 0, 10**9
KINDS: dict[str, dict[str, int]] = {
    "none (exact)": {"exact_rows": NEVER}, "vector": {"halfvec_rows": NEVER}, "halfvec": {"halfvec_rows": EVER},
}  # fmt: skip
EF_SEARCH = (40, 100, 200)
POSTGRES_MEMORY_MB = 64
"""PostgreSQL's default of maintenance_work_mem."""


def search_ms(conn: Connection, generation: Generation, queries: Vectors, ef_search: int) -> float:
    """CPU milliseconds of one ``heal.nearest`` of ten, mean over the queries after a warm-up."""
    statement = "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%s, g, 10) n WHERE g.generation_id = %s::bigint"
    GenerationRepository(conn).set_fields(generation.generation_id, ef_search=ef_search)
    for query in queries[:10]:
        conn.execute(statement, (query, generation.generation_id))
    start = server_cpu_s(conn)
    for query in queries:
        conn.execute(statement, (query, generation.generation_id)).fetchall()
    return 1000 * (server_cpu_s(conn) - start) / len(queries)


def build(conn: Connection, generation: Generation, kind: str, **options: int) -> tuple[IndexReport, dict[str, Any]]:
    """Build one kind, and return its report and the row of the table with its cost."""
    start = server_cpu_s(conn)
    built = build_indexes(conn, generation, **{"memory_mb": 1024, **KINDS[kind], **options})
    return built, {
        "rows": built.rows, "index": kind, "s": built.seconds, "CPU s": server_cpu_s(conn) - start,
        "MiB": built.size_bytes / 2**20, "fitted": "no" if built.spilled else "yes",
    }  # fmt: skip


def b_trees_mib(conn: Connection, generation: Generation) -> float:
    """Size of key and B-trees."""
    name = generation.table("vec").as_string(conn)
    row = conn.execute("SELECT pg_indexes_size(%s::regclass)", (name,)).fetchone()
    return row[0] / 2**20 if row else 0.0


def compare(conn: Connection, generation: Generation, queries: Vectors) -> list[dict[str, Any]]:
    """A row per kind of index."""
    rows = []
    for kind in KINDS:
        _, cost = build(conn, generation, kind)
        if kind == "none (exact)":
            cost["MiB"] = b_trees_mib(conn, generation)
            rows.append({**cost, "index": "key and B-trees", "fitted": ""})
            continue
        for ef_search in EF_SEARCH:
            cost[f"CPU ms, ef {ef_search}"] = search_ms(conn, generation, queries, ef_search)
            cost[f"recall, ef {ef_search}"] = recall(conn, generation, 50)
        rows.append(cost)
    _, cost = build(conn, generation, "vector", memory_mb=POSTGRES_MEMORY_MB)
    return [*rows, {**cost, "index": f"vector, {POSTGRES_MEMORY_MB} MiB of memory"}]


def crossover(conn: Connection, generation: Generation, queries: Vectors) -> dict[str, Any]:
    """The cost of a search with and without an index, at the default ef_search."""
    row: dict[str, Any] = {}
    for kind in KINDS:
        built, _ = build(conn, generation, kind)
        row["rows"] = built.rows
        row[f"{kind}, CPU ms"] = search_ms(conn, generation, queries, 100)
    return row


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="*", default=[20_000, 200_000], help="sizes of the first table")
    parser.add_argument("--small", type=int, nargs="*", default=[500, 1000, 2000, 5000, 10_000], help="of the second")
    parser.add_argument("--queries", type=int, default=200, help="queries per size and index (default 200)")
    arguments = parser.parse_args()
    tables: dict[str, list[dict[str, Any]]] = {"index": [], "crossover": []}
    for name, sizes in (("index", arguments.rows), ("crossover", arguments.small)):
        for size in sizes:
            made = clustered(size + arguments.queries)
            with scratch_store() as url, connect(url, autocommit=True) as conn:
                store_documents(conn, [f"text {number}" for number in range(size)])
                generation = load(conn, made[:size], made[size:])
                if name == "index":
                    tables[name] += compare(conn, generation, made[size:])
                else:
                    tables[name].append(crossover(conn, generation, made[size:]))
    for rows in filter(None, tables.values()):
        print(f"\n{table(rows)}")
    print(versions())
    write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
