"""Measures the cost of the topic tree by corpus size: planted documents, 20,000 words, two levels, two threads.

Run from the project's root: ``python -m bench.topics_scale``. Each size runs in a process of its own, which makes the
corpus (about 150 words per document, 5 x 4 topics), then builds the tree from its counts. Peak memory includes making
the corpus; times are those of the tree. NMI compares the leaves with the 20 planted topics.
"""

import argparse
import time
from typing import Any

from scipy.sparse import csr_array
from sklearn.metrics import normalized_mutual_info_score

from bench.common import measure, parent_parser, table, versions, write_json
from bench.planted import plant
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.hnmfk import grow_tree
from heal_tasks.topics.tfidf import select_terms

THREADS = 2


def grow(documents: int, words: int) -> dict[str, Any]:
    """Plant a corpus and find its topics."""
    corpus = plant(0, documents, int(1.1 * words), 5, 4)
    config = HNMFkConfig(max_depth=2, max_terms=words)
    kept = select_terms(corpus.counts, min_df=config.min_df, max_df=1.0, max_terms=words)
    counts, fine = csr_array(corpus.counts[:, kept]), corpus.fine
    del corpus
    cpu, wall = time.process_time(), time.perf_counter()
    tree = grow_tree(counts, tuple(map(str, range(kept.size))), config, workers=THREADS)
    return {
        "documents": documents, "words": kept.size, "entries": int(counts.nnz), "leaves": tree.leaf_count,
        "NMI": float(normalized_mutual_info_score(fine, tree.leaves)),
        "tree CPU s": time.process_time() - cpu, "tree wall s": time.perf_counter() - wall,
    }  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 200_000], help="corpus sizes")
    parser.add_argument("--words", type=int, default=20_000, help="vocabulary (default 20000)")
    arguments = parser.parse_args()
    rows = []
    for documents in arguments.documents:
        measured = measure(grow, documents, arguments.words, threads=THREADS)
        rows.append({**measured.result, "peak MiB": measured.peak_mib})
        print(rows[-1], flush=True)
    for row in rows:
        row["CPU, times the first"] = row["tree CPU s"] / rows[0]["tree CPU s"]
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"scale": rows})


if __name__ == "__main__":
    main()
