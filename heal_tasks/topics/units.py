"""NMFk in pieces that need nothing from each other, so that threads or machines can share them.

A piece draws its random numbers from its own name, never from what ran before it, and always holds the same
runs: whoever works on it, and with how many others, its result is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmf import Runs, check_k, improve
from heal_tasks.topics.operand import Floats, Operand, check_matrix
from heal_tasks.topics.perturb import null_matrix, poisson_noise, uniform_noise
from heal_tasks.topics.race import SPARE, Track, starts_of
from heal_tasks.topics.seeds import Seed, derive_seed
from heal_tasks.topics.sketch import RANK, Sketch
from heal_tasks.topics.stability import align, reorder, silhouettes, unit_rows

Arrays = dict[str, NDArray[Any]]

RUNS_PER_UNIT = 3
# A k whose topics disagree this much more than allowed is not worth converging, nor the other half of its copies.
HOPELESS = 0.3
LOOSE_TOLERANCE = 1e-4
# Documents that the starts race on; the winner goes on with all of them. Which start is best shows on a sample.
RACE_DOCUMENTS = 5_000
_FITS, _NULL, _RUNS, _SAMPLE, _SKETCH, _NOISE = (0, 4), 1, 2, 3, 5, 10_000
"""Names of draws, beside those of the starts; a fit has a second one."""


@dataclass(frozen=True, kw_only=True)
class NMFkConfig:
    """How a number of topics is judged.

    Args:
        perturbations: noisy copies of the matrix per k, at least 2.
        perturb: ``uniform`` noise on stored entries, or ``poisson`` draws around the counts behind them.
        noise: of ``uniform``, relative, in (0, 1).
        silhouette: smallest silhouette of a stable k.
        drop_ratio: smallest ratio of an error drop to the drop before it.
        null_ratio: smallest ratio of an error drop to that of a matrix without topics.
        min_topic_documents: fewest documents of a topic.
        full_search: measure everything for every k, as a plot of all of it needs; the same k is chosen.
    """

    perturbations: int = 12
    perturb: Literal["uniform", "poisson"] = "uniform"
    noise: float = 0.015
    silhouette: float = 0.8
    drop_ratio: float = 0.15
    null_ratio: float = 1.1
    min_topic_documents: int = 8
    full_search: bool = False

    def __post_init__(self) -> None:
        if self.perturbations < 2:
            raise InputError(f"perturbations={self.perturbations}: stability needs at least 2")
        if self.perturb not in ("uniform", "poisson") or not 0 < self.noise < 1:
            raise InputError(
                f"perturb={self.perturb!r}, noise={self.noise}: use uniform or poisson, and a noise between 0 and 1"
            )


class Unit(NamedTuple):
    """One piece of work.

    Args:
        kind: ``fit``: the best of a few factorisations of X; ``null``: of the matrix without topics; ``runs``: of
            a block of perturbed copies.
        k: number of topics.
        block: which perturbed copies; of a fit 0, or 1 for its second attempt.
    """

    kind: Literal["fit", "null", "runs"]
    k: int
    block: int = 0

    def __str__(self) -> str:
        return f"{self.kind}-{self.k}-{self.block}"


def fit_units(k: int) -> list[Unit]:
    """What tells how far k topics explain X, and a matrix without topics."""
    return [Unit("fit", k), Unit("null", k)]


def second_fit(k: int) -> Unit:
    """Another attempt to fit k topics, with starts of its own."""
    return Unit("fit", k, 1)


def run_units(k: int, perturbations: int) -> list[Unit]:
    """What tells how stable k topics are."""
    return [Unit("runs", k, block) for block in range(_blocks(perturbations))]


def all_units(ks: Sequence[int], perturbations: int) -> list[Unit]:
    """Everything that ``choose_k`` could ask for, the heaviest first.

    Args:
        ks: the candidates.
        perturbations: noisy copies per k.
    """
    fits = [*fit_units(1), *(unit for k in ks for unit in (*fit_units(k), second_fit(k)))]
    return [*(unit for k in reversed(ks) for unit in run_units(k, perturbations)), *reversed(fits)]


class Workbench:
    """A matrix with what its units share.

    Peak memory in bytes is about ``peak_bytes``: 20 per stored entry for X and its transpose, 12 while a transpose is
    made, 8 for each of the perturbed copies of one unit; and eight copies of the factors of one unit's runs, or of its
    starts on the documents that they race on.

    Args:
        X: float32 csr, shape (n, v), non-negative and finite.
        config: perturbations and noise.
        seed: of every draw.
        occurrences: float32, shape (nnz,), counts behind the entries of X, for ``poisson``; None takes the entries.
        device: of torch.

    Raises:
        InputError: X has an entry that is negative or not finite.
    """

    def __init__(
        self, X: csr_array, config: NMFkConfig, seed: Seed, occurrences: Floats | None = None, device: str = "cpu"
    ) -> None:
        check_matrix(X)
        self.X, self._config, self._seed, self._device = X, config, seed, device
        self._occurrences = X.data if occurrences is None else occurrences
        self._operand = Operand.of(X, device)
        rng = np.random.default_rng(derive_seed(seed, 0, _SAMPLE))
        n = X.shape[0]
        self._sample = np.sort(rng.choice(n, RACE_DOCUMENTS, replace=False)) if n > RACE_DOCUMENTS else np.arange(n)
        self._racing = self._sampled(X, self._operand)
        self._tracks: dict[tuple[bool, int], Track] = {}

    @staticmethod
    def peak_bytes(n: int, v: int, nnz: int, k: int) -> int:
        """Largest memory of one unit, in bytes."""
        racing = starts_of(k) * (k + SPARE) * (min(n, RACE_DOCUMENTS) + v)
        return nnz * (20 + 12 + 8 * RUNS_PER_UNIT) + 8 * 4 * RUNS_PER_UNIT * max(k * (n + v), racing)

    def run(self, unit: Unit) -> Arrays:
        """Do one piece of work.

        Args:
            unit: which.

        Returns:
            ``iterations``, int; of ``fit`` and ``null`` ``error``, float64; of ``fit`` and ``runs`` ``terms``,
            float32, shape (runs, k, v), rows of unit length; of ``runs`` also ``documents``, float32, shape
            (runs, k, n), alike, and ``errors``, float64, shape (runs,).

        Raises:
            InputError: k is out of range.
        """
        check_k(unit.k, self.X.shape)
        if unit.kind == "runs":
            return self._perturbed(unit)
        null = unit.kind == "null"
        operand, name = (self._null[0], _NULL) if null else (self._operand, _FITS[unit.block])
        started = self._race(unit.k, [derive_seed(self._seed, unit.k, name)], null=null)
        best = improve([operand], started)
        made = {"error": best.errors[0], "iterations": best.iterations}
        if unit.kind == "fit":
            made["terms"] = unit_rows(best.H.cpu().numpy())
        return {name: np.asarray(value) for name, value in made.items()}

    @cached_property
    def _null(self) -> tuple[Operand, Operand]:
        null = null_matrix(self.X, np.random.default_rng(derive_seed(self._seed, 0)))
        operand = Operand.of(null, self._device)
        return operand, self._sampled(null, operand)

    def _sampled(self, X: csr_array, operand: Operand) -> Operand:
        whole = self._sample.size == X.shape[0]
        return operand if whole else Operand.of(csr_array(X[self._sample]), self._device)

    def _perturbed(self, unit: Unit) -> Arrays:
        total = self._config.perturbations
        copies = np.array_split(np.arange(total), _blocks(total))[unit.block]
        seeds = [derive_seed(self._seed, unit.k, _RUNS, copy) for copy in copies.tolist()]
        operands = [self._operand.with_entries(self._noisy(seed)) for seed in seeds]
        started = self._race(unit.k, seeds, nndsvd=unit.block == 0)
        runs = improve(operands, started, tolerance=LOOSE_TOLERANCE)
        terms = unit_rows(runs.H.cpu().numpy())
        _, order = align(terms, int(np.argmin(runs.errors)))
        if silhouettes(reorder(terms, order)).min() >= self._config.silhouette - HOPELESS:
            runs = improve(operands, runs)
            terms = unit_rows(runs.H.cpu().numpy())
        return {
            "terms": terms,
            "documents": unit_rows(runs.W.cpu().numpy()),
            "errors": runs.errors,
            "iterations": np.asarray(runs.iterations),
        }

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
        name = null, max(RANK, 2 * k)
        if name not in self._tracks:
            operand = self._null[1] if null else self._racing
            sketch = Sketch.of(operand, name[1], derive_seed(self._seed, 0, _SKETCH))
            self._tracks[name] = Track(operand, sketch)
        return self._tracks[name]

    def _noisy(self, seed: np.random.SeedSequence) -> Floats:
        rng = np.random.default_rng(derive_seed(seed, _NOISE))
        if self._config.perturb == "poisson":
            return poisson_noise(self.X.data, self._occurrences, rng)
        return uniform_noise(self.X.data, self._config.noise, rng)


def _blocks(perturbations: int) -> int:
    return -(-perturbations // RUNS_PER_UNIT)
