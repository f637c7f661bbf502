"""Measures the CPU time and memory of NUDGE beside the published package and beside one matrix product.

Run from the project's root: ``python -m bench.nudge``, with ``--size 5k``, ``100k`` or ``1m`` for one of its cases.

**Input.** Documents of unit length in 384 dimensions. Questions lie off their document in a direction of its own, so
that there is something to gain. Half of the validation questions are about documents with training questions. Documents
with questions come first, as the package's recipe requires. Made in a process of its own and read from files.

**Methods**, each in fresh processes with one thread. *ours*: ``heal_tasks.nudge.nudge`` with top-1 accuracy, the metric
of the package. *nudge-ft*: the package as it comes. *recipe*: the package as its README says for large
data, documents without questions passed as ``nontrain_embeddings``. *product*: validation questions times documents in
float32, in blocks, nothing kept, by numpy. The bench first checks that ours and the package give equal vectors at the
same theta.

**Columns.** CPU seconds of the call, the median of ``runs`` (a call of more than half a minute is made once); the
ratio to ours; working MiB: the process's peak less its memory with modules loaded and data read; theta: the angle of
NUDGE-N in radians or the step of NUDGE-M; top-1 on the validation questions after the call.

``--gpu`` adds ours with similarities computed on a GPU, and seconds of the clock.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from nudge import NUDGEM, NUDGEN
from numpy.typing import NDArray

from bench.common import MIN_RUNS, measure, parent_parser, table, versions, write_json
from heal_tasks.core.errors import HealError
from heal_tasks.evaluation.ranking import top_k
from heal_tasks.nudge.apply import move_rows
from heal_tasks.nudge.nudge import nudge
from heal_tasks.nudge.plan import PLAIN
from heal_tasks.nudge.questions import QuestionSet

Vectors = NDArray[np.float32]
Figures = tuple[float, float, float, float, float]
"""CPU seconds, seconds of the clock, working MiB, theta and top-1."""
DIMS = 384
SIZES = {"5k": (5_000, 2_000, 1_000), "100k": (100_000, 10_000, 2_000), "1m": (1_000_000, 10_000, 2_000)}
LONG_S = 30.0
_ROWS_AT_ONCE = 100_000


def make(folder: Path, n: int, train: int, validation: int) -> None:
    """Write documents and questions."""
    rng = np.random.default_rng(0)

    def unit(rows: int) -> Vectors:
        vectors = rng.standard_normal((rows, DIMS), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    documents = np.lib.format.open_memmap(folder / "documents.npy", mode="w+", dtype=np.float32, shape=(n, DIMS))
    for start in range(0, n, _ROWS_AT_ONCE):
        documents[start : start + _ROWS_AT_ONCE] = unit(min(_ROWS_AT_ONCE, n - start))
    asked = min(n // 2, train)
    sides = unit(asked + validation)
    known, new = rng.integers(0, asked, validation // 2), rng.integers(asked, len(sides), validation // 2)
    for name, rows in (("train", rng.integers(0, asked, train)), ("validation", np.concatenate([known, new]))):
        vectors = documents[rows] + sides[rows] + 4.0 * unit(len(rows))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.savez(folder / f"{name}.npz", vectors=vectors, rows=rows)


def read(folder: Path) -> tuple[Vectors, QuestionSet, QuestionSet]:
    """Documents, train and validation questions."""
    sets = []
    for name in ("train", "validation"):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
            sets.append(QuestionSet(stored["vectors"], list(stored["rows"][:, None])))
    return np.load(folder / "documents.npy", allow_pickle=False), sets[0], sets[1]


def timed(call: Callable[[], Any]) -> tuple[Any, tuple[float, float, float]]:
    """A call's result, and its CPU seconds, seconds of the clock and working MiB."""
    torch.set_num_threads(1)
    held, cpu_s, clock_s = _memory_mib("VmRSS"), time.process_time(), time.perf_counter()
    result = call()
    return result, (time.process_time() - cpu_s, time.perf_counter() - clock_s, _memory_mib("VmHWM") - held)


def _memory_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def top_1(documents: Vectors, validation: QuestionSet) -> float:
    """Share of questions whose best document answers them."""
    best, _ = top_k(validation.vectors, documents, 1)
    return float((best[:, 0] == np.concatenate(list(validation.positives))).mean())


