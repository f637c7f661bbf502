"""NMFk: choose the number of topics of a matrix by the stability of repeated factorisations.

Written from the published descriptions and the behaviour of the reference (lanl/T-ELF) without its known defects:
all restarts but the one from the SVD are independent and random, one optimal assignment permutes both factors,
thresholds are fixed, and the silhouette is not the only criterion.

k is accepted when all of these hold:

* up to this k, no drop of the error per added topic was below ``drop_ratio`` times the drop before it (the first is
  compared with the drop from 1, the error of no topic, to k = 1), nor below ``null_ratio`` times the mean of the last
  three drops on a null matrix: the same matrix with the entries of each term assigned to random documents;
* the smallest angular silhouette of the aligned term factors and of the aligned document factors reaches
  ``silhouette``; runs that ended in a poor minimum are left out if they are few;
* each topic is the strongest one of at least ``min_topic_documents`` documents.

The largest accepted k is chosen. Errors are cheap, so they are measured for increasing k until the first small drop;
beyond it ratios are near 1 again. The k at that drop is fitted a second time, because a search caught in a poor minimum
looks like a false split. Stability is expensive, so it is measured for decreasing k, from the largest k not yet
rejected, until one is accepted.
Binary Bleed (arXiv 2407.19125) prunes with silhouettes alone and factorises all perturbed copies of every k it visits.

Measured drop ratio / null ratio, over several random corpora:

* planted topics: true splits at least .56 / 6.5, the first false split of nodes of 220 documents and more .06-.08 /
  .49-1.03. Silhouettes alone do not separate them: at k = 2 those of homogeneous topics reach .84;
* the drop ratio of a false split grows as a node shrinks (.08-.10 at 120 documents, .12-.14 at 60, .15-.18 at 40), and
  that of a true split is small in large sparse nodes (NFCorpus, 871 documents: .26 / 1.53), so no ``drop_ratio`` is
  right for every node. The null matrix has the size and sparsity of the node: false splits .85-1.03 at 40 to 120
  documents. The null ratio therefore decides; ``drop_ratio`` = .15 is a safeguard;
* text (ATT&CK, NFCorpus, arXiv, Python reference): roots 1 -> 2 .32-.43 / 1.5-2.4, later steps .7-1.0 / 1.1-2.1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import Progress, silent
from heal_tasks.topics.config import NMFkConfig
from heal_tasks.topics.nmf import Runs, project
from heal_tasks.topics.operand import Floats, one_thread
from heal_tasks.topics.restarts import SILHOUETTE_MARGIN, Restarts, copy_blocks
from heal_tasks.topics.seeds import Seed
from heal_tasks.topics.stability import align, reorder, silhouettes, unit_rows

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``map``, or that of a thread pool."""

# A run whose error is above the best by this share of the drop from k - 1 to k topics ended in a poor minimum. That
# is a failure of the search and not a property of the topics, so the run is left out, unless more than a third of the
# runs did: then all count. Ten planted topics with shares as 1 / rank: smallest silhouette .19 with every run, .998
# without those.
POOR_EXCESS, MOST_POOR = 0.05, 1 / 3

# A drop on the null matrix is the mean of this many steps: it changes by 2 % from one k to the next, but a single one
# scatters by 12 %, as it is a small difference of two searches.
NULL_STEPS = 3


@dataclass(frozen=True)
class KRecord:
    """Measurements of one k; those of stability are None where it was not measured, and 1 for k = 1."""

    k: int  # number of topics
    relative_error: float  # of the best factorisation of X
    drop: float  # fall of the relative error per added topic since the record before
    drop_ratio: float  # the drop divided by the drop before it
    null_ratio: float  # the drop divided by the mean of the last three on the null matrix; 1 for k = 1
    stands_out: bool  # no ratio up to this k is too small
    iterations: int  # of all factorisations together
    term_silhouette: float | None = None  # smallest over topics of the mean silhouette of the term factors
    document_silhouette: float | None = None  # the same for the document factors
    smallest_topic: int | None = None  # documents in the smallest topic
    accepted: bool = False  # this k may be chosen

    @property
    def silhouette(self) -> float | None:
        """The smaller of both silhouettes."""
        if self.term_silhouette is None or self.document_silhouette is None:
            return None
        return min(self.term_silhouette, self.document_silhouette)


