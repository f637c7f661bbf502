"""Measures the choice of k at one node: ours beside scikit-learn's NMF and beside the reference's schedule.

Run from the project's root: ``python -m bench.hnmfk`` or ``python -m bench.hnmfk --collection FOLDER``.

**Input.** Planted corpora (``bench/planted.py``) of three shapes, balanced and with topic shares as 1 / rank,
from several seeds; or the root of a real collection. All methods get the same TF-IDF matrix, ks and number of
perturbed copies (relative uniform noise of 1.5 % on stored entries), one thread, a process of their own.

**Methods.** *Ours*: ``choose_k``. *scikit-learn*: ``NMF`` (coordinate descent, tolerance 1e-4, at most 200 rounds), one
random start per copy and k, columns matched optimally, both factors permuted, silhouettes as ours, the largest k with
both at least .8. *Reference*: a plain transcription of the published NMFk of lanl/T-ELF: NNSVD start, 100
multiplicative updates per copy and k, greedy matching, H not permuted, 1,000 updates of H for every k, the largest k up
to which W's (and H's) silhouettes reach .8.

**Checked before anything is printed**: at every k that both have measured, our best error is at most .2 % above
scikit-learn's best. On planted corpora the table also tells how often k is the planted one, and the NMI of the
documents' topics with the planted ones.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import normalized_mutual_info_score

from bench.common import Measured, load_collection, measure, parent_parser, table, versions, write_json
from bench.planted import plant
from heal_tasks.core.errors import HealError
from heal_tasks.topics.config import HNMFkConfig, NMFkConfig
from heal_tasks.topics.nmf import start_nndsvd
from heal_tasks.topics.nmfk import choose_k
from heal_tasks.topics.operand import Operand
from heal_tasks.topics.restarts import uniform_noise
from heal_tasks.topics.stability import align, reorder, silhouettes, unit_rows
from heal_tasks.topics.tfidf import NodeMatrix, count_corpus, select_terms

NOISE, THRESHOLD = 0.015, 0.8
SHAPES: dict[str, dict[str, int]] = {
    "3 x 2 topics": {"documents": 1500, "supers": 3, "subs": 2},
    "4 topics": {"documents": 800, "supers": 4, "subs": 1},
    "5 x 2 topics": {"documents": 2500, "supers": 5, "subs": 2},
}
Found = dict[str, Any]


class Factorisation(NamedTuple):
    """X is about ``documents @ terms``; shapes (n, k) and (k, v)."""

    documents: NDArray[np.float32]
    terms: NDArray[np.float32]
    relative_error: float


def planted_matrix(seed: int, shape: str, imbalance: float) -> tuple[csr_array, NDArray[np.int64]]:
    """TF-IDF of a planted corpus, float32 csr, shape (n, v), and its fine topics, int64, shape (n,)."""
    corpus = plant(seed, imbalance=imbalance, **SHAPES[shape])
    frequent = select_terms(corpus.counts, min_df=3, max_df=1.0, max_terms=20_000)
    return NodeMatrix.of(csr_array(corpus.counts[:, frequent]), HNMFkConfig()).X, corpus.fine


def ours(X: csr_array, ks: Sequence[int], copies: int, seed: int) -> Found:
    """``choose_k`` as the tree uses it."""
    result = choose_k(X, ks, NMFkConfig(perturbations=copies, noise=NOISE), seed=seed)
    errors = {record.k: record.relative_error for record in result.records}
    return _found(result.k, errors, result.document_factors)


def scikit_learn(X: csr_array, ks: Sequence[int], copies: int, seed: int) -> Found:
    """scikit-learn's NMF for the same copies and ks; k by stability alone."""
    from sklearn.decomposition import NMF

    chosen, errors = Factorisation(np.zeros((X.shape[0], 1)), np.zeros((1, X.shape[1])), 1.0), {}
    for k in ks:
        fits = []
        for copy in range(copies):
            model = NMF(k, init="random", tol=1e-4, max_iter=200, random_state=seed + copy)
            W = model.fit_transform(_noisy(X, seed + copy))
            fits.append(Factorisation(W, model.components_, _error(X, W, model.components_)))
        first = int(np.argmin([fit.relative_error for fit in fits]))
        best = fits[first]
        errors[k] = best.relative_error
        terms = np.stack([unit_rows(fit.terms) for fit in fits])
        documents = np.stack([unit_rows(fit.documents.T) for fit in fits])
        _, order = align(terms, first)
        stable = [silhouettes(reorder(side, order)).min() for side in (terms, documents)]
        if min(stable) >= THRESHOLD:
            chosen = best
    return _found(chosen.terms.shape[0], errors, chosen.documents)


