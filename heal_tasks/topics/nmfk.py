"""NMFk: how many topics a matrix has, by the stability of repeated factorisations.

Written from the published descriptions and the behaviour of the reference (lanl/T-ELF), with its known
defects designed out: restarts are independent and random, one optimal assignment permutes both factors,
thresholds never change, and a silhouette is not the only judge.

k is accepted when all of these hold:

* the smallest angular silhouette of the aligned term factors and of the aligned document factors
  reaches ``silhouette_threshold``;
* no topic is the strongest of fewer than ``min_topic_documents`` documents;
* up to this k, no drop of the error per added topic fell below ``drop_ratio`` times the drop before it (the
  first is compared with the drop from 1, the error of no topic, to k = 1), nor below ``null_ratio``
  times the drop on a null matrix: the same matrix with each term's entries dealt out to random documents.

The largest accepted k wins; the first small drop ends the walk, because past it ratios are near 1 again.

Measured, drop ratio / null ratio, over several random corpora:

* planted topics: true splits >= .56 / >= 6.5, the first false one in nodes of 220 documents and more .06-.08 /
  .49-1.03. Silhouettes alone do not tell: at k = 2 those of homogeneous topics reach .84;
* the drop ratio of a false split grows as a node shrinks (.08-.10 at 120 documents, .12-.14 at 60, .15-.18 at
  40), and a real one starts low in large sparse nodes (NFCorpus, 871 documents: .26 / 1.53), so no
  ``drop_ratio`` is right for every node. The null matrix has the node's own size and sparsity: false splits
  .85-1.03 at 40 to 120 documents. It is the deciding rule, ``drop_ratio`` = .15 the guard beside it;
* text (ATT&CK, NFCorpus, arXiv, Python reference): roots 1 -> 2 .32-.43 / 1.5-2.4, later steps .7-1.0 / 1.1-2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import Progress, silent
from heal_tasks.topics.nmf import Factorisation, factorise, project, residuals

Floats = NDArray[np.float32]
Seed = int | np.random.SeedSequence

# Best of three starts per perturbation. With one, a restart caught in a poor local minimum (planted root at
# k = 6: error .855 instead of .839) is taken for an unstable k.
STARTS = 3


@dataclass(frozen=True)
class KRecord:
    """What was measured for one k.

    Args:
        k: number of topics.
        term_silhouette: smallest over topics of the mean silhouette of the term factors; 1 for k = 1.
        document_silhouette: the same for the document factors.
        relative_error: best over the perturbed factorisations.
        drop: fall of the relative error per added topic since the record before.
        drop_ratio: that, divided by the drop before it.
        null_ratio: that, divided by the drop on the null matrix; 1 for k = 1.
        smallest_topic: documents in the smallest topic.
        iterations: of all factorisations together.
        accepted: whether this k may be chosen.
    """

    k: int
    term_silhouette: float
    document_silhouette: float
    relative_error: float
    drop: float
    drop_ratio: float
    null_ratio: float
    smallest_topic: int
    iterations: int
    accepted: bool

    @property
    def silhouette(self) -> float:
        """The smaller of both silhouettes."""
        return min(self.term_silhouette, self.document_silhouette)


@dataclass(frozen=True)
class NMFkResult:
    """The chosen number of topics and what led to it.

    Args:
        k: number of topics; 1 where no larger one was accepted.
        records: one per k that was looked at, ascending, k = 1 first.
        factorisation: consensus term factors (rows of unit Euclidean length), and the document factors
            that fit X best with them.
        stop_reason: why a larger k was not chosen.
    """

    k: int
    records: tuple[KRecord, ...]
    factorisation: Factorisation
    stop_reason: str

    @property
    def chosen(self) -> KRecord:
        """The record of the chosen k."""
        return next(record for record in self.records if record.k == self.k)


def choose_k(
    X: csr_array,
    ks: Sequence[int],
    *,
    perturbations: int = 6,
    noise: float = 0.015,
    silhouette_threshold: float = 0.8,
    drop_ratio: float = 0.15,
    null_ratio: float = 1.1,
    min_topic_documents: int = 1,
    seed: Seed = 0,
    progress: Progress = silent,
) -> NMFkResult:
    """Choose the number of topics of X.

    Args:
        X: float32 csr, shape (n, v), non-negative.
        ks: candidates, ascending, each 2 <= k <= min(n, v); may be empty.
        perturbations: noisy copies of X per k, at least 2.
        noise: each stored entry is multiplied by a uniform draw from 1 - noise to 1 + noise.
        silhouette_threshold: smallest silhouette of a stable k.
        drop_ratio: smallest ratio of a drop of the error to the drop before it.
        null_ratio: smallest ratio of a drop of the error to that on the null matrix.
        min_topic_documents: fewest documents of a topic.
        seed: of every random draw; the draws for one k do not depend on which other ks are tried.
        progress: called with the number of ks done.

    Returns:
        The choice, its factors and every record.

    Raises:
        InputError: too few perturbations, or a k is out of range or out of order.
    """
    limit = min(X.shape)
    if perturbations < 2:
        raise InputError(f"perturbations={perturbations}: stability needs at least 2")
    if list(ks) != sorted(set(ks)) or any(not 2 <= k <= limit for k in ks):
        raise InputError(f"ks={list(ks)} for a matrix of shape {X.shape}; use ascending values from 2 to {limit}")
    base = _consensus(X, 1, perturbations, noise, derive_seed(seed, 1))
    result, stop_reason = base.factorisation, "no candidate k"
    records = [KRecord(1, 1.0, 1.0, base.error, 1 - base.error, 0.0, 1.0, X.shape[0], base.iterations, True)]
    if not ks:
        return NMFkResult(1, tuple(records), result, stop_reason)
    null = _null_matrix(X, np.random.default_rng(derive_seed(seed, 0)))
    null_error = _best_error(null, 1, derive_seed(seed, 0, 1))
    for done, k in enumerate(ks):
        progress(done, len(ks), f"k={k}")
        run = _consensus(X, k, perturbations, noise, derive_seed(seed, k))
        previous, added = records[-1], k - records[-1].k
        drop = (previous.relative_error - run.error) / added
        fallen = _best_error(null, k, derive_seed(seed, 0, k))
        null_drop, null_error = (null_error - fallen) / added, fallen
        to_previous, to_null = drop / max(previous.drop, 1e-9), drop / max(null_drop, 1e-9)
        stands_out = to_previous >= drop_ratio and to_null >= null_ratio
        silhouette = min(run.term_silhouette, run.document_silhouette)
        W = run.factorisation.document_factors
        smallest = int(np.bincount(W[W.any(axis=1)].argmax(axis=1), minlength=k).min())
        accepted = stands_out and silhouette >= silhouette_threshold and smallest >= min_topic_documents
        records.append(
            KRecord(
                k,
                run.term_silhouette,
                run.document_silhouette,
                run.error,
                drop,
                to_previous,
                to_null,
                smallest,
                run.iterations,
                accepted,
            )
        )
        if not stands_out:
            stop_reason = f"k={k}: error drop {to_previous:.2f} of the one before, {to_null:.2f} of the null matrix's"
            break
        if accepted:
            result, stop_reason = run.factorisation, "largest candidate k"
        elif silhouette < silhouette_threshold:
            stop_reason = f"k={k}: silhouette {silhouette:.2f}"
        else:
            stop_reason = f"k={k}: smallest topic has {smallest} documents"
    progress(len(ks), len(ks))
    return NMFkResult(result.term_factors.shape[0], tuple(records), result, stop_reason)


def derive_seed(seed: Seed, *key: int) -> np.random.SeedSequence:
    """An independent seed for a piece of work named by numbers, whatever was drawn elsewhere."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, *key))


