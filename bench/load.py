"""Measures loading vectors into the store and reading them back, against the usual ways with psycopg.

Run from the project's root: ``python -m bench.load``. Every way fills a table like that of a generation's served rows
(chunk, document, leaf, vector; no index), and the stored rows are compared with the input. CPU time is given for client
and server: if each has a core, the larger one decides. The slow ways get fewer rows.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from psycopg import sql

from bench.common import MIN_RUNS, parent_parser, table, versions, write_json
from bench.scratch import clustered, new_generation, scratch_store, server_cpu_s, store_documents
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.spaces.vector_tables import copy_vectors, copy_vectors_out

Load = Callable[[Connection, Generation, Served], object]


def python_rows(served: Served) -> Any:
    """Rows as Python tuples."""
    return zip(
        served.chunk_ids.tolist(), served.document_ids.tolist(), served.leaves.tolist(), served.vectors, strict=True
    )


def our_copy(conn: Connection, generation: Generation, served: Served) -> None:
    """Psycopg's binary COPY with declared types."""
    integers = {"chunk_id": served.chunk_ids, "document_id": served.document_ids, "leaf": served.leaves}
    copy_vectors(conn, generation.table("vec"), integers, served.vectors)


def executemany(conn: Connection, generation: Generation, served: Served) -> None:
    """Pipelined INSERTs in one transaction."""
    statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(generation.table("vec"))
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(statement, list(python_rows(served)))


def text_copy(conn: Connection, generation: Generation, served: Served) -> None:
    """Text COPY, as in most examples."""
    statement = sql.SQL("COPY {} FROM STDIN").format(generation.table("vec"))
    with conn.transaction(), conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in python_rows(served):
            copy.write_row(row)


def write_served(conn: Connection, generation: Generation, served: Served) -> None:
    """As the steps do: vectors checked, rows of deleted chunks removed."""
    ServedRepository(conn).write_served(generation, served)


LOADS: dict[str, tuple[Load, bool]] = {
    "ours: write_served, checks included": (write_served, False),
    "ours: copy_vectors (binary COPY, types declared)": (our_copy, False),
    "psycopg: executemany INSERT": (executemany, True),
    "psycopg: text COPY": (text_copy, True),
}


def our_read(conn: Connection, generation: Generation) -> Served:
    """All served rows, as the steps read them."""
    return ServedRepository(conn).load_served(generation)


def plain_read(conn: Connection, generation: Generation, rows: int) -> Served:
    """The first rows by SELECT."""
    query = sql.SQL("SELECT chunk_id, document_id, leaf, embedding FROM {} WHERE chunk_id < %s ORDER BY 1")
    found = conn.execute(query.format(generation.table("vec")), (rows,)).fetchall()
    chunks, documents, leaves, vectors = zip(*found, strict=True)
    matrix = np.stack([vector.to_numpy() for vector in vectors])
    return Served(np.array(chunks), np.array(documents), np.array(leaves, dtype=np.int32), matrix)


def same(conn: Connection, generation: Generation, served: Served) -> None:
    """Check that the stored rows are the given ones, bit by bit."""
    query = sql.SQL("SELECT chunk_id, document_id, leaf, embedding FROM {} ORDER BY 1").format(generation.table("vec"))
    integers, vectors = copy_vectors_out(conn, query, generation.dims, sizes=(8, 8, 4))
    for stored, given in zip([*integers, vectors], vars(served).values(), strict=True):
        np.testing.assert_array_equal(stored, given)


def costs(conn: Connection, rows: int, runs: int, call: Callable[[], object]) -> dict[str, Any]:
    """Medians over the runs: rows a second of wall time, CPU microseconds per row of client and server."""
    measured = []
    for _ in range(runs):
        server, client, start = server_cpu_s(conn), time.process_time(), time.perf_counter()
        call()
        measured.append((time.perf_counter() - start, time.process_time() - client, server_cpu_s(conn) - server))
    wall, client, server = (median(column) for column in zip(*measured, strict=True))
    return {
        "rows": rows, "rows/s": round(rows / wall), "client us/row": 1e6 * client / rows,
        "server us/row": 1e6 * server / rows, "rows/s, a core each": round(rows / max(client, server)),
    }  # fmt: skip


def compare(
    conn: Connection, generation: Generation, served: Served, runs: int, slow_rows: int = 10_000
) -> list[dict[str, Any]]:
    """Rows of the table: every way in, then every way out; slow ways with fewer rows."""
    truncate = sql.SQL("TRUNCATE {}").format(generation.table("vec"))
    few = Served(*[values[:slow_rows] for values in vars(served).values()])
    rows: list[dict[str, Any]] = []

    def fill(way: Load, part: Served) -> None:
        conn.execute(truncate)
        way(conn, generation, part)

    for name, (way, slow) in LOADS.items():
        part = few if slow else served
        rows.append({"way": name, **costs(conn, len(part.chunk_ids), runs, partial(fill, way, part))})
        same(conn, generation, part)
    fill(our_copy, served)
    reads: dict[str, Callable[[], Served]] = {
        "ours: load_served": partial(our_read, conn, generation),
        "psycopg: SELECT, then to NumPy": partial(plain_read, conn, generation, slow_rows),
    }
    for name, read in reads.items():
        found = read()
        for stored, given in zip(vars(found).values(), vars(served).values(), strict=True):
            np.testing.assert_array_equal(stored, given[: len(stored)])
        rows.append({"way": f"out, {name}", **costs(conn, len(found.chunk_ids), runs, read)})
    return rows


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the fast ways (default 200,000)")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help=f"for the medians (default {MIN_RUNS})")
    arguments = parser.parse_args()
    vectors = clustered(arguments.rows)
    ids = np.arange(arguments.rows, dtype=np.int64)
    served = Served(ids, ids, (ids % 50).astype(np.int32), vectors)
    with scratch_store() as url, connect(url, autocommit=True) as conn:
        store_documents(conn, [f"text {number}" for number in range(arguments.rows)])
        rows = compare(conn, new_generation(conn, vectors.shape[1]), served, arguments.runs)
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"load": rows})


if __name__ == "__main__":
    main()
