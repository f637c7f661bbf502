"""Measures the page of the whole store and a search on it, as Airflow's API server makes them, on a synthetic store.

Run from the project's root: ``python -m bench.page``. Documents of 150 words by Zipf's law, clustered vectors, a tree
of 585 topics, 730 runs with 40 measurements each, three calls to a language model per document with replies of 600
characters, and 10,000 rejections. Wall milliseconds of connecting, reading and rendering, and CPU of client and server.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import parent_parser, show
from bench.scratch import activate, clustered, load, scratch_store, server_cpu_s, store_documents, write_lexicon
from heal_tasks.report.store_charts import SIZES, quality_charts
from heal_tasks.report.store_search import Query, read_choices, search_store
from heal_tasks.report.store_state import read_store
from heal_tasks.report.templates import render_template
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation
from heal_tasks.store.generations.indexing import build_indexes

WORDS, RUNS = 150, 730
FRAME: dict[str, Any] = {"nav": [], "here": "", "script": "", "dag_id": "", "run_id": ""}

HISTORY = Path(__file__).with_name("page_history.sql")


def fill(conn: Connection, size: int) -> Generation:
    """Fill an empty store with so many documents, a live generation, and the history of two years."""
    rng, shares = np.random.default_rng(3), np.cumsum(1 / np.arange(10, 50_010))
    drawn = np.searchsorted(shares / shares[-1], rng.random((size, WORDS)))
    store_documents(conn, [" ".join(f"w{number}x" for number in row) for row in drawn])
    vectors = clustered(size)
    generation = load(conn, vectors, vectors[:50])
    write_lexicon(conn, generation, vectors)
    for statement in filter(None, HISTORY.read_text(encoding="utf-8").split(";\n")):
        conn.execute(statement, {"size": size, "runs": RUNS})  # type: ignore[arg-type]
    build_indexes(conn, generation, memory_mb=1024)
    activate(conn, generation)
    conn.execute("VACUUM (ANALYZE)")
    return generation


def store_page(conn: Connection) -> str:
    """The page of the store."""
    state = read_store(conn)
    return render_template(
        "store.html.jinja", **FRAME, state=state, charts=quality_charts(state.measured), sizes=SIZES, map=None,
        query=Query(), may_activate=True, started="",
    )  # fmt: skip


def search_page(conn: Connection, query: Query) -> str:
    """The page of a search."""
    answer, choices = search_store(conn, query), read_choices(conn)
    assert answer.found, answer.problem
    return render_template("search.html.jinja", **FRAME, query=query, choices=choices, answer=answer)


def measure(url: str, name: str, make: Callable[[Connection], str], times: int) -> dict[str, Any]:
    """Medians and the longest of some requests, each over a connection of its own."""
    wall, cpu, pages = list[float](), list[float](), list[str]()
    with connect(url, autocommit=True) as side:
        for _ in range(times):
            start, client, server = time.perf_counter(), time.process_time(), server_cpu_s(side)
            with connect(url, autocommit=True) as conn:
                pages.append(make(conn))
            wall.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.process_time() - client + server_cpu_s(side) - server))
    row = {
        "p50 ms": round(float(np.median(wall))),
        "longest ms": round(max(wall)),
        "CPU ms": round(float(np.median(cpu))),
    }
    return {"page": name, **row, "KiB": len(pages[0]) >> 10}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--documents", type=int, default=100_000, help="documents, one chunk each")
    parser.add_argument("--times", type=int, default=20, help="requests of each page")
    arguments = parser.parse_args()
    with scratch_store() as url:
        with connect(url, autocommit=True) as conn:
            fill(conn, arguments.documents)
        words = "w3x w57x w911x w1503x"
        pages: dict[str, Callable[[Connection], str]] = {
            "store": store_page,
            "search": lambda conn: search_page(conn, Query(words)),
            "search in a topic": lambda conn: search_page(conn, Query(words, topic="1")),
            "search by metadata": lambda conn: search_page(conn, Query(words, filter='{"department": "d3"}')),
        }
        show("page", (measure(url, name, make, arguments.times) for name, make in pages.items()), arguments.json)


if __name__ == "__main__":
    main()
