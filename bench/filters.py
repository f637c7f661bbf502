"""Measures searches inside large topics that are far from the query: recall@10 and CPU time of the server.

Run from the project's root: ``python -m bench.filters``. Clustered synthetic vectors of 384 dimensions; a topic is a
run of clusters, for every query the farthest one. The query that an application would write (index, iterative scan in
relaxed order, the first ten) is compared with ``heal.nearest`` forced to use the index, forced to compare all rows that
pass, and free to choose, as in ``heal.search``.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import Vectors, backend_cpu_s, new_generation, planted, scratch_store, store_documents
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.topics import Labels, TopicRepository, TopicRow
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import Served, ServedRepository

CLUSTERS = 200
WIDTHS = (20, 50, 100)
"""Clusters of a topic: a tenth, a quarter, half of them."""

OURS = (
    "SELECT n.chunk_id FROM heal.generation g, heal.nearest(%(query)s, g, 10, topic => %(topic)s{}) n "
    "WHERE g.generation_id = %(gen)s ORDER BY n.distance"
)
WAYS = {
    "by hand, first ten": (
        "SELECT v.chunk_id FROM {} v WHERE v.leaf BETWEEN %(first)s AND %(last)s "
        "ORDER BY v.embedding <=> %(query)s LIMIT 10"
    ),
    "ours, in the index": OURS.format(", few => 0"),
    "ours, comparing all": OURS.format(", exact => true"),
    "ours": OURS.format(""),
}


def load(
    conn: Connection,
    vectors: Vectors,
    leaves: NDArray[np.int32],
    clusters: int = CLUSTERS,
    widths: Sequence[int] = WIDTHS,
) -> Generation:
    """An indexed generation; topic w * 1000 + f has the w clusters from number f on."""
    rows = len(vectors)
    store_documents(conn, [f"text {number}" for number in range(rows)])
    ids = np.arange(rows, dtype=np.int64)
    tree = [TopicRow(0, None, 0, 0, clusters - 1, ["all"], clusters, None, rows)]
    tree += [
        TopicRow(1000 * width + first, 0, 1, first, first + width - 1, ["part"], 0, None, rows)
        for width in widths
        for first in range(clusters - width + 1)
    ]
    flat = np.zeros(rows, dtype=np.float32)
    labels = Labels(ids, leaves, [[0]] * rows, flat, flat)
    run = TopicRepository(conn).insert_run(
        fingerprint="bench", uri="bench", churn=None, mean_residual=0.0, topics=tree, labels=labels
    )
    made = new_generation(conn, vectors.shape[1], run)
    ServedRepository(conn).write_served(made, Served(ids, ids, leaves, vectors))
    build_indexes(conn, made, memory_mb=2048)
    return made


def compare(
    conn: Connection,
    generation: Generation,
    vectors: Vectors,
    leaves: NDArray[np.int32],
    queries: Vectors,
    width: int,
) -> list[dict[str, Any]]:
    """A row per way, for topics of ``width`` clusters."""
    clusters = int(leaves.max()) + 1
    means = np.stack([vectors[leaves == leaf].mean(axis=0) for leaf in range(clusters)])
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    passing = []
    for query in queries:
        near = means @ query
        first = min(range(clusters - width + 1), key=lambda at: near[at : at + width].max())
        allowed = np.flatnonzero((leaves >= first) & (leaves < first + width))
        wanted = set(allowed[np.argsort(-(vectors[allowed] @ query))[:10]].tolist())
        passing.append(len(allowed))
        values = {
            "query": query, "topic": 1000 * width + first, "gen": generation.generation_id,
            "first": first, "last": first + width - 1,
        }  # fmt: skip
        for name, statement in WAYS.items():
            start = backend_cpu_s(conn)
            rows = conn.execute(sql.SQL(statement).format(generation.table("vec")), values, prepare=False).fetchall()  # type: ignore[arg-type]
            cost = backend_cpu_s(conn) - start
            costs[name].append((len({row[0] for row in rows} & wanted) / 10, 1000 * cost))
    return [
        {
            "rows": len(vectors), "pass": round(float(np.mean(passing))), "way": name,
            "recall@10": float(np.mean([found for found, _ in seen])), "lowest": min(found for found, _ in seen),
            "CPU ms": float(np.median([cost for _, cost in seen])),
        }
        for name, seen in costs.items()
    ]  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, default=120_000, help="vectors (default 120,000)")
    parser.add_argument("--queries", type=int, default=20, help="queries (default 20)")
    arguments = parser.parse_args()
    vectors, leaves = planted(arguments.rows + arguments.queries, clusters=CLUSTERS)
    stored, queries = vectors[: arguments.rows], vectors[arguments.rows :]
    rows: list[dict[str, Any]] = []
    with scratch_store() as url, connect(url, autocommit=True) as conn:
        made = load(conn, stored, leaves[: arguments.rows])
        conn.execute(
            "SET hnsw.ef_search = 1000; SET hnsw.iterative_scan = relaxed_order; SET hnsw.max_scan_tuples = 100000"
        )
        for width in WIDTHS:
            rows += compare(conn, made, stored, leaves[: arguments.rows], queries, width)
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"filters": rows})


if __name__ == "__main__":
    main()
