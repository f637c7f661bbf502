"""What the bench scripts share: measured child processes, tables, JSON, and collections to measure on.

A measured call runs in a fresh interpreter, so that neither a warm cache nor the memory of the method before it
flatters or burdens it. CPU seconds are the number to trust on a shared machine; wall seconds stand beside them.
"""

import argparse
import csv
import gc
import gzip
import json
import multiprocessing
import os
import platform
import resource
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Generic, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import HealError, InputError
from heal_tasks.core.ids import bucket, stable_id

T = TypeVar("T")
Rows = Sequence[Mapping[str, Any]]
MIN_RUNS = 5


@dataclass(frozen=True)
class Measured(Generic[T]):
    """A call's result and cost: its own CPU (user + system) and wall seconds, and its process's peak MiB.

    CPU includes awaited child processes. The peak is that of one process, with interpreter, imports and arguments.
    """

    result: T
    cpu_s: float
    wall_s: float
    peak_mib: float


@dataclass(frozen=True)
class Collection:
    """Documents with ids, texts (title and text), label paths, vectors, float32, shape (n, d), or None, and titles."""

    name: str
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    vectors: NDArray[np.float32] | None = None
    titles: tuple[str, ...] = ()


def measure(function: Callable[..., T], *args: Any, threads: int = 1) -> Measured[T]:
    """Call a function in a fresh process with that many BLAS threads; importing its module is not counted.

    The function stands at the top level of a module; it, its arguments and its result are pickled on the way.

    Raises:
        HealError: the function raised, or its process died.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_run, args=(sender, function, args))
    # BLAS reads its limit as it is loaded, which is before the child's first line that could set it.
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with patch.dict(os.environ, limits):
        child.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = "its process died; perhaps of a lack of memory"
    child.join()
    if isinstance(answer, str):
        raise HealError(f"the measured call failed with exit code {child.exitcode}: {answer}")
    return Measured(*answer)


def repeat(function: Callable[..., T], *args: Any, runs: int = MIN_RUNS, threads: int = 1) -> Measured[T]:
    """Measure a call in several processes, one after the other: the last result, the medians of the cost."""
    if runs < MIN_RUNS:
        raise InputError(f"runs={runs} is too few for a median; use at least {MIN_RUNS}")
    done = [measure(function, *args, threads=threads) for _ in range(runs)]
    costs = ("cpu_s", "wall_s", "peak_mib")
    return replace(done[-1], **{name: median(getattr(run, name) for run in done) for name in costs})


def _run(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # A full collection of the objects that the imports made takes .1 s: it must not fall into some calls by chance.
    gc.collect()
    gc.freeze()
    cpu, wall = _cpu_s(), time.perf_counter()
    try:
        answer: Any = (function(*args), _cpu_s() - cpu, time.perf_counter() - wall, _peak_mib())
    except BaseException:
        answer = traceback.format_exc()
    sender.send(answer)


def _cpu_s() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak_mib() -> float:
    # On Linux ru_maxrss outlives exec: the child of a large parent would show the parent's peak as its own.
    status = Path("/proc/self/status")
    own = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line] if status.exists() else []
    kib = float(own[0]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def clock_of(device: str) -> tuple[Callable[[], float], str]:
    """What times work on a device, and its unit: CPU seconds, but seconds of the clock on a GPU."""
    return (time.process_time, "CPU s") if device == "cpu" else (time.perf_counter, "s")


def versions() -> str:
    """Date, interpreter, libraries and number of CPUs, as one line."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-learn", "torch"))
    return f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {libraries}, {os.cpu_count()} CPUs"


def table(rows: Rows) -> str:
    """Rows as an aligned Markdown table; columns in the order of appearance, floats with three decimals."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = [[row.get(name, "") for name in columns] for row in rows]
    cells = [columns, *([f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in line] for line in values)]
    widths = [max(3, *(len(line[place]) for line in cells)) for place in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells)


def write_json(path: Path | None, tables: Mapping[str, Rows]) -> None:
    """Write tables by name, unrounded, with the line of versions; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps({"versions": versions(), **tables}, indent=1), encoding="utf-8")


