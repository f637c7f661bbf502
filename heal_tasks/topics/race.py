"""Selection among random initialisations; each starts with extra topics that are later merged.

More topics have more poor minima, and a search that is caught in one looks like an unstable k. A random start is caught
where one of its topics covers two true ones and two of its topics share a third. With spare topics a start seldom
misses one, and then the pair that is best replaced by a single topic is merged: Ueda et al., SMEM algorithm for mixture
models, 2000, makes the same moves. Searches caught, of 16 for ten planted topics with shares as 1 / rank, on three
corpora, and of 16 for k = 8 on 898 ATT&CK techniques:

    24 starts (20 for k = 8), no spare topics, two knock-out rounds   2 2 3   3
    4 starts, 3 spare topics                                          0 0 0   2
    2 starts, 3 spare topics                                          0 0 2   7
    4 starts, 1 spare topic                                           1 2 5   7
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from heal_tasks.topics.nmf import Runs, check_k, improve_on_sketch, start_nndsvd, start_random
from heal_tasks.topics.operand import Operand, Sketch
from heal_tasks.topics.seeds import derive_seed

SPARE = 3
_TINY = 1e-30
# Rounds before the first merge, after each merge, and of the winner.
FIRST, AFTER_MERGE, LAST = 5, 2, 8


def starts_of(k: int) -> int:
    """Number of starts that race for one run of k topics."""
    return k // 2 + 1


@dataclass(frozen=True, eq=False)
class Track:
    """The matrix that starts race on."""

    operand: Operand  # the documents, or a sample of them, shape (n, v)
    sketch: Sketch  # of the same

    def race(
        self, k: int, seeds: Sequence[np.random.SeedSequence], *, nndsvd: bool = False, spare: int = SPARE
    ) -> Runs:
        """Find the best of several starts for every seed.

        Args:
            k: number of topics, 1 <= k <= min(n, v).
            seeds: one per run; each start draws from a child of its own.
            nndsvd: True if the first start of the first seed is the one from the SVD.
            spare: topics that each start has in addition, as far as min(n, v) allows.

        Returns:
            One run per seed, not yet converged.
        """
        shape = self.operand.rows.shape
        check_k(k, shape)
        starts, spare = starts_of(k), min(spare, min(shape) - k)
        children = [derive_seed(seed, start) for seed in seeds for start in range(starts)]
        runs = start_random(self.operand, k + spare, children)
        if nndsvd:
            svd = start_nndsvd(self.operand, k + spare, seeds[0])
            runs.W[0], runs.H[0] = svd.W[0], svd.H[0]
        runs = improve_on_sketch(self.sketch, runs, FIRST)
        for _ in range(spare):
            runs = improve_on_sketch(self.sketch, merge_closest(runs), AFTER_MERGE)
        best = (runs.errors.reshape(len(seeds), starts).argmin(axis=1) + starts * np.arange(len(seeds))).tolist()
        winners = Runs(runs.W[best], runs.H[best], runs.errors[best], runs.iterations)
        return improve_on_sketch(self.sketch, winners, LAST)


def merge_closest(runs: Runs) -> Runs:
    """In every run of at least 2 topics, replace the two that are best replaced by one; errors stay as they were.

    The part of the model that two topics make is a matrix of rank 2. Its nearest matrix of rank 1 keeps the larger
    singular value and loses the smaller; both follow from the Gram matrices of the factors. Its factors are not
    negative, because those of the two topics are not.
    """
    count, k = runs.W.shape[:2]
    one, other = torch.triu_indices(k, k, 1, device=runs.W.device)
    (a, b, d), (p, q, s) = (_pairs(F, one, other) for F in (runs.W, runs.H))
    # The product of both 2 x 2 Gram matrices has the squared singular values as its eigenvalues.
    trace, determinant = a * p + 2 * b * q + d * s, (a * d - b * b) * (p * s - q * q)
    larger = (trace + torch.sqrt(torch.clamp(trace**2 - 4 * determinant, min=0))) / 2
    lost = torch.clamp(determinant, min=0) / torch.clamp(larger, min=_TINY)
    run, closest = torch.arange(count, device=one.device), lost.argmin(dim=1)
    a, b, d, p, q, s, larger = (part[run, closest] for part in (a, b, d, p, q, s, larger))
    # The sum of both rows that an eigenvector of a 2 x 2 matrix can be read from, as one of them may be zero.
    first = torch.clamp(larger - (b * q + d * s) + a * q + b * s, min=0) + _TINY
    second = torch.clamp(larger - (a * p + b * q) + b * p + d * q, min=0) + _TINY
    of_terms = torch.stack([first, second]) / (first + second)  # (2, runs)
    of_documents = torch.stack([p * of_terms[0] + q * of_terms[1], q * of_terms[0] + s * of_terms[1]])
    of_documents = of_documents / torch.clamp((of_documents * of_terms).sum(dim=0), min=_TINY)
    left, gone, parts = one[closest], other[closest], []
    for F, shares in ((runs.W, of_documents), (runs.H, of_terms)):
        # The last topic moves to the place of the removed one, unless it is that one itself.
        new, hole = F[:, :-1].clone(), torch.clamp(gone, max=k - 2)
        new[run, hole] = torch.where((gone == hole)[:, None], F[run, k - 1], F[run, hole])
        share, rest = shares.to(F.dtype)[:, :, None]
        new[run, left] = share * F[run, left] + rest * F[run, gone]
        parts.append(new)
    return Runs(parts[0], parts[1], runs.errors, runs.iterations)


def _pairs(F: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entries of the 2 x 2 Gram matrix of every pair of topics: three times float64, shape (runs, pairs)."""
    gram = (F @ F.mT).double()
    return gram[:, one, one], gram[:, one, other], gram[:, other, other]
