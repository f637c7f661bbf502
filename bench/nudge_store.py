"""Measures the share of changed rows from which a new table costs less than updating rows in place.

Run from the project's root: ``python -m bench.nudge_store`` (about half an hour, nearly all of it 200,000 rows).

**Input.** Synthetic unit vectors in clusters (384 dimensions), served and indexed (HNSW) in the embedded Postgres; a
share of the rows, taken at random, turned by half a radian towards a question near them, as a nudge does.

**Ways**, each on a fresh file copy of that database, without autovacuum. *in place*: ``upsert_served`` and
``vacuum``, as the nudge route does with few rows. *new table*: ``write_served`` into a generation of its own,
``build_indexes`` with two extra workers, and the switch, as it does with many; its cost does not depend on the share.

**Columns.** Wall seconds, of these the vacuum; CPU seconds of all server processes and of this one; size of table and
HNSW index against the ones that were there; recall@10 of the index before the vacuum and at the end. Medians of
``--runs``. Both ways are checked to serve the wanted vectors.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
from psycopg import sql

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import (
    Vectors,
    activate,
    clustered,
    load,
    scratch_store,
    server_cpu_s,
    store_documents,
)
from heal_tasks.core.errors import HealError
from heal_tasks.nudge.solve import apply_moves, plan_moves
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes, recall, vacuum
from heal_tasks.store.generations.served import SAME_VECTOR, Served, ServedRepository, index_name
from heal_tasks.store.spaces.spaces import SpaceRepository

QUESTIONS, THETA, MEMORY_MB = 200, 0.5, 1024
NAME = "scratch"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000], help="sizes")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.2, 0.5], help="shares that move")
    parser.add_argument("--runs", type=int, default=3, help="runs of each way, default 3")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for size in given.rows:
        with scratch_store() as url:
            rows += bench(url, size, given.shares, given.runs)
        print(f"\n{table([row for row in rows if row['rows'] == size])}", flush=True)
    print(versions())
    write_json(given.json, {"nudge_store": rows})


def bench(url: str, size: int, shares: Sequence[float], runs: int) -> list[dict[str, Any]]:
    """Rows of the table for one size."""
    made = clustered(size + QUESTIONS)
    before, questions = made[:size], made[size:]
    with connect(url, autocommit=True) as conn:
        store_documents(conn, [str(number) for number in range(size)])
        generation = load(conn, before, questions)
        build_indexes(conn, generation, memory_mb=MEMORY_MB)
        conn.execute(sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = false)").format(generation.table("vec")))
        activate(conn, generation)
        old = _sizes(conn, generation)
    rows: list[dict[str, Any]] = []
    order = np.random.default_rng(1).permutation(size)
    for way, share in [("new table", 1.0), *(("in place", share) for share in shares)]:
        wanted = before.copy()
        moving = order[: round(share * size)]
        # A question near a row: the row and a stranger, two to one.
        targets = 2 * before[moving] + before[order[-len(moving) :]]
        wanted[moving] = apply_moves(before[moving], plan_moves(before[moving], targets, "N"), THETA)
        done = []
        for _ in range(runs):
            with _copy(url) as conn:
                done.append(_measure(conn, generation, way, wanted, old))
        medians = {name: median(run[name] for run in done) for name in done[0]}
        named = {"rows": size, "way": way, "share": f"{share:.0%}" if way == "in place" else "any", "runs": runs}
        rows.append(named | medians)
    return rows


def _measure(
    conn: Connection, generation: Generation, way: str, wanted: Vectors, old: tuple[int, int]
) -> dict[str, float]:
    ids = np.arange(len(wanted), dtype=np.int64)
    served = Served(ids, ids, np.zeros(len(ids), dtype=np.int32), wanted)
    vectors = ServedRepository(conn)
    wall, server, own = time.perf_counter(), server_cpu_s(conn), time.process_time()
    if way == "in place":
        vectors.upsert_served(generation, served)
        half = time.perf_counter()
        unclean = recall(conn, generation, QUESTIONS)
        pause = time.perf_counter() - half
        vacuum(conn, f"vec_g{generation.generation_id:06d}")
        vacuumed = time.perf_counter() - half - pause
    else:
        generations = GenerationRepository(conn)
        generation = generations.create(run_id="bench", space=SpaceRepository(conn).get(generation.space_id))
        generations.create_tables(generation)
        vectors.write_served(generation, served)
        build_indexes(conn, generation, memory_mb=MEMORY_MB)
        activate(conn, generation)
        unclean, pause, vacuumed = None, 0.0, 0.0
    taken = {
        "wall s": time.perf_counter() - wall - pause, "vacuum s": vacuumed,
        "server CPU s": server_cpu_s(conn) - server, "client CPU s": time.process_time() - own,
    }  # fmt: skip
    after = vectors.load_served(generation)
    if not np.array_equal(after.chunk_ids, ids) or np.abs(after.vectors - wanted).max() > SAME_VECTOR:
        raise HealError(f"{way}: generation {generation.generation_id} does not serve the wanted vectors")
    table_size, index_size = _sizes(conn, generation)
    final = recall(conn, generation, QUESTIONS)
    return taken | {
        "table size": table_size / old[0], "index size": index_size / old[1],
        "recall before vacuum": (final if unclean is None else unclean) or 0.0, "recall": final or 0.0,
    }  # fmt: skip


def _sizes(conn: Connection, generation: Generation) -> tuple[int, int]:
    name, index = generation.table("vec").as_string(conn), "heal." + index_name(generation, "hnsw").as_string(conn)
    row = conn.execute("SELECT pg_table_size(%s::regclass), pg_relation_size(%s::regclass)", (name, index)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@contextmanager
def _copy(url: str) -> Iterator[Connection]:
    """A connection to a copy of a database that nobody else is connected to."""
    base, _, name = url.rpartition("/")
    with connect(f"{base}/template1", autocommit=True) as conn:
        made = [sql.Identifier(NAME), sql.Identifier(name.partition("?")[0])]
        conn.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(*made))
        try:
            with connect(f"{base}/{NAME}", autocommit=True) as copied:
                yield copied
        finally:
            conn.execute(sql.SQL("DROP DATABASE {}").format(made[0]))


if __name__ == "__main__":
    main()
