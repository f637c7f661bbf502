"""Measures heal.search against the same query written by hand on a plain pgvector table with the same index settings.

Run from the project's root: ``python -m bench.query``. Vectors are clustered and synthetic; every kind of index that
``build_indexes`` makes is measured. Ours and the hand-written query, prepared by the driver and not, take turns on each
connection, so that all run under the same load; their hits are compared first. CPU time is that of the connection's
server process, the number to trust on a busy machine. Recall is recall@10 against an exact scan; if it is below .95,
ef_search is doubled first, as before a switch.

*find* is ``heal.find`` on the same rows, by questions of eight words of a text: the texts are planted, with a lexicon
fitted to them. Its column is the ratio of its median to that of ``heal.search``, in turns on one connection.

``--during-realignment`` measures again while another process loads a second generation of the same size into the same
database, indexes it as the pipeline does and drops it; the clients query until it has finished.
"""

import argparse
import multiprocessing
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from psycopg import sql

from bench.common import parent_parser, table, versions, write_json
from bench.scratch import (
    Vectors,
    activate,
    backend_cpu_s,
    clustered,
    load,
    scratch_store,
    store_documents,
    write_lexicon,
)
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository, IndexKind
from heal_tasks.store.generations.indexing import build_indexes, reach_recall

OURS = "SELECT chunk_id, title, text, distance FROM heal.search(%(query)s, %(generation)s::bigint, 10)"
WAYS = ("ours", "by hand", "unprepared")
KINDS: tuple[IndexKind, ...] = ("none", "vector", "halfvec")
MEMORY_MB, RECALL_QUESTIONS, RECALL_TARGET = 2048, 50, 0.95

Samples = dict[str, list[tuple[float, float]]]


def by_hand(generation: Generation, kind: IndexKind) -> sql.Composed:
    """The query that an application would write: the nearest ten with their texts.

    By an index of bits as in pgvector's README: the nearest candidates, of which the vectors are compared.
    """
    width = sql.SQL(str(generation.dims))
    full = sql.SQL("v.embedding <=> %(query)s::vector({0})")
    orders = {
        "halfvec": sql.SQL("v.embedding::halfvec({0}) <=> %(query)s::vector({0})::halfvec({0})"),
        "bit": sql.SQL("binary_quantize(v.embedding)::bit({0}) <~> binary_quantize(%(query)s::vector({0}))::bit({0})"),
    }
    return sql.SQL(
        "SELECT n.chunk_id, d.title, c.text, n.distance FROM (SELECT s.* FROM (SELECT v.chunk_id, {} AS distance "
        "FROM {} v ORDER BY {} LIMIT {}) s ORDER BY s.distance LIMIT 10) n "
        "JOIN heal.chunk c USING (chunk_id) JOIN heal.document d USING (document_id) ORDER BY n.distance"
    ).format(
        full.format(width),
        generation.table("vec"),
        orders.get(kind, full).format(width),
        sql.Literal(10 * generation.oversampling),
    )


def ways(conn: Connection, generation: Generation, kind: IndexKind) -> dict[str, Callable[[Vectors], list[Any]]]:
    """The ways to query on a connection, by name."""
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(generation.ef_search),))
    conn.prepare_threshold = 0
    statement = by_hand(generation, kind)
    return {
        "ours": lambda query: conn.execute(OURS, {"query": query, "generation": generation.generation_id}).fetchall(),
        "by hand": lambda query: conn.execute(statement, {"query": query}).fetchall(),
        "unprepared": lambda query: conn.execute(statement, {"query": query}, prepare=False).fetchall(),
    }


def client(
    url: str, generation: Generation, kind: IndexKind, queries: Vectors, enough: Callable[[], bool], samples: Samples
) -> None:
    """Run every query in every way, in turns, until ``enough`` is true; append wall and CPU seconds of each."""
    with connect(url, autocommit=True) as conn:
        asked = ways(conn, generation, kind)
        for name in WAYS:
            asked[name](queries[0])
        turn = 0
        while True:
            for query in queries:
                turn += 1
                for name in WAYS[turn % 3 :] + WAYS[: turn % 3]:
                    cpu, start = backend_cpu_s(conn), time.perf_counter()
                    asked[name](query)
                    samples[name].append((time.perf_counter() - start, backend_cpu_s(conn) - cpu))
            if enough():
                return


def some_questions(conn: Connection) -> list[str]:
    """Questions of eight words of a text."""
    texts = conn.execute("SELECT text FROM heal.chunk ORDER BY hashint8(chunk_id) LIMIT 400").fetchall()
    return [" ".join(text.split()[::7][:8]) for (text,) in texts]


