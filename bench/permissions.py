"""Measures searches of readers in a store of 200 tenants against the same searches before documents had readers.

Run from the project's root: ``python -m bench.permissions``. One tenant has a fifth of the rows, one has 50, the others
equally many. In layout *mixed* a row's tenant has nothing to do with its vector; in *topics* tenants have whole
clusters, so that for most questions the nearest rows are others'. Questions are random points of all clusters. CPU time
is that of the connection's server process, the number to trust on a busy machine; ratios are to the store without
readers, in which the same session searches. Recall is recall@10 against an exact scan of the rows that may be read.
"""

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import parent_parser, table, versions, write_json
from bench.query import MEMORY_MB, some_questions, texts_of
from bench.scratch import Vectors, activate, backend_cpu_s, load, planted, scratch_store, store_documents, write_lexicon
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.indexing import build_indexes, reach_recall

TENANTS, SMALL = 200, 50
SEARCH = "SELECT * FROM heal.search(%s, %s::bigint, 10)"
FIND = "SELECT * FROM heal.find(%s)"


def tenants(leaves: NDArray[np.int32], layout: str) -> NDArray[np.int64]:
    """The tenant of each row: 0 has a fifth, 1 has ``SMALL``, the others the rest."""
    rows = len(leaves)
    order = np.argsort(leaves, kind="stable") if layout == "topics" else np.random.default_rng(5).permutation(rows)
    owners = np.zeros(rows, dtype=np.int64)
    fifth = rows // 5
    owners[order[fifth : fifth + SMALL]] = 1
    rest = order[fifth + SMALL :]
    owners[rest] = 2 + np.arange(len(rest)) * (TENANTS - 2) // len(rest)
    return owners


def measure(
    conn: Connection,
    generation: Generation,
    stored: Vectors,
    queries: Vectors,
    questions: list[str],
    allowed: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """A row for heal.search and one for heal.find."""
    among, rows = set(allowed.tolist()), []
    for name in ("search", "find"):
        wall, cpu, recall = list[float](), list[float](), list[float]()
        for query, question in zip(queries, questions, strict=False):
            values: tuple[Any, ...] = (query, generation.generation_id) if name == "search" else (question,)
            used, start = backend_cpu_s(conn), time.perf_counter()
            hits = [row[0] for row in conn.execute(SEARCH if name == "search" else FIND, values).fetchall()]
            wall.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (backend_cpu_s(conn) - used))
            assert among.issuperset(hits), "a row of another tenant"
            assert len(hits) == 10
            if name == "search":
                wanted = allowed[np.argsort(-(stored[allowed] @ query))[:10]]
                recall.append(len(set(hits) & set(wanted.tolist())) / 10)
        rows.append(
            {
                "function": name, "recall@10": float(np.mean(recall)) if recall else None,
                "CPU p50": float(np.median(cpu)), "CPU p95": float(np.percentile(cpu, 95)),
                "wall p50": float(np.median(wall)), "wall p95": float(np.percentile(wall, 95)),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, default=100_000, help="vectors (default 100,000)")
    parser.add_argument("--queries", type=int, default=200, help="queries (default 200)")
    arguments = parser.parse_args()
    vectors, leaves = planted(arguments.rows + arguments.queries)
    stored, queries = vectors[: arguments.rows], vectors[arguments.rows :]
    everybody, rows = np.arange(arguments.rows), list[dict[str, Any]]()
    with scratch_store() as url, connect(url, autocommit=True) as conn:
        store_documents(conn, texts_of(arguments.rows))
        generation = load(conn, stored, queries)
        write_lexicon(conn, generation, stored)
        build_indexes(conn, generation, memory_mb=MEMORY_MB, parallel=2)
        reach_recall(conn, generation, 50, 0.95)
        activate(conn, generation)
        questions = some_questions(conn)
        conn.prepare_threshold = 0
        measure(conn, generation, stored, queries[:20], questions, everybody)  # reads the index
        before = measure(conn, generation, stored, queries, questions, everybody)
        rows += [{"layout": "no readers", "rows readable": arguments.rows, **row} for row in before]
        for layout in ("mixed", "topics"):
            owners = tenants(leaves[: arguments.rows], layout)
            conn.execute(
                "UPDATE heal.document d SET acl = ARRAY['t' || r.t] "
                "FROM unnest(%s::bigint[], %s::bigint[]) AS r (n, t) WHERE d.document_id = r.n",
                (everybody.tolist(), owners.tolist()),
            )
            conn.execute("VACUUM (ANALYZE) heal.document")
            for tenant in (0, 1, 2):
                conn.execute("SELECT set_config('heal.principals', %s, false)", (f"t{tenant}",))
                allowed = np.flatnonzero(owners == tenant)
                for row, old in zip(
                    measure(conn, generation, stored, queries, questions, allowed), before, strict=True
                ):
                    ratio = {f"{name} ratio": row[name] / old[name] for name in ("CPU p50", "CPU p95", "wall p95")}
                    rows.append({"layout": layout, "rows readable": len(allowed), **row, **ratio})
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"permissions": rows})


if __name__ == "__main__":
    main()