@dataclass(frozen=True, eq=False)
class NMFkResult:
    """The chosen number of topics with its factors."""

    k: int  # number of topics; 1 where no larger one was accepted
    records: tuple[KRecord, ...]  # one per k that was measured, ascending, k = 1 first
    term_factors: Floats  # (k, v): consensus of the perturbed runs, rows of unit Euclidean length
    document_factors: Floats  # (n, k): those that fit X best with them, non-negative
    stop_reason: str  # why a larger k was not chosen


def choose_k(
    X: csr_array,
    ks: Sequence[int],
    config: NMFkConfig | None = None,
    *,
    seed: Seed = 0,
    parallel_map: Map = map,
    device: str = "cpu",
    progress: Progress = silent,
) -> NMFkResult:
    """Choose the number of topics of X.

    Args:
        X: float32 csr, shape (n, v), non-negative.
        ks: candidates, ascending, each 2 <= k <= min(n, v); may be empty.
        config: None takes the defaults.
        seed: of every random draw; the draws for one k do not depend on the other candidates.
        parallel_map: runs factorisations that do not depend on each other; the result is the same for all.
        device: of torch.
        progress: called with the number of ks done.

    Raises:
        InputError: a k is out of range or out of order, or an entry of X is negative or not finite.
    """
    config = config or NMFkConfig()
    limit = min(X.shape)
    if list(ks) != sorted(set(ks)) or any(not 2 <= k <= limit for k in ks):
        raise InputError(f"ks={list(ks)} for a matrix of shape {X.shape}; use ascending values from 2 to {limit}")
    restarts = Restarts(X, config, seed, device)
    with one_thread():
        records, terms = _measure_errors(restarts, ks, config, parallel_map, progress)
        chosen, W = 1, project(X, terms)
        for place in range(len(records) - 1, 0, -1):
            record = records[place]
            if record.stands_out:
                progress(len(ks) - place, len(ks), f"stability of k={record.k}")
                consensus, weights, records[place] = _measure_stability(restarts, record, config, parallel_map)
                if records[place].accepted:
                    chosen, terms, W = record.k, consensus, weights
                    break
    progress(len(ks), len(ks))
    return NMFkResult(chosen, tuple(records), terms, W, _stop_reason(records, chosen, config))


def _measure_errors(
    restarts: Restarts, ks: Sequence[int], config: NMFkConfig, parallel_map: Map, progress: Progress
) -> tuple[list[KRecord], Floats]:
    """Measure errors upward from k = 1 to the first small drop; also return the term factors of k = 1."""

    def fit_both(k: int) -> list[Runs]:
        return list(parallel_map(lambda fit: fit(k), (restarts.fit, restarts.fit_null)))

    single, *null_fits = fit_both(1) if ks else [restarts.fit(1)]
    null_errors = [float(null_fit.errors[0]) for null_fit in null_fits]
    error, documents = float(single.errors[0]), restarts.X.shape[0]
    records = [KRecord(1, error, 1 - error, 0.0, 1.0, True, single.iterations, 1.0, 1.0, documents, True)]
    for done, k in enumerate(ks):
        progress(done, len(ks), f"error of k={k}")
        fit, null_fit = fit_both(k)
        null_errors.append(float(null_fit.errors[0]))
        null_drop = _mean_drop([*(record.k for record in records), k], null_errors)
        record = _error_record(records[-1], k, [fit], null_drop, config)
        if not record.stands_out:
            record = _error_record(records[-1], k, [fit, restarts.fit(k, attempt=1)], null_drop, config)
        records.append(replace(record, iterations=record.iterations + null_fit.iterations))
        if not record.stands_out:
            break
    return records, unit_rows(single.H[0].cpu().numpy())


