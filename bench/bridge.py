"""Measures what query vectors keep when they are mapped to another encoder's space, and what the map costs in SQL.

Run from the project's root: ``python -m bench.bridge --collection FOLDER --documents FILE --queries FILE``. One encoder
is all-MiniLM-L6-v2, whose vectors are in the folder of the collection; those of the other, in the same order, are
the two files, which ``numpy.save`` has written. Maps are fitted to documents, or to documents and the queries that are
not test queries; recall@10 and nDCG@10 are of the test queries among the new encoder's documents. *there and back* is
the map to the other encoder composed with the map back, against the first encoder's own vectors: two maps, as for a
client that is two switches behind. Without a collection only the cost is measured.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from bench.common import Collection, load_collection, load_queries, load_query_vectors, parent_parser, show
from bench.scratch import backend_cpu_s, scratch_store
from heal_tasks.bridge.fit import fit_map, fit_orthogonal
from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.ranking import evaluate
from heal_tasks.store.db import connect
from heal_tasks.store.generations.bridges import ROW_COLUMNS
from heal_tasks.store.spaces.vector_tables import copy_rows

Vectors = NDArray[np.float32]

RESAMPLES, DIMS, CALLS = 2000, (384, 768, 1536, 3072), 100


def unit(rows: NDArray[np.floating]) -> Vectors:
    """Rows at unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def share(mapped: NDArray[np.float64], native: NDArray[np.float64]) -> str:
    """The ratio of two means over the same queries, with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).integers(0, len(native), (RESAMPLES, len(native)))
    low, high = np.percentile(mapped[drawn].mean(axis=1) / native[drawn].mean(axis=1), (2.5, 97.5))
    return f"{mapped.mean() / native.mean():.3f} ({low:.3f} to {high:.3f})"


class Pair:
    """Two encoders' vectors of the documents and queries of a collection."""

    def __init__(self, folder: Path, documents: Path, queries: Path) -> None:
        self.collection: Collection = load_collection(folder)
        if self.collection.vectors is None:
            raise InputError(f"{folder} has no vectors of all-MiniLM-L6-v2; give the folder of a collection that has")
        texts, judgments = load_queries(folder)
        other = [unit(np.load(file, allow_pickle=False).astype(np.float32)) for file in (documents, queries)]
        self.documents = {"MiniLM": self.collection.vectors, "other": other[0]}
        self.queries = {"MiniLM": load_query_vectors(folder), "other": other[1]}
        row_of, place_of = (
            {key: row for row, key in enumerate(self.collection.ids)},
            {k: i for i, k in enumerate(texts)},
        )
        answers: dict[int, list[int]] = {}
        self.fitting = np.array(sorted({place_of[item.query] for item in judgments if item.split != "test"}), dtype=int)
        for item in judgments:
            if item.split == "test" and item.document in row_of:
                answers.setdefault(place_of[item.query], []).append(row_of[item.document])
        self.test, self.answers = np.array(list(answers)), list(answers.values())

    def values(self, queries: Vectors, name: str) -> dict[str, NDArray[np.float64]]:
        """Metrics of queries among an encoder's documents."""
        return evaluate(queries, self.documents[name], self.answers)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Results by direction and way."""
        for old, new in (("MiniLM", "other"), ("other", "MiniLM")):
            native = self.values(self.queries[new][self.test], new)
            own = self.values(self.queries[old][self.test], old)
            asked = self.queries[old][self.test]

            def row(way: str, mapped: Vectors, texts: int, new: str = new, old: str = old,
                    native: dict[str, NDArray[np.float64]] = native, own: dict[str, NDArray[np.float64]] = own
            ) -> dict[str, Any]:  # fmt: skip
                found = self.values(mapped, new)
                return {
                    "collection": self.collection.name, "from": old, "to": new, "map": way, "texts": texts,
                    "recall@10, own": float(own["recall@10"].mean()),
                    "native": float(native["recall@10"].mean()),
                    "share of recall@10": share(found["recall@10"], native["recall@10"]),
                    "share of nDCG@10": share(found["ndcg@10"], native["ndcg@10"]),
                }  # fmt: skip

            pairs = {"documents": (self.documents[old], self.documents[new])}
            if len(self.fitting):
                pairs["documents and queries"] = (
                    np.concatenate((self.documents[old], self.queries[old][self.fitting])),
                    np.concatenate((self.documents[new], self.queries[new][self.fitting])),
                )
            for texts, (before, after) in pairs.items():
                for way, fit in (("orthogonal", fit_orthogonal), ("ridge", fit_map)):
                    yield row(f"{way}, {texts}", fit(before, after)(asked), len(before))
            there, back = fit_map(before, after), fit_map(after, before)
            again = row("there and back, ridge", there.then(back)(asked), len(before), new=old, native=own)
            yield again


def costs() -> Iterator[dict[str, Any]]:
    """Milliseconds of the map in SQL, by dimensions."""
    rng = np.random.default_rng(0)
    with scratch_store() as url, connect(url, autocommit=True) as conn:
        conn.execute("ALTER TABLE heal.bridge_row DROP CONSTRAINT bridge_row_from_space_to_space_fkey")
        for number, dims in enumerate(DIMS):
            rows = ((number, number, place, 0.0, rng.normal(size=dims).astype(np.float32)) for place in range(dims))
            copy_rows(conn, sql.Identifier("heal", "bridge_row"), ROW_COLUMNS, rows)
            conn.execute("VACUUM ANALYZE heal.bridge_row")
            spent = []
            for query in unit(rng.normal(size=(CALLS + 10, dims))):
                cpu, start = backend_cpu_s(conn), time.perf_counter()
                conn.execute("SELECT heal.mapped(%s, %s, %s)", (query, number, number)).fetchall()
                spent.append((backend_cpu_s(conn) - cpu, time.perf_counter() - start))
            cpu_s, wall_s = zip(*spent[10:], strict=True)
            yield {"dimensions": dims, "CPU ms": 1000 * sum(cpu_s) / CALLS, "p50 ms": 1000 * median(wall_s)}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, help="folder of a collection with MiniLM's vectors")
    parser.add_argument("--documents", type=Path, help="the other encoder's vectors of the documents, .npy")
    parser.add_argument("--queries", type=Path, help="the other encoder's vectors of the queries, .npy")
    arguments = parser.parse_args()
    if arguments.collection is None:
        show("cost", costs(), arguments.json)
    elif arguments.documents is None or arguments.queries is None:
        parser.error("--collection needs --documents and --queries")
    else:
        show("bridge", Pair(arguments.collection, arguments.documents, arguments.queries).rows(), arguments.json)


if __name__ == "__main__":
    main()
