"""Measures what fitting a lexicon costs, on planted texts with Zipf's law.

Run from the project's root: ``python -m bench.lexicon_cost --chunks 10000 100000 1000000``. Each size is fitted in a
process of its own. CPU seconds are of the fit alone; *inputs* is the memory of stems and vectors that it is given,
*peak* that of the whole process.
"""

import argparse
import time

import numpy as np
from scipy.sparse import csr_array

from bench.common import measure, parent_parser, table, versions, write_json
from heal_tasks.lexicon.lexicon import fit_lexicon

STEMS_PER_CHUNK, DIMS, RIDGE = 60, 384, 0.3


def planted(chunks: int, seed: int = 0) -> csr_array:
    """Stems of texts, drawn by Zipf's law from as many as a corpus of that size has (Heaps' law); shape (n, v)."""
    rng = np.random.default_rng(seed)
    stems = int(30 * (chunks * STEMS_PER_CHUNK) ** 0.5)
    shares = np.cumsum(1 / np.arange(10, stems + 10))
    shares /= shares[-1]
    indices = np.empty((chunks, STEMS_PER_CHUNK), dtype=np.int32)
    for first in range(0, chunks, 50_000):
        part = slice(first, min(first + 50_000, chunks))
        indices[part] = np.sort(np.searchsorted(shares, rng.random((part.stop - part.start, STEMS_PER_CHUNK))), axis=1)
    pointers = np.arange(0, chunks * STEMS_PER_CHUNK + 1, STEMS_PER_CHUNK)
    counts = csr_array((np.ones(indices.size, dtype=np.float32), indices.ravel(), pointers), shape=(chunks, stems))
    counts.sum_duplicates()
    return counts


def fit(chunks: int) -> dict[str, float]:
    """Fit a lexicon to planted texts and random vectors."""
    counts = planted(chunks)
    rng = np.random.default_rng(1)
    targets = np.empty((chunks, DIMS), dtype=np.float32)
    for first in range(0, chunks, 50_000):
        part = rng.standard_normal((min(50_000, chunks - first), DIMS), dtype=np.float32)
        targets[first : first + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    started = time.process_time()
    lexicon = fit_lexicon(counts, targets, ridge=RIDGE)
    spent = time.process_time() - started
    inputs = counts.data.nbytes + counts.indices.nbytes + targets.nbytes
    return {"stems": int(np.count_nonzero(lexicon.chunks)), "CPU s": spent, "inputs MiB": inputs / 2**20}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--chunks", type=int, nargs="+", default=[10_000, 100_000], help="sizes")
    rows = []
    for chunks in (given := parser.parse_args()).chunks:
        done = measure(fit, chunks)
        rows.append({"chunks": chunks, **done.result, "peak MiB": done.peak_mib})
        print(table(rows), flush=True)
    print(versions())
    write_json(given.json, {"lexicon_cost": rows})


if __name__ == "__main__":
    main()