def find_ratio(url: str, generation: Generation, questions: list[str]) -> dict[str, float]:
    """Medians of heal.find and heal.search in milliseconds, and their ratio.

    They take turns, each with another question: after a call with the same question the pages that it needs are in the
    processor's cache.
    """
    wall: dict[str, list[float]] = {"find": [], "search": [], "vector": []}
    with connect(url, autocommit=True) as conn:
        conn.prepare_threshold = 0
        asked = [conn.execute("SELECT %s, heal.query_vector(%s)", (text, text)).fetchone() for text in questions]
        statements = (
            ("find", "SELECT chunk_id, title, text, distance FROM heal.find(%(text)s)"),
            ("search", OURS),
            ("vector", "SELECT heal.query_vector(%(text)s)"),
        )
        for turn in range(2 * len(asked)):
            for place, (name, statement) in enumerate(statements):
                question = asked[(turn + place * len(asked) // 3) % len(asked)]
                assert question is not None
                values = {"text": question[0], "query": question[1], "generation": generation.generation_id}
                start = time.perf_counter()
                conn.execute(statement, values).fetchall()
                wall[name].append(1000 * (time.perf_counter() - start))
    medians = {name: float(np.median(values)) for name, values in wall.items()}
    return {
        "find p50": medians["find"], "search p50": medians["search"], "query_vector p50": medians["vector"],
        "find / search": medians["find"] / medians["search"],
    }  # fmt: skip


def texts_of(size: int) -> list[str]:
    """Texts of sixty words by Zipf's law."""
    rng = np.random.default_rng(3)
    shares = np.cumsum(1 / np.arange(10, 50_010))
    drawn = np.searchsorted(shares / shares[-1], rng.random((size, 60)))
    return [" ".join(f"w{number}x" for number in row) for row in drawn]


def same_hits(conn: Connection, generation: Generation, kind: IndexKind, queries: Vectors) -> None:
    """Check that both ways find the same chunks at the same distances."""
    asked = ways(conn, generation, kind)
    for query in queries:
        ours, theirs = asked["ours"](query), asked["by hand"](query)
        assert {row[0] for row in ours} == {row[0] for row in theirs}
        np.testing.assert_allclose([row[3] for row in ours], [row[3] for row in theirs], atol=1e-6)


def realign(url: str, rows: int, kind: IndexKind) -> None:
    """Load a second generation, index it, drop it; runs in a process of its own."""
    with connect(url, autocommit=True) as conn:
        made = load(conn, clustered(rows, seed=1), clustered(1, seed=2))
        build_indexes(conn, made, memory_mb=MEMORY_MB, kind=kind)
        generations = GenerationRepository(conn)
        generations.set_state(made.generation_id, "failed")
        generations.drop_tables(made.generation_id)


def has_ended(process: BaseProcess) -> bool:
    """True if a process has finished."""
    return not process.is_alive()


def ask(
    url: str, generation: Generation, kind: IndexKind, queries: Vectors, clients: int, enough: Callable[[], bool]
) -> dict[str, float]:
    """Quantiles over all clients."""
    samples: Samples = defaultdict(list)
    threads = [
        threading.Thread(target=client, args=(url, generation, kind, part, enough, samples))
        for part in np.array_split(queries, clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    columns: dict[str, float] = {}
    for name in WAYS:
        wall, cpu = 1000 * np.array(samples[name]).T
        columns |= {
            f"{name} p50": np.median(wall),
            f"{name} p99": np.quantile(wall, 0.99),
            f"{name} CPU": np.median(cpu),
        }
    columns["CPU ratio"] = columns["ours CPU"] / columns["by hand CPU"]
    return {name: float(value) for name, value in columns.items()}


def measure_kind(
    url: str, generation: Generation, kind: IndexKind, queries: Vectors, clients: list[int], busy: bool
) -> list[dict[str, Any]]:
    """Rows of the table for one index; times in milliseconds."""
    with connect(url, autocommit=True) as conn:
        built = build_indexes(conn, generation, memory_mb=MEMORY_MB, parallel=2, kind=kind)
        generation = reach_recall(conn, generation, RECALL_QUESTIONS, RECALL_TARGET)
        same_hits(conn, generation, kind, queries[:20])
    rows = []
    for number in clients:
        row: dict[str, Any] = {
            "rows": built.rows, "index": kind, "index s": round(built.seconds), "ef_search": generation.ef_search,
            "recall@10": generation.recall, "clients": number,
        }  # fmt: skip
        rows.append({**row, "realigning": "no", **ask(url, generation, kind, queries, number, lambda: True)})
        if busy:
            writer = multiprocessing.get_context("spawn").Process(target=realign, args=(url, built.rows, kind))
            writer.start()
            asked = ask(url, generation, kind, queries, number, partial(has_ended, writer))
            writer.join()
            assert writer.exitcode == 0, "the realignment failed"
            rows.append({**row, "realigning": "yes", **asked})
    return rows


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000], help="sizes")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of index (default all)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="connections at a time")
    parser.add_argument("--queries", type=int, default=400, help="queries per size and index (default 400)")
    parser.add_argument("--during-realignment", action="store_true", help="measure again beside a writer")
    arguments = parser.parse_args()
    rows, finds = list[dict[str, Any]](), list[dict[str, Any]]()
    for size in arguments.rows:
        made = clustered(size + arguments.queries)
        vectors, queries = made[:size], made[size:]
        with scratch_store() as url:
            with connect(url, autocommit=True) as conn:
                store_documents(conn, texts_of(size))
                generation = load(conn, vectors, queries)
                write_lexicon(conn, generation, vectors)
                questions = some_questions(conn)
                activate(conn, generation)
            for kind in arguments.kinds:
                rows += measure_kind(url, generation, kind, queries, arguments.clients, arguments.during_realignment)
                print(table(rows), flush=True)
                finds.append({"rows": size, "index": kind, **find_ratio(url, generation, questions)})
                print(table(finds), flush=True)
    print(versions())
    write_json(arguments.json, {"query": rows, "find": finds})


if __name__ == "__main__":
    main()