def _error_record(before: KRecord, k: int, fits: Sequence[Runs], null_drop: float, config: NMFkConfig) -> KRecord:
    """Compare the error of the best fit with the record of the k before it."""
    error = min(float(fit.errors[0]) for fit in fits)
    drop = (before.relative_error - error) / (k - before.k)
    drop_ratio, null_ratio = drop / max(before.drop, 1e-9), drop / max(null_drop, 1e-9)
    return KRecord(
        k=k, relative_error=error, drop=drop, drop_ratio=drop_ratio, null_ratio=null_ratio,
        stands_out=drop_ratio >= config.drop_ratio and null_ratio >= config.null_ratio,
        iterations=sum(fit.iterations for fit in fits),
    )  # fmt: skip


def _mean_drop(ks: Sequence[int], errors: Sequence[float]) -> float:
    """Fall of an error per added topic over the last steps."""
    first = max(0, len(ks) - 1 - NULL_STEPS)
    return (errors[first] - errors[-1]) / (ks[-1] - ks[first])


def _measure_stability(
    restarts: Restarts, record: KRecord, config: NMFkConfig, parallel_map: Map
) -> tuple[Floats, Floats, KRecord]:
    """Factorise half of the perturbed copies, and the others if the silhouette may still reach the threshold.

    Returns the consensus term factors, the document factors that fit them, and the completed record.
    """
    X, k = restarts.X, record.k
    blocks = copy_blocks(config.perturbations)
    half = -(-len(blocks) // 2)
    runs: list[Runs] = list(parallel_map(partial(restarts.fit_perturbed, k), blocks[:half]))
    consensus, by_term, by_document = _agreement(runs, record.drop)
    if len(blocks) > half and min(by_term, by_document) >= config.silhouette - SILHOUETTE_MARGIN:
        runs += parallel_map(partial(restarts.fit_perturbed, k), blocks[half:])
        consensus, by_term, by_document = _agreement(runs, record.drop)
    W = project(X, consensus)
    smallest_topic = int(np.bincount(W[W.any(axis=1)].argmax(axis=1), minlength=k).min())
    measured = replace(
        record,
        term_silhouette=by_term,
        document_silhouette=by_document,
        smallest_topic=smallest_topic,
        iterations=record.iterations + sum(block.iterations for block in runs),
        accepted=min(by_term, by_document) >= config.silhouette and smallest_topic >= config.min_topic_documents,
    )
    return consensus, W, measured


def _agreement(runs: Sequence[Runs], drop: float) -> tuple[Floats, float, float]:
    """Consensus term factors of runs, shape (k, v), and the smallest silhouettes of term and of document factors."""
    errors = np.concatenate([block.errors for block in runs])
    kept = errors <= errors.min() + POOR_EXCESS * drop
    if (~kept).mean() > MOST_POOR:
        kept[:] = True
    terms = unit_rows(np.concatenate([block.H.cpu().numpy() for block in runs])[kept])
    documents = unit_rows(np.concatenate([block.W.cpu().numpy() for block in runs])[kept])
    centroids, order = align(terms, int(np.argmin(errors[kept])))
    by_term, by_document = (float(silhouettes(reorder(part, order)).min()) for part in (terms, documents))
    return centroids, by_term, by_document


def _stop_reason(records: Sequence[KRecord], chosen: int, config: NMFkConfig) -> str:
    """Say why the k after the chosen one was not taken."""
    after = next((record for record in records if record.k > chosen), None)
    if after is None:
        return "largest candidate k" if len(records) > 1 else "no candidate k"
    if not after.stands_out:
        return (
            f"k={after.k}: error drop {after.drop_ratio:.2f} of the one before, "
            f"{after.null_ratio:.2f} of the null matrix's"
        )
    if after.silhouette is not None and after.silhouette < config.silhouette:
        return f"k={after.k}: silhouette {after.silhouette:.2f}"
    return f"k={after.k}: smallest topic has {after.smallest_topic} documents"