def show(name: str, rows: Iterable[dict[str, Any]], path: Path | None) -> None:
    """Print rows, each as soon as it is measured, then all as one table; write them to a file, if there is a path."""
    shown = list[dict[str, Any]]()
    for row in rows:
        print(table([row]), flush=True)
        shown.append(row)
        write_json(path, {name: shown})
    print(table(shown))
    print(versions())


def parent_parser() -> argparse.ArgumentParser:
    """The options of every bench script, for ``argparse.ArgumentParser(parents=[...])``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows, unrounded, to this file")
    return parser


def load_collection(folder: Path) -> Collection:
    """Read ``corpus.jsonl.gz`` ({id, title, text, labels?}) and, where present, ``corpus_minilm_f16.npy``.

    ``labels`` is a path, the coarsest label first, or a list of paths, of which the first counts.

    Raises:
        InputError: there is no collection in the folder, or its files do not fit each other.
    """
    file, stored = folder / "corpus.jsonl.gz", folder / "corpus_minilm_f16.npy"
    if not file.is_file():
        raise InputError(f"{folder} holds no collection (corpus.jsonl.gz is missing); give the folder of one")
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        documents = [json.loads(line) for line in stream]
    vectors = None
    if stored.is_file():
        vectors = np.load(stored, allow_pickle=False).astype(np.float32)
        if len(vectors) != len(documents):
            raise InputError(f"{stored} has {len(vectors)} rows for {len(documents)} documents; encode them again")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [document.get("labels") or [] for document in documents]
    ids = tuple(str(document["id"]) for document in documents)
    texts = tuple(f"{document.get('title', '')} {document['text']}".strip() for document in documents)
    labels = tuple(tuple(path[0] if path and isinstance(path[0], list) else path) for path in paths)
    titles = tuple(str(document.get("title", "")) for document in documents)
    return Collection(folder.resolve().name, ids, texts, labels, vectors, titles)


class Judgment(NamedTuple):
    """A query and a document that answers it; grade is above 0."""

    query: str
    document: str
    grade: float
    split: str


def load_queries(folder: Path) -> tuple[dict[str, str], list[Judgment]]:
    """Read ``queries.jsonl.gz`` ({id, text}) and ``qrels.tsv`` (query_id, doc_id, score, split; a header line).

    Returns:
        Texts by query id, in the file's order, and the judgments with a score above 0.

    Raises:
        InputError: one of the files is missing.
    """
    queries, qrels = folder / "queries.jsonl.gz", folder / "qrels.tsv"
    for file in (queries, qrels):
        if not file.is_file():
            raise InputError(f"{folder} has no {file.name}; give the folder of a collection with judged queries")
    with gzip.open(queries, "rt", encoding="utf-8") as lines:
        texts = {str(item["id"]): str(item.get("text", "")) for item in map(json.loads, lines)}
    with qrels.open(encoding="utf-8", newline="") as lines:
        judged = [
            Judgment(line["query_id"], line["doc_id"], float(line["score"]), line["split"])
            for line in csv.DictReader(lines, delimiter="\t")
        ]
    return texts, [item for item in judged if item.grade > 0]


def load_query_vectors(folder: Path) -> NDArray[np.float32]:
    """Read ``queries_minilm_f16.npy``: unit vectors in the order of the queries, float32, shape (q, d).

    Raises:
        InputError: it is missing.
    """
    file = folder / "queries_minilm_f16.npy"
    if not file.is_file():
        raise InputError(f"{folder} has no {file.name}, the queries' vectors; encode both first")
    vectors = np.load(file, allow_pickle=False).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def dev_queries(judgments: Sequence[Judgment], one_in: int) -> set[str]:
    """Ids of the queries that choose: those of the split dev, or where there is none one in so many of train."""
    return {item.query for item in judgments if item.split == "dev"} or {
        item.query
        for item in judgments
        if item.split != "test" and bucket("bench-dev", stable_id(item.query), one_in) == 0
    }
