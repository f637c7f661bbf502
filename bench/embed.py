"""Speed of our ``encode`` against sentence-transformers' default ``encode``.

Run from the project's root: ``python -m bench.embed --collection FOLDER``. all-MiniLM-L6-v2 on a CPU; documents, the
same with a quarter replaced by copies, and queries. The ways take turns within each run, so that all meet the same
load; the figure is texts per CPU second. Ours uses one thread, as a shard of the step ``embed`` does on two cores. The
lowest cosine is to sentence-transformers' float32 vectors.

With ``--device cuda`` the figure is texts per second of wall time, and ours runs as one shard.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.common import MIN_RUNS, clock_of, load_collection, load_queries, parent_parser, table, versions, write_json
from heal_tasks.core.models import resolve_model
from heal_tasks.core.setting_groups import PACKAGED_MODEL
from heal_tasks.training.encoder import encode, in_bf16, limited_threads, load_encoder

COPIED = 0.25

Encode = Callable[[list[str]], npt.NDArray[np.float32]]


def ways(device: str) -> dict[str, Encode]:
    """The compared ways by name; the first is the reference."""
    folder, threads = Path(resolve_model(PACKAGED_MODEL)), torch.get_num_threads()
    plain, ours = load_encoder(folder, device=device), load_encoder(folder, device=device, dtype="auto")

    def default(texts: list[str], threads: int) -> npt.NDArray[np.float32]:
        with limited_threads(threads):
            return np.asarray(plain.encode(texts, show_progress_bar=False))

    number = "bfloat16" if in_bf16("auto", device) else "float32"
    if device != "cpu":
        return {
            "sentence-transformers (its default)": lambda texts: default(texts, threads),
            f"sentence-transformers, {number}": lambda texts: np.asarray(ours.encode(texts, show_progress_bar=False)),
            f"ours, {number}": lambda texts: encode(ours, texts),
        }
    return {
        f"sentence-transformers, {threads} threads (its default)": lambda texts: default(texts, threads),
        "sentence-transformers, 1 thread": lambda texts: default(texts, 1),
        f"ours, {number}, 1 thread": lambda texts: encode(ours, texts, threads=1),
    }


def compare(
    name: str, texts: list[str], compared: dict[str, Encode], runs: int, device: str = "cpu"
) -> list[dict[str, Any]]:
    """One row of results per way."""
    clock, unit = clock_of(device)
    costs: dict[str, list[float]] = {way: [] for way in compared}
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for encode_all in compared.values():
        encode_all(texts[:8])
    for _ in range(runs):
        for way, encode_all in compared.items():
            start = clock()
            vectors[way] = encode_all(texts)
            costs[way].append(clock() - start)
    rates = {way: len(texts) / median(seconds) for way, seconds in costs.items()}
    first = next(iter(compared))
    return [
        {
            "texts": name, "number": len(texts), "distinct": len(set(texts)), "way": way, f"texts/{unit}": rate,
            "times the default": rate / rates[first],
            "lowest cosine": f"{(vectors[way] * vectors[first]).sum(axis=1).min():.6f}",
        }
        for way, rate in rates.items()
    ]  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, required=True, help="folder of a collection with queries")
    parser.add_argument("--texts", type=int, default=256, help="documents (default 256); queries are twice as many")
    parser.add_argument("--runs", type=int, default=MIN_RUNS, help=f"for the medians (default {MIN_RUNS})")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    collection = load_collection(arguments.collection)
    documents = [collection.texts[row] for row in rng.permutation(len(collection.texts))[: arguments.texts]]
    copies = documents[: round(len(documents) * (1 - COPIED))]
    copies += [copies[row] for row in rng.integers(0, len(copies), len(documents) - len(copies))]
    queries = list(load_queries(arguments.collection)[0].values())[: 2 * arguments.texts]
    compared = ways(arguments.device)
    rows = []
    for name, texts in (("documents", documents), ("documents, a quarter copies", copies), ("queries", queries)):
        rows += compare(f"{collection.name} {name}", texts, compared, arguments.runs, arguments.device)
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"embed": rows})


if __name__ == "__main__":
    main()