def silhouettes(runs: Floats) -> NDArray[np.float64]:
    """Mean silhouette of each topic over aligned runs, on the angle between factors.

    Args:
        runs: float32, shape (runs, k, d), rows of unit length or zero, topic j of every run aligned.

    Returns:
        float64, shape (k,), each in [-1, 1]; ones for k = 1.
    """
    count, k, _ = runs.shape
    if k == 1:
        return np.ones(1)
    flat = runs.reshape(count * k, -1)
    angles = np.arccos(np.clip(flat @ flat.T, -1, 1)).astype(np.float64)
    np.fill_diagonal(angles, 0)
    to_topic = angles.reshape(count, k, count, k).sum(axis=2)  # (run, topic, other topic)
    own = np.arange(k)
    inside = to_topic[:, own, own] / (count - 1)
    to_topic[:, own, own] = np.inf
    nearest = to_topic.min(axis=2) / count
    widest = np.maximum(np.maximum(inside, nearest), 1e-12)
    return np.asarray(((nearest - inside) / widest).mean(axis=0))


@dataclass(frozen=True)
class _Run:
    factorisation: Factorisation
    term_silhouette: float
    document_silhouette: float
    error: float
    iterations: int


def _consensus(X: csr_array, k: int, perturbations: int, noise: float, seed: np.random.SeedSequence) -> _Run:
    runs: list[Factorisation] = []
    iterations = 0
    for p in range(perturbations):
        rng = np.random.default_rng(derive_seed(seed, p))
        factors = rng.uniform(1 - noise, 1 + noise, X.nnz).astype(np.float32)
        noisy = csr_array((X.data * factors, X.indices, X.indptr), shape=X.shape)
        starts = [
            factorise(noisy, k, init="nndsvd" if p == start == 0 else "random", seed=derive_seed(seed, p, start))
            for start in range(STARTS if k > 1 else 1)
        ]
        iterations += sum(start.iterations for start in starts)
        runs.append(min(starts, key=lambda start: start.relative_error))
    topics = np.stack([_unit(run.term_factors) for run in runs])  # (p, k, v)
    documents = np.stack([_unit(run.document_factors.T) for run in runs])  # (p, k, n)
    errors = [run.relative_error for run in runs]
    centroids, order = _align(topics, int(np.argmin(errors)))
    topics = np.take_along_axis(topics, order[:, :, None], axis=1)
    documents = np.take_along_axis(documents, order[:, :, None], axis=1)
    W = project(X, centroids)
    error = float(np.sqrt(np.mean(np.square(residuals(X, W, centroids), dtype=np.float64))))
    return _Run(
        Factorisation(W, centroids, error, iterations),
        float(silhouettes(topics).min()),
        float(silhouettes(documents).min()),
        min(errors),
        iterations,
    )