def reference(X: csr_array, ks: Sequence[int], copies: int, seed: int) -> Found:
    """The reference's schedule, on terms x documents as there: X.T is about (H.T) (W.T) in our names."""
    fits: dict[int, Factorisation] = {}
    passed: dict[str, list[int]] = {"W": [], "H": []}
    for k in ks:
        runs = [_updates(_noisy(X, seed + copy), k, seed + copy) for copy in range(copies)]
        terms = np.stack([unit_rows(H) for _, H in runs])
        centroids = terms[0]
        for _ in range(20):
            similarities = np.einsum("kv,rlv->rkl", centroids, terms)
            order = np.stack([_greedy(block) for block in similarities])
            moved = unit_rows(reorder(terms, order).mean(axis=0))
            if np.array_equal(moved, centroids):
                break
            centroids = moved
        stable_terms = silhouettes(reorder(terms, order)).min()
        stable_documents = silhouettes(np.stack([unit_rows(W.T) for W, _ in runs])).min()
        for side, stable in (("W", stable_terms), ("H", stable_documents)):
            if stable >= THRESHOLD:
                passed[side].append(k)
        fits[k] = _regressed(X, centroids, seed)
    k = min(max(passed["W"], default=ks[0]), max(passed["H"], default=ks[0]))
    return _found(k, {k: fit.relative_error for k, fit in fits.items()}, fits[k].documents)


def _updates(X: csr_array, k: int, seed: int, rounds: int = 100) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    start, Xt = start_nndsvd(Operand.of(X), k, seed), X.T.tocsr()
    W, H = start.W[0].numpy().T.copy(), start.H[0].numpy().copy()
    for done in range(rounds):
        W *= (X @ H.T) / (W @ (H @ H.T) + 1e-12)
        H *= (Xt @ W).T / ((W.T @ W) @ H + 1e-12)
        if done % 10 == 0:
            W, H = np.maximum(W, 1e-12), np.maximum(H, 1e-12)
    return W, H


def _regressed(X: csr_array, H: NDArray[np.float32], seed: int, rounds: int = 1000) -> Factorisation:
    W = np.random.default_rng(seed).random((X.shape[0], H.shape[0]), np.float32)
    target, gram = X @ H.T, H @ H.T
    for _ in range(rounds):
        W *= target / (W @ gram + 1e-12)
    return Factorisation(W, H, _error(X, W, H))


