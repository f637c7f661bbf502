"""NMFk: how many topics a matrix has, by the stability of repeated factorisations.

Written from the published descriptions and the behaviour of the reference (lanl/T-ELF), with its known
defects designed out: restarts are independent and random beside the one from the SVD, one optimal assignment
permutes both factors, thresholds never change, and a silhouette is not the only judge.

k is accepted when all of these hold:

* up to this k, no drop of the error per added topic fell below ``drop_ratio`` times the drop before it (the
  first is compared with the drop from 1, the error of no topic, to k = 1), nor below ``null_ratio``
  times the mean of the last three on a null matrix: the same matrix with each term's entries dealt out to random
  documents;
* the smallest angular silhouette of the aligned term factors and of the aligned document factors
  reaches ``silhouette``; runs that are caught in a poor minimum do not count, as long as they are few;
* no topic is the strongest of fewer than ``min_topic_documents`` documents.

A walk that one unlucky search would end is given a second one, for an unlucky search looks like a false split: what it
finds is the best of k - 1 topics and a spurious one.

The largest accepted k wins. That is what makes the search short: errors are cheap and tell where the walk
upward ends, because past the first small drop ratios are near 1 again; stability is dear and is then measured
from the largest k left downward, until one is accepted. Binary Bleed (arXiv 2407.19125) prunes with the
silhouettes alone, so it pays for all perturbed copies of every k that it visits.

Measured, drop ratio / null ratio, over several random corpora:

* planted topics: true splits >= .56 / >= 6.5, the first false one in nodes of 220 documents and more .06-.08 /
  .49-1.03. Silhouettes alone do not tell: at k = 2 those of homogeneous topics reach .84;
* the drop ratio of a false split grows as a node shrinks (.08-.10 at 120 documents, .12-.14 at 60, .15-.18 at
  40), and a real one starts low in large sparse nodes (NFCorpus, 871 documents: .26 / 1.53), so no
  ``drop_ratio`` is right for every node. The null matrix has the node's own size and sparsity: false splits
  .85-1.03 at 40 to 120 documents. It is the deciding rule, ``drop_ratio`` = .15 the guard beside it;
* text (ATT&CK, NFCorpus, arXiv, Python reference): roots 1 -> 2 .32-.43 / 1.5-2.4, later steps .7-1.0 / 1.1-2.1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import Progress, silent
from heal_tasks.topics.nmf import Factorisation, project, residuals
from heal_tasks.topics.operand import Floats, one_thread
from heal_tasks.topics.seeds import Seed
from heal_tasks.topics.stability import align, reorder, silhouettes
from heal_tasks.topics.units import (
    HOPELESS,
    Arrays,
    NMFkConfig,
    Unit,
    Workbench,
    fit_units,
    run_units,
    second_fit,
)

RunUnits = Callable[[Callable[[Unit], Arrays], Iterable[Unit]], Iterable[Arrays]]
"""How units are run: ``map``, that of a pool, or one that knows what other machines have done."""

# A run whose error is above the best by this share of what k topics explain more than k - 1 is caught in a poor
# minimum. It tells about the search and not about the topics, so it is left out, unless that is more than a third of
# the runs: then they all count. Ten planted topics with shares as 1 / rank: smallest silhouette .19 with every run,
# .998 like this.
CAUGHT, MOST_CAUGHT = 0.05, 1 / 3
# A drop on the null matrix is the mean of this many steps: from one k to the next it changes by 2 in 100 only, but a
# single one scatters by 12 in 100, for it is a small difference of two searches.
NULL_STEPS = 3


@dataclass(frozen=True)
class KRecord:
    """What was measured for one k.

    Args:
        k: number of topics.
        relative_error: of the best factorisation of X.
        drop: fall of the relative error per added topic since the record before.
        drop_ratio: that, divided by the drop before it.
        null_ratio: the drop, divided by the mean of the last three on the null matrix; 1 for k = 1.
        stands_out: whether neither ratio is too small.
        term_silhouette: smallest over topics of the mean silhouette of the term factors; 1 for k = 1; None where
            stability was not measured.
        document_silhouette: the same for the document factors.
        mean_silhouette: the mean over topics and both factors.
        smallest_topic: documents in the smallest topic.
        iterations: of all factorisations together.
        accepted: whether this k may be chosen.
    """

    k: int
    relative_error: float
    drop: float
    drop_ratio: float
    null_ratio: float
    stands_out: bool
    iterations: int
    term_silhouette: float | None = None
    document_silhouette: float | None = None
    mean_silhouette: float | None = None
    smallest_topic: int | None = None
    accepted: bool = False

    @property
    def silhouette(self) -> float | None:
        """The smaller of both silhouettes."""
        if self.term_silhouette is None or self.document_silhouette is None:
            return None
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
    config: NMFkConfig | None = None,
    *,
    seed: Seed = 0,
    occurrences: Floats | None = None,
    run_units_with: RunUnits = map,
    device: str = "cpu",
    progress: Progress = silent,
) -> NMFkResult:
    """Choose the number of topics of X.

    Args:
        X: float32 csr, shape (n, v), non-negative.
        ks: candidates, ascending, each 2 <= k <= min(n, v); may be empty.
        config: None takes the defaults.
        seed: of every random draw; the draws for one k do not depend on which other ks are tried.
        occurrences: float32, shape (nnz,), the counts behind the entries, for Poisson noise; None: the entries.
        run_units_with: how the units of ``Workbench(X, config, seed, ...)`` are run; the result is the same.
        device: of torch.
        progress: called with the number of ks done.

    Returns:
        The choice, its factors and every record.

    Raises:
        InputError: a k is out of range or out of order, or an entry of X is negative or not finite.
    """
    config = config or NMFkConfig()
    limit = min(X.shape)
    if list(ks) != sorted(set(ks)) or any(not 2 <= k <= limit for k in ks):
        raise InputError(f"ks={list(ks)} for a matrix of shape {X.shape}; use ascending values from 2 to {limit}")
    bench = Workbench(X, config, seed, occurrences, device)

    def run(units: list[Unit]) -> list[Arrays]:
        return list(run_units_with(bench.run, units))

    with one_thread():
        records, single = _walk_errors(run, ks, config, X.shape[0], progress)
        chosen, factors = 1, _fitted(X, single)
        for place in range(len(records) - 1, 0, -1):
            record = records[place]
            if not (record.stands_out or config.full_search) or (chosen > 1 and not config.full_search):
                continue
            progress(len(ks) - place, len(ks), f"stability of k={record.k}")
            consensus, records[place] = _judge_stability(X, record, run, config)
            if records[place].accepted and chosen == 1:
                chosen, factors = record.k, consensus
    progress(len(ks), len(ks))
    return NMFkResult(chosen, tuple(records), factors, _stop_reason(records, chosen, config))


def _walk_errors(
    run: Callable[[list[Unit]], list[Arrays]], ks: Sequence[int], config: NMFkConfig, documents: int, progress: Progress
) -> tuple[list[KRecord], Floats]:
    """Errors upward from k = 1 to the first small drop (all in a full search), and the terms of the single topic."""
    fit, *null = run(fit_units(1) if ks else [Unit("fit", 1)])
    error, single = float(fit["error"]), fit["terms"][0]
    records = [KRecord(1, error, 1 - error, 0.0, 1.0, True, int(fit["iterations"]), 1.0, 1.0, 1.0, documents, True)]
    null_errors = [float(found["error"]) for found in null]
    for done, k in enumerate(ks):
        progress(done, len(ks), f"error of k={k}")
        fit, fallen = run(fit_units(k))
        null_errors.append(float(fallen["error"]))
        null_drop = _mean_drop([record.k for record in records] + [k], null_errors)
        record = _error_record(records[-1], k, [fit], null_drop, config)
        if records[-1].stands_out and not record.stands_out:
            record = _error_record(records[-1], k, [fit, *run([second_fit(k)])], null_drop, config)
        records.append(replace(record, iterations=record.iterations + int(fallen["iterations"])))
        if not record.stands_out and not config.full_search:
            break
    return records, single


def _error_record(before: KRecord, k: int, fits: Sequence[Arrays], null_drop: float, config: NMFkConfig) -> KRecord:
    """What the best of the fits of k topics tells, after the record of the k before it."""
    error = min(float(fit["error"]) for fit in fits)
    drop = (before.relative_error - error) / (k - before.k)
    to_before, to_null = drop / max(before.drop, 1e-9), drop / max(null_drop, 1e-9)
    stands_out = before.stands_out and to_before >= config.drop_ratio and to_null >= config.null_ratio
    return KRecord(k, error, drop, to_before, to_null, stands_out, sum(int(fit["iterations"]) for fit in fits))


def _mean_drop(ks: Sequence[int], errors: Sequence[float]) -> float:
    """Fall of an error per added topic over the last steps."""
    first = max(0, len(ks) - 1 - NULL_STEPS)
    return (errors[first] - errors[-1]) / (ks[-1] - ks[first])


def _judge_stability(
    X: csr_array, record: KRecord, run: Callable[[list[Unit]], list[Arrays]], config: NMFkConfig
) -> tuple[Factorisation, KRecord]:
    """Measure a k on half of the perturbed copies, and on all of them unless it is hopeless by then."""
    units = run_units(record.k, config.perturbations)
    half = -(-len(units) // 2)
    blocks = run(units[:half])
    agreed = _agreement(record, blocks)
    if len(units) > half and agreed.smallest >= config.silhouette - HOPELESS:
        blocks += run(units[half:])
        agreed = _agreement(record, blocks)
    factors = _fitted(X, agreed.centroids)
    W = factors.document_factors
    smallest_topic = int(np.bincount(W[W.any(axis=1)].argmax(axis=1), minlength=record.k).min())
    stable = agreed.smallest >= config.silhouette
    return factors, replace(
        record,
        term_silhouette=float(agreed.by_term.min()),
        document_silhouette=float(agreed.by_document.min()),
        mean_silhouette=float((agreed.by_term.mean() + agreed.by_document.mean()) / 2),
        smallest_topic=smallest_topic,
        iterations=record.iterations + sum(int(block["iterations"]) for block in blocks),
        accepted=record.stands_out and stable and smallest_topic >= config.min_topic_documents,
    )


@dataclass(frozen=True, eq=False)
class _Agreement:
    """Consensus term factors of runs, shape (k, v), and the mean silhouette of each topic, shape (k,)."""

    centroids: Floats
    by_term: NDArray[np.float64]
    by_document: NDArray[np.float64]

    @property
    def smallest(self) -> float:
        return float(min(self.by_term.min(), self.by_document.min()))


def _agreement(record: KRecord, blocks: Sequence[Arrays]) -> _Agreement:
    errors = np.concatenate([block["errors"] for block in blocks])
    caught = errors > errors.min() + CAUGHT * record.drop
    if caught.mean() > MOST_CAUGHT:
        caught[:] = False
    terms = np.concatenate([block["terms"] for block in blocks])[~caught]
    documents = np.concatenate([block["documents"] for block in blocks])[~caught]
    centroids, order = align(terms, int(np.argmin(errors[~caught])))
    return _Agreement(centroids, silhouettes(reorder(terms, order)), silhouettes(reorder(documents, order)))


def _fitted(X: csr_array, terms: Floats) -> Factorisation:
    W = project(X, terms)
    error = float(np.sqrt(np.mean(np.square(residuals(X, W, terms), dtype=np.float64))))
    return Factorisation(W, terms, error, 0)


def _stop_reason(records: Sequence[KRecord], chosen: int, config: NMFkConfig) -> str:
    """Why the k after the chosen one was not taken."""
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
