"""Best-of-several factorisations of one matrix, of its null matrix and of its perturbed copies.

Every call draws its random numbers from a seed of its own, so results depend neither on the order of the calls nor on
the threads that make them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array

from heal_tasks.topics.config import NMFkConfig
from heal_tasks.topics.nmf import Runs, improve
from heal_tasks.topics.operand import SKETCH_RANK, Floats, Operand, Sketch, check_matrix
from heal_tasks.topics.race import Track
from heal_tasks.topics.seeds import Seed, derive_seed
from heal_tasks.topics.stability import align, reorder, silhouettes, unit_rows

COPIES_PER_BLOCK = 3
"""Perturbed copies that are factorised together as one tensor."""

SILHOUETTE_MARGIN = 0.3
"""A k whose silhouette is below the threshold by more than this is given up before its runs have converged."""

LOOSE_TOLERANCE = 1e-4

RACE_DOCUMENTS = 5_000
"""Starts race on a sample of this many documents; the winner then converges on all of them."""

# Keys of random draws.
_FITS, _NULL, _RUNS, _SAMPLE, _SKETCH, _NOISE = (0, 4), 1, 2, 3, 5, 10_000


class Restarts:
    """Factorisations of one matrix for any k that its shape allows.

    Peak memory in bytes: 20 per stored entry for X and its transpose, 12 more while the transpose is made, 8 for each
    perturbed copy of one block; and eight copies of the factors of one block, or of its starts on the documents that
    they race on, whichever is larger.

    Args:
        X: float32 csr, shape (n, v), non-negative and finite.
        config: noise, and the silhouette threshold.
        seed: of every draw.
        device: of torch.

    Raises:
        InputError: as ``check_matrix``; and in every method, k is out of range.
    """

    def __init__(self, X: csr_array, config: NMFkConfig, seed: Seed, device: str = "cpu") -> None:
        check_matrix(X)
        self.X, self._config, self._seed, self._device = X, config, seed, device
        self._operand = Operand.of(X, device)
        rng = np.random.default_rng(derive_seed(seed, 0, _SAMPLE))
        n = X.shape[0]
        self._sample = np.sort(rng.choice(n, RACE_DOCUMENTS, replace=False)) if n > RACE_DOCUMENTS else np.arange(n)
        self._racing = self._sampled(X, self._operand)
        self._tracks: dict[tuple[bool, int], Track] = {}

    def fit(self, k: int, attempt: int = 0) -> Runs:
        """Factorise X once, from the best of several starts; attempt 1 has other starts than attempt 0."""
        return improve([self._operand], self._race(k, [derive_seed(self._seed, k, _FITS[attempt])]))

    def fit_null(self, k: int) -> Runs:
        """Factorise the null matrix once, from the best of several starts."""
        return improve([self._null[0]], self._race(k, [derive_seed(self._seed, k, _NULL)], null=True))

    def fit_perturbed(self, k: int, copies: Sequence[int]) -> Runs:
        """Factorise perturbed copies of X, each from the best of several starts.

        They are left unconverged if their silhouette is far below the threshold.

        Args:
            k: number of topics.
            copies: their numbers, which name their random draws. Copy 0 also gets a start from the SVD.
        """
        seeds = [derive_seed(self._seed, k, _RUNS, copy) for copy in copies]
        operands = []
        for seed in seeds:
            rng = np.random.default_rng(derive_seed(seed, _NOISE))
            operands.append(self._operand.with_entries(uniform_noise(self.X.data, self._config.noise, rng)))
        started = self._race(k, seeds, nndsvd=copies[0] == 0)
        runs = improve(operands, started, tolerance=LOOSE_TOLERANCE)
        terms = unit_rows(runs.H.cpu().numpy())
        _, order = align(terms, int(np.argmin(runs.errors)))
        if silhouettes(reorder(terms, order)).min() >= self._config.silhouette - SILHOUETTE_MARGIN:
            runs = improve(operands, runs)
        return runs

    @cached_property
    def _null(self) -> tuple[Operand, Operand]:
        null = null_matrix(self.X, np.random.default_rng(derive_seed(self._seed, 0)))
        operand = Operand.of(null, self._device)
        return operand, self._sampled(null, operand)

    def _sampled(self, X: csr_array, operand: Operand) -> Operand:
        whole = self._sample.size == X.shape[0]
        return operand if whole else Operand.of(csr_array(X[self._sample]), self._device)

    def _race(
        self, k: int, seeds: Sequence[np.random.SeedSequence], *, null: bool = False, nndsvd: bool = False
    ) -> Runs:
        """For every seed the best of several starts, with factors of all documents."""
        runs = self._track(k, null).race(k, seeds, nndsvd=nndsvd)
        if self._sample.size == self.X.shape[0]:
            return runs
        return replace(runs, W=torch.zeros((len(seeds), k, self.X.shape[0]), device=self._device))

    def _track(self, k: int, null: bool) -> Track:
        # Twice as many singular vectors as topics, for many topics; all usual ks share one sketch.
        key = null, max(SKETCH_RANK, 2 * k)
        if key not in self._tracks:
            operand = self._null[1] if null else self._racing
            sketch = Sketch.of(operand, key[1], derive_seed(self._seed, 0, _SKETCH))
            self._tracks[key] = Track(operand, sketch)
        return self._tracks[key]


def copy_blocks(perturbations: int) -> list[list[int]]:
    """Numbers of the perturbed copies, in blocks of about equal size that are factorised together."""
    blocks = np.array_split(np.arange(perturbations), -(-perturbations // COPIES_PER_BLOCK))
    return [block.tolist() for block in blocks]


def uniform_noise(entries: Floats, noise: float, rng: np.random.Generator) -> Floats:
    """Multiply every stored entry, shape (nnz,), by a uniform draw from 1 - noise to 1 + noise."""
    factors = rng.random(entries.size, np.float32)
    factors *= np.float32(2 * noise)
    factors += np.float32(1 - noise)
    factors *= entries
    return factors


def null_matrix(X: csr_array, rng: np.random.Generator) -> csr_array:
    """Deal the entries of each column out to random rows: the same words without topics."""
    columns = X.tocsc()
    counts = np.diff(columns.indptr)
    rows = [rng.choice(X.shape[0], count, replace=False, shuffle=False).astype(np.int32) for count in counts]
    places = (np.concatenate([np.empty(0, np.int32), *rows]), np.repeat(np.arange(X.shape[1], dtype=np.int32), counts))
    return csr_array((columns.data, places), shape=X.shape)
