"""Measures heal.find and heal.hybrid_search against vectors alone, words alone, and the fusion of their ranks.

Run from the project's root: ``python -m bench.hybrid --collection FOLDER`` (corpus, queries, qrels and MiniLM vectors
of a public collection). Quality is nDCG@10 on the test queries; time is the median per query on one connection.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql

from bench.common import load_collection, load_queries, load_query_vectors, parent_parser, table, versions, write_json
from bench.scratch import activate, load, scratch_store, store_documents, write_lexicon
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.indexing import build_indexes

K, DEPTH, RRF = 10, 50, 60
SYSTEMS = {
    "vectors": "SELECT chunk_id FROM heal.search(%(vector)s, %(gen)s::bigint, 10)",
    "words": "SELECT m.chunk_id FROM heal.generation g, heal.matching(%(words)s, g, 10) m "
    "WHERE g.generation_id = %(gen)s ORDER BY m.weight DESC, m.chunk_id",
    "both (heal.hybrid_search)": "SELECT chunk_id FROM heal.hybrid_search(%(words)s, %(vector)s, %(gen)s::bigint, 10)",
    "both, without lexicon": "SELECT chunk_id FROM heal.hybrid_search(%(words)s, %(vector)s, %(gen)s::bigint, 10, "
    "words_weight => 0.2, lexicon_weight => 0)",
    "text alone (heal.find)": "SELECT chunk_id FROM heal.find(%(words)s, 10)",
    "both, ranks fused": f"""
        WITH v AS (SELECT chunk_id, row_number() OVER (ORDER BY distance, chunk_id) AS place
                   FROM heal.search(%(vector)s, %(gen)s::bigint, {DEPTH})),
        w AS (SELECT m.chunk_id, row_number() OVER (ORDER BY m.weight DESC, m.chunk_id) AS place
              FROM heal.generation g, heal.matching(%(words)s, g, {DEPTH}) m WHERE g.generation_id = %(gen)s)
        SELECT chunk_id FROM v FULL JOIN w USING (chunk_id)
        ORDER BY coalesce(1.0 / ({RRF} + v.place), 0) + coalesce(1.0 / ({RRF} + w.place), 0) DESC, chunk_id LIMIT 10""",
}


def ndcg(found: list[str], grades: dict[str, float]) -> float:
    """nDCG@10 with linear gain."""
    gain = sum(grades.get(name, 0.0) / np.log2(place + 2) for place, name in enumerate(found[:K]))
    best = sorted(grades.values(), reverse=True)[:K]
    return float(gain / sum(grade / np.log2(place + 2) for place, grade in enumerate(best)))


def score(ask: Callable[[int], list[str]], rows: list[int], grades: list[dict[str, float]]) -> dict[str, Any]:
    """Mean nDCG@10, and the median of the time per query."""
    values, times = [], []
    for row, judged in zip(rows, grades, strict=True):
        start = time.perf_counter()
        found = ask(row)
        times.append(time.perf_counter() - start)
        values.append(ndcg(found, judged))
    return {"nDCG@10": float(np.mean(values)), "ms per query": 1000 * float(np.median(times))}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, required=True, help="folder of a collection with MiniLM vectors")
    parser.add_argument("--queries", type=int, default=300, help="test queries at most (default 300)")
    arguments = parser.parse_args()
    collection = load_collection(arguments.collection)
    asked_texts, judgments = load_queries(arguments.collection)
    ids, texts = list(asked_texts), list(asked_texts.values())
    judged: dict[str, dict[str, float]] = {}
    for item in judgments:
        if item.split == "test":
            judged.setdefault(item.query, {})[item.document] = item.grade
    asked = load_query_vectors(arguments.collection)
    test = [row for row, name in enumerate(ids) if name in judged]
    test = [test[place] for place in sorted(np.random.default_rng(0).permutation(len(test))[: arguments.queries])]
    assert collection.vectors is not None
    with scratch_store() as url, connect(url, autocommit=True) as conn:
        store_documents(conn, collection.texts)
        generation = load(conn, collection.vectors, asked[test])
        build_indexes(conn, generation, memory_mb=512)
        write_lexicon(conn, generation, collection.vectors)
        activate(conn, generation)

        def asking(conn: Connection, statement: str) -> Callable[[int], list[str]]:
            def ask(row: int) -> list[str]:
                values = {"words": texts[row], "vector": asked[row], "gen": generation.generation_id}
                return [collection.ids[key] for (key,) in conn.execute(sql.SQL(statement), values)]  # type: ignore[arg-type]

            return ask

        rows = [
            {"system": name, **score(asking(conn, statement), test, [judged[ids[row]] for row in test])}
            for name, statement in SYSTEMS.items()
        ]
    print(f"{collection.name}: {len(collection.ids)} documents, {len(test)} queries\n")
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"hybrid": rows})


if __name__ == "__main__":
    main()