def _greedy(similarities: NDArray[np.float32]) -> NDArray[np.intp]:
    left, order = similarities.copy(), np.zeros(len(similarities), np.intp)
    for _ in range(len(left)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        order[row] = column
        left[row], left[:, column] = -np.inf, -np.inf
    return order


def _noisy(X: csr_array, seed: int) -> csr_array:
    return csr_array((uniform_noise(X.data, NOISE, np.random.default_rng(seed)), X.indices, X.indptr), shape=X.shape)


def _error(X: csr_array, W: NDArray[np.float32], H: NDArray[np.float32]) -> float:
    norm = float((X.data.astype(np.float64) ** 2).sum())
    cross, model = float(np.sum((X @ H.T) * W)), float(np.sum((W.T @ W) * (H @ H.T)))
    return float(np.sqrt(max(norm - 2 * cross + model, 0) / norm))


def _found(k: int, errors: dict[int, float], documents: NDArray[np.float32]) -> Found:
    return {"k": k, "errors": errors, "labels": documents.argmax(axis=1)}


METHODS = {"ours": ours, "scikit-learn": scikit_learn, "reference": reference}


def check_errors(found: dict[str, Found], where: str) -> None:
    """Refuse to compare the costs of fits that are not equally good.

    Raises:
        HealError: our best error is more than .2 % above scikit-learn's.
    """
    theirs = found["scikit-learn"]["errors"]
    for k, error in found["ours"]["errors"].items():
        if k in theirs and error > 1.002 * theirs[k]:
            raise HealError(f"{where}, k={k}: our error {error:.5f}, scikit-learn's {theirs[k]:.5f}")


def bench(label: str, corpora: Sequence[Any], ks: Sequence[int], copies: int, peer_runs: int) -> list[dict[str, Any]]:
    """Rows of one table: every method over corpora of (matrix, truth or None, seed); peers on the first few."""
    done: dict[str, list[tuple[Measured[Found], NDArray[np.int64] | None]]] = {name: [] for name in METHODS}
    for number, (X, truth, seed) in enumerate(corpora):
        found: dict[str, Found] = {}
        for name in METHODS if number < peer_runs else ("ours",):
            measured = measure(METHODS[name], X, list(ks), copies, seed)
            progress = f"k {measured.result['k']}, {measured.cpu_s:.2f} CPU s"
            print(f"{label}, seed {seed}, {name}: {progress}", file=sys.stderr)
            done[name].append((measured, truth))
            found[name] = measured.result
        if number < peer_runs:
            check_errors(found, f"{label}, seed {seed}")
    ours_cpu = median(measured.cpu_s for measured, _ in done["ours"])
    return [_row(label, name, runs, ours_cpu) for name, runs in done.items() if runs]


def _row(label: str, name: str, runs: Sequence[Any], ours_cpu: float) -> dict[str, Any]:
    cpu = median(measured.cpu_s for measured, _ in runs)
    k_found = [measured.result["k"] for measured, _ in runs]
    graded = [(measured.result["labels"], truth) for measured, truth in runs if truth is not None]
    right = [found == len(np.unique(truth)) for found, (_, truth) in zip(k_found, graded, strict=False)]
    return {
        "input": label, "method": name, "runs": len(runs), "k": " ".join(map(str, k_found)),
        "right k": f"{sum(right)} of {len(right)}" if right else "-",
        "NMI": float(np.mean([normalized_mutual_info_score(truth, labels) for labels, truth in graded]))
        if graded else float("nan"),
        "CPU s": cpu, "times ours": cpu / ours_cpu, "peak MiB": median(measured.peak_mib for measured, _ in runs),
    }  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], parents=[parent_parser()])
    parser.add_argument("--collection", type=Path, help="folder with corpus.jsonl.gz; without it, planted corpora")
    parser.add_argument("--seeds", type=int, default=10, help="planted corpora per shape (default 10)")
    parser.add_argument("--peer-runs", type=int, default=5, help="how many of them the peers run on too (default 5)")
    parser.add_argument("--copies", type=int, default=10, help="perturbed copies per k (default 10)")
    parser.add_argument("--max-k", type=int, default=0, help="largest k (default: planted topics + 2, real 8)")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.collection:
        collection = load_collection(arguments.collection)
        config = HNMFkConfig()
        X = NodeMatrix.of(count_corpus(collection.texts, config)[0], config).X
        ks = range(2, (arguments.max_k or 8) + 1)
        corpora = [(X, None, seed) for seed in range(arguments.peer_runs)]
        rows += bench(collection.name, corpora, ks, arguments.copies, arguments.peer_runs)
    for shape, sizes in SHAPES.items() if not arguments.collection else ():
        for imbalance in (0.0, 1.0):
            label = f"{shape}, {'1 / rank' if imbalance else 'balanced'}"
            ks = range(2, (arguments.max_k or sizes["supers"] * sizes["subs"] + 2) + 1)
            corpora = [(*planted_matrix(seed, shape, imbalance), seed) for seed in range(arguments.seeds)]
            rows += bench(label, corpora, ks, arguments.copies, arguments.peer_runs)
    print(table(rows))
    print(versions())
    write_json(arguments.json, {"nmfk": rows})


if __name__ == "__main__":
    main()
