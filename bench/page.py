"""Measures the page of the whole store and a search on it, as Airflow's API server makes them, on a synthetic store.

Run from the project's root: ``python -m bench.page``. Documents of 150 words by Zipf's law, clustered vectors, a tree
of 585 topics, 730 runs with 40 measurements each, three calls to a language model per document with replies of 600
characters, and 10,000 rejections. Wall milliseconds of connecting, reading and rendering, and CPU of client and server.
"""

import argparse
import time
from collections.abc import Callable
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

# What 730 nights leave behind.
_HISTORY = """
INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) VALUES ('b', 'b', %(size)s, 585, 512, 3, .5);
INSERT INTO heal.topic (topic_run_id, topic_id, parent_id, level, first_leaf, last_leaf, terms, k, silhouette, size)
SELECT 1, n, CASE WHEN n > 0 THEN (n - 1) / 8 END, level, (n - first) * wide, (n - first + 1) * wide - 1,
       ARRAY['word' || n, 'and', 'other', 'words', 'of', 'topic'], CASE WHEN level < 3 THEN 8 ELSE 1 END, .9, %(size)s * wide / 512
FROM generate_series(0, 584) n
JOIN (VALUES (0, 0, 1, 512), (1, 1, 9, 64), (2, 9, 73, 8), (3, 73, 585, 1)) AS l (level, first, past, wide) ON n >= first AND n < past;
INSERT INTO heal.run (run_id, started_at, finished_at, route, route_reason, verdict)
SELECT 'run ' || n, now() - make_interval(days => %(runs)s - n), now() - make_interval(days => %(runs)s - n) + interval '1 hour',
       (ARRAY['nothing', 'nudge', 'nudge', 'realign'])[1 + n %% 4], '20 new, 1 changed and 1 deleted of 100000 documents',
       '26 rows added, 0 changed, 1 removed; 1841 computed'
FROM generate_series(1, %(runs)s) n;
INSERT INTO heal.step_result (step, fingerprint, run_id, result, finished_at)
SELECT step, step || n, 'run ' || n, '{"refs": {"generation_id": "0", "best_id": "0"}, "counts": {}}', now()
FROM generate_series(1, %(runs)s) n, unnest(ARRAY['ingest', 'route', 'ask', 'embed_new', 'nudge_live', 'report']) step;
INSERT INTO heal.evaluation (run_id, generation_id, system, question_set, metric, value, low, high, questions)
SELECT 'run ' || n, 1, system, name, metric, .8 + .1 * sin(n / 20.0), .7 + .1 * sin(n / 20.0), .9 + .1 * sin(n / 20.0), 300
FROM generate_series(1, %(runs)s) n, unnest(ARRAY['live before', 'live after']) system,
     unnest(ARRAY['unseen documents', 'unseen documents, by text', 'human questions', 'human questions, by text', 'topics of unseen documents']) name,
     unnest(ARRAY['ndcg@10', 'recall@10', 'mrr@10', 'accuracy@1']) metric;
INSERT INTO heal.llm_call (run_id, purpose, model, prompt_hash, content_hash, chunk_id, status, input_tokens, output_tokens, cost_usd, raw_reply, created_at)
SELECT 'run ' || (1 + n %% %(runs)s), (ARRAY['questions', 'maps', 'answers'])[1 + n %% 3], 'model', 'p', n::text, n / 3, 'ok', 400, 120, .0001,
       left(repeat(md5(n::text), 20), 600), now() - make_interval(hours => (n %% (24 * %(runs)s))::int)
FROM generate_series(0, 3 * %(size)s - 1) n;
INSERT INTO heal.quarantine (run_id, source, path, line, reason, raw, mended_at)
SELECT 'run 1', 's3://bucket', 'folder/file ' || n || '.csv', n, 'the row has 3 columns, the heading 4', repeat('x', 500),
       CASE WHEN n %% 3 = 0 THEN now() END
FROM generate_series(1, 10000) n;
INSERT INTO heal.question (question_id, chunk_id, text, answer, evidence, kind, writer, model, prompt_hash, split)
SELECT n, n, 'which document has word ' || n, 'a', 'e', 'question', 'llm', 'm', 'p', 'unseen_test' FROM generate_series(0, 39) n;
INSERT INTO heal.rank_change SELECT 1, n, 'text', nullif(1 + n %% 11, 11), nullif(1 + (n * 7 + 3) %% 11, 11) FROM generate_series(0, 39) n;
UPDATE heal.generation SET topic_run_id = 1, run_id = 'run 1';
UPDATE heal.vec_g000001 SET leaf = chunk_id %% 512;
UPDATE heal.document SET metadata = jsonb_build_object('department', 'd' || document_id %% 10)
"""


def fill(conn: Connection, size: int) -> Generation:
    """Fill an empty store with so many documents, a live generation, and the history of two years."""
    rng, shares = np.random.default_rng(3), np.cumsum(1 / np.arange(10, 50_010))
    drawn = np.searchsorted(shares / shares[-1], rng.random((size, WORDS)))
    store_documents(conn, [" ".join(f"w{number}x" for number in row) for row in drawn])
    vectors = clustered(size)
    generation = load(conn, vectors, vectors[:50])
    write_lexicon(conn, generation, vectors)
    for statement in _HISTORY.split(";\n"):
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