def ours(folder: Path, variant: Any, device: str) -> Figures:
    """Cost and result of ours."""
    documents, train, validation = read(folder)
    torch.zeros(1, device=device)  # starts CUDA, as modules are loaded before too
    result, cost = timed(
        lambda: nudge(documents, train, validation, variant=variant, metric="accuracy@1", device=device)
    )
    documents[result.rows] = result.vectors
    return *cost, result.theta, top_1(documents, validation)


def package(folder: Path, variant: str, recipe: bool) -> Figures:
    """Cost and result of the package."""
    documents, train, validation = read(folder)
    sets = [{"q_embs": s.vectors, "q_ans_indx": [rows.tolist() for rows in s.positives]} for s in (train, validation)]
    named = 1 + int(max(rows.max() for s in (train, validation) for rows in s.positives)) if recipe else len(documents)
    others = documents[named:] if recipe else None
    model = NUDGEN() if variant == "N" else NUDGEM()
    with contextlib.redirect_stdout(io.StringIO()):
        moved, cost = timed(lambda: model.finetune_embeddings(documents[:named], *sets, nontrain_embeddings=others))
    distance = float(np.linalg.norm(moved - documents[:named], axis=1).max())
    documents[:named] = moved
    theta = 2 * np.arcsin(distance / 2) if variant == "N" else distance
    return *cost, float(theta), top_1(documents, validation)


def product(folder: Path) -> Figures:
    """Cost of the product of validation questions and documents."""
    documents, _, validation = read(folder)

    def call() -> None:
        for start in range(0, len(documents), 4096):
            validation.vectors @ documents[start : start + 4096].T

    _, cost = timed(call)
    return *cost, 0.0, top_1(documents, validation)


def check_equal(folder: Path) -> None:
    """Compare the vectors of ours and of the package at the same theta."""
    documents, train, validation = read(folder)
    sets = [{"q_embs": s.vectors, "q_ans_indx": [rows.tolist() for rows in s.positives]} for s in (train, validation)]
    for variant, kind, theta in (("N", NUDGEN, float(np.arccos(1 - 0.3 / 2))), ("M", NUDGEM, 0.3)):
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = kind().finetune_embeddings(documents, *sets, gamma=0.3)
        result = move_rows(documents, train, PLAIN.record(variant, theta, None))
        # The package does not move rows whose questions point away from them.
        same = np.abs(theirs[result.rows] - result.vectors).max(axis=1) <= 1e-6
        stayed = np.abs(theirs[result.rows] - documents[result.rows]).max(axis=1) <= 1e-6
        if not (same | stayed).all() or stayed.mean() > 0.05:
            raise HealError(
                f"NUDGE-{variant}: {(~same & ~stayed).sum()} rows differ from the package's at theta {theta}"
            )


def rows_of(folder: Path, size: str, gpu: bool) -> list[dict[str, Any]]:
    """One row for each method on one input."""
    rows: list[dict[str, Any]] = []
    for variant in ("N", "M"):
        calls: list[tuple[str, Callable[..., Figures], tuple[Any, ...]]] = [
            ("ours", ours, (folder, variant, "cpu")),
            ("product", product, (folder,)),
        ]
        if gpu:
            calls.append(("ours, GPU", ours, (folder, variant, "cuda")))
        if size != "1m":
            calls.append(("recipe", package, (folder, variant, True)))
            calls.append(("nudge-ft", package, (folder, variant, False)))
        own = 0.0
        for name, function, arguments in calls:
            done = [measure(function, *arguments).result]
            while done[0][0] < LONG_S and len(done) < MIN_RUNS:
                done.append(measure(function, *arguments).result)
            cpu_s, clock_s, mib, theta, share = (median(column) for column in zip(*done, strict=True))
            own = own or cpu_s
            rows.append(
                {"documents": size, "variant": variant, "method": name, "runs": len(done), "CPU s": cpu_s}
                | {"times ours": cpu_s / own, **({"s": clock_s} if gpu else {}), "working MiB": mib}
                | {"theta": theta, "top-1": share}
            )
    return rows


def main() -> None:
    """Print one table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--size", choices=SIZES, action="append", help="only this case; may be repeated")
    parser.add_argument("--gpu", action="store_true", help="also ours with similarities on a GPU")
    arguments = parser.parse_args()
    print(versions())
    tables = {}
    for size in arguments.size or SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measure(make, folder, *SIZES[size])
            if size == "5k":
                check_equal(folder)
            tables[size] = rows_of(folder, size, arguments.gpu)
        print(f"\n{size}\n\n{table(tables[size])}", flush=True)
    write_json(arguments.json, tables)


if __name__ == "__main__":
    main()