def _align(topics: Floats, first: int) -> tuple[Floats, NDArray[np.intp]]:
    """Optimal assignment of every run's topics to shared centroids, which start as run ``first``.

    Returns:
        Centroids, float32, shape (k, v), unit rows; and per run the topic for each centroid, shape (p, k).
    """
    centroids = topics[first]
    order = np.zeros(topics.shape[:2], np.intp)
    for _ in range(20):
        before = order
        order = np.stack([linear_sum_assignment(centroids @ run.T, maximize=True)[1] for run in topics])
        centroids = _unit(np.take_along_axis(topics, order[:, :, None], axis=1).mean(axis=0))
        if np.array_equal(before, order):
            break
    return centroids, order


def _null_matrix(X: csr_array, rng: np.random.Generator) -> csr_array:
    """Each column's entries dealt out to random rows: the same words without topics."""
    columns = X.tocsc()
    counts = np.diff(columns.indptr)
    rows = np.concatenate([rng.choice(X.shape[0], count, replace=False) for count in counts])
    return csr_array((columns.data, (rows, np.repeat(np.arange(X.shape[1]), counts))), shape=X.shape)


def _best_error(X: csr_array, k: int, seed: np.random.SeedSequence) -> float:
    starts = range(STARTS if k > 1 else 1)
    return min(factorise(X, k, seed=derive_seed(seed, start)).relative_error for start in starts)


def _unit(factors: Floats) -> Floats:
    norms = np.linalg.norm(factors, axis=-1, keepdims=True)
    return np.ascontiguousarray(factors / np.maximum(norms, 1e-12))
