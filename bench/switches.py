"""Measures the effect of switches between two generations on readers: the longest read, with and without switches.

Run from the project's root: ``python -m bench.switches``. Reader threads call heal.search pinned to one of the two
generations, or read the view heal.embedding, each with prepared statements and without. During half of the switches a
report query holds the view in an open transaction, so that these switches have to wait and try again.
"""

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import Vectors, activate, clustered, load, scratch_store, store_documents
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import LOCK_TIMEOUT_MS, Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes

PAUSE_S = 0.005
"""Between two reads of a reader: six readers without a pause use two processors fully, and measure only that."""

Read = Callable[[Connection], object]


def reader(url: str, read: Read, prepared: bool, stop: threading.Event, times: list[float]) -> None:
    """Read until ``stop`` is set; an error ends the thread, which counts as failed."""
    with connect(url, autocommit=True) as conn:
        conn.prepare_threshold = 0 if prepared else None
        while not stop.is_set():
            start = time.perf_counter()
            read(conn)
            times.append(time.perf_counter() - start)
            time.sleep(PAUSE_S)


def searching(generation: Generation, query: Vectors) -> Read:
    """One search in a pinned generation."""
    statement = "SELECT chunk_id, text, distance FROM heal.search(%s, %s::bigint, 10)"
    return lambda conn: conn.execute(statement, (query, generation.generation_id)).fetchall()


def counting(conn: Connection) -> object:
    """A query of the view."""
    return conn.execute("SELECT count(*), min(generation_id) FROM heal.embedding WHERE chunk_id < 100").fetchall()


def hold(url: str, held: threading.Event, report_s: float) -> None:
    """Keep the view locked, as a long report does."""
    with connect(url) as conn:
        conn.execute("SELECT FROM heal.embedding LIMIT 1")
        held.set()
        time.sleep(report_s)


def switch(url: str, made: list[Generation], switches: int, report_s: float = 1.0) -> list[float]:
    """Switch back and forth, and return the seconds of each switch; a report holds up the second half of them."""
    seconds = []
    with connect(url, autocommit=True) as conn:
        generations = GenerationRepository(conn)
        for number in range(switches):
            held = threading.Event()
            report = threading.Thread(target=hold, args=(url, held, report_s))
            if number >= switches // 2:
                report.start()
                held.wait()
            start = time.perf_counter()
            generations.activate(made[number % 2].generation_id, lock_timeout_ms=LOCK_TIMEOUT_MS)
            seconds.append(time.perf_counter() - start)
            if report.ident:
                report.join()
            time.sleep(0.1)
    return seconds


def rest(seconds: float) -> list[float]:
    """Wait without a switch."""
    time.sleep(seconds)
    return []


def measure(url: str, reads: list[Read], during: Callable[[], list[float]]) -> dict[str, Any]:
    """A row of the table: times of the readers while ``during`` runs."""
    stop = threading.Event()
    times: list[list[float]] = [[] for _ in range(2 * len(reads))]
    threads = [
        threading.Thread(target=reader, args=(url, read, prepared, stop, times[2 * place + prepared]))
        for place, read in enumerate(reads)
        for prepared in (False, True)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    for seen in times:
        seen.clear()
    switched = during()
    alive = sum(thread.is_alive() for thread in threads)
    stop.set()
    for thread in threads:
        thread.join()
    milliseconds = 1000 * np.concatenate(times)
    return {
        "switches": len(switched), "reads": len(milliseconds), "readers that failed": len(threads) - alive,
        "p50 ms": float(np.median(milliseconds)), "p99 ms": float(np.quantile(milliseconds, 0.99)),
        "longest ms": float(milliseconds.max()), "longest switch s": max(switched, default=0.0),
    }  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each generation (default 20,000)")
    parser.add_argument("--switches", type=int, default=20, help="number of switches (default 20)")
    arguments = parser.parse_args()
    with scratch_store() as url, connect(url, autocommit=True) as conn:
        store_documents(conn, [f"text {number}" for number in range(arguments.rows)])
        made: list[Generation] = []
        reads: list[Read] = [counting]
        for dims in (384, 256):
            vectors = clustered(arguments.rows + 1, dims=dims)
            made.append(load(conn, vectors[:-1], vectors[-1:]))
            build_indexes(conn, made[-1], memory_mb=512)
            activate(conn, made[-1])
            reads.append(searching(made[-1], vectors[-1]))
        began = time.perf_counter()
        rows = [measure(url, reads, lambda: switch(url, made, arguments.switches))]
        seconds = time.perf_counter() - began
        rows.append(measure(url, reads, lambda: rest(seconds)))
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"switches": rows})


if __name__ == "__main__":
    main()
