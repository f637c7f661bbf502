"""NMFk in pieces that need nothing from each other, so that threads or machines can share them.

A piece draws its random numbers from its own name, never from what ran before it, and always holds the same
runs: whoever works on it, and with how many others, its result is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmf import Runs, check_k, improve, start_nndsvd, start_random
from heal_tasks.topics.operand import Floats, Operand, check_matrix
from heal_tasks.topics.perturb import null_matrix, poisson_noise, uniform_noise
from heal_tasks.topics.stability import align, silhouettes, unit_rows

Seed = int | np.random.SeedSequence
Arrays = dict[str, NDArray[Any]]

RUNS_PER_UNIT = 3
# A k whose topics disagree this much more than allowed is not worth converging: such runs stop at the loose tolerance.
HOPELESS = 0.3
LOOSE_TOLERANCE = 1e-4
_NOISE = 10_000
"""Names the draws of the noise, beside those of the starts."""


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

    perturbations: int = 6
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
        block: which perturbed copies.
    """

    kind: Literal["fit", "null", "runs"]
    k: int
    block: int = 0

    def __str__(self) -> str:
        return f"{self.kind}-{self.k}-{self.block}"


def race_of(k: int) -> tuple[tuple[int, int], ...]:
    """Starts that race for one run, and rounds until the next ones drop out; one is left.

    More topics have more poor minima, and a restart that is caught in one is taken for an unstable k. Share of the
    starts that reach the best minimum: planted k = 6, 97 in 100; ten topics with shares as 1 / rank, 33 in 100.
    """
    return (2 * k + 4, 5), (k // 2 + 1, 10)


def fit_units(k: int) -> list[Unit]:
    """What tells how far k topics explain X, and a matrix without topics."""
    return [Unit("fit", k), Unit("null", k)]


def run_units(k: int, perturbations: int) -> list[Unit]:
    """What tells how stable k topics are."""
    return [Unit("runs", k, block) for block in range(_blocks(perturbations))]


def all_units(ks: Sequence[int], perturbations: int) -> list[Unit]:
    """Everything that ``choose_k`` could ask for, the heaviest first.

    Args:
        ks: the candidates.
        perturbations: noisy copies per k.
    """
    fits = [unit for k in (1, *ks) for unit in fit_units(k)]
    return [*(unit for k in reversed(ks) for unit in run_units(k, perturbations)), *reversed(fits)]


class Workbench:
    """A matrix with what its units share.

    Peak memory in bytes is about ``peak_bytes``: 20 per stored entry for X and its transpose, 8 for each of the
    perturbed copies of one unit, and eight copies of the factors of one unit with all of its starts.

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

    @staticmethod
    def peak_bytes(n: int, v: int, nnz: int, k: int) -> int:
        """Largest memory of one unit, in bytes."""
        return nnz * (20 + 8 * RUNS_PER_UNIT + 12) + 8 * 4 * RUNS_PER_UNIT * race_of(k)[0][0] * k * (n + v)

    def run(self, unit: Unit) -> Arrays:
        """Do one piece of work.

        Args:
            unit: which.

        Returns:
            ``iterations``, int; of ``fit`` and ``null`` ``error``, float64; of ``fit`` and ``runs`` ``terms``,
            float32, shape (runs, k, v), rows of unit length; of ``runs`` also ``documents``, float32, shape
            (runs, k, n), alike.

        Raises:
            InputError: k is out of range.
        """
        check_k(unit.k, self.X.shape)
        if unit.kind == "runs":
            return self._perturbed(unit)
        best = self._best(self._operand if unit.kind == "fit" else self._null, unit)
        made = {"error": best.errors[0], "iterations": best.iterations}
        if unit.kind == "fit":
            made["terms"] = unit_rows(best.H.cpu().numpy())
        return {name: np.asarray(value) for name, value in made.items()}

    @cached_property
    def _null(self) -> Operand:
        return Operand.of(null_matrix(self.X, np.random.default_rng(derive_seed(self._seed, 0))), self._device)

    def _best(self, operand: Operand, unit: Unit) -> Runs:
        seed = derive_seed(self._seed, unit.k, unit.kind == "null")
        return improve([operand], self._race(operand, unit.k, [seed]))

    def _perturbed(self, unit: Unit) -> Arrays:
        total = self._config.perturbations
        copies = np.array_split(np.arange(total), _blocks(total))[unit.block]
        seeds = [derive_seed(self._seed, unit.k, 2, copy) for copy in copies.tolist()]
        operands = [self._operand.with_entries(self._noisy(seed)) for seed in seeds]
        started = self._race(self._operand, unit.k, seeds, nndsvd=unit.block == 0 and unit.k < min(self.X.shape))
        runs = improve(operands, started, tolerance=LOOSE_TOLERANCE)
        terms = unit_rows(runs.H.cpu().numpy())
        aligned = np.take_along_axis(terms, align(terms, int(np.argmin(runs.errors)))[1][:, :, None], axis=1)
        if silhouettes(aligned).min() >= self._config.silhouette - HOPELESS:
            runs = improve(operands, runs)
            terms = unit_rows(runs.H.cpu().numpy())
        return {
            "terms": terms,
            "documents": unit_rows(runs.W.cpu().numpy()),
            "errors": runs.errors,
            "iterations": np.asarray(runs.iterations),
        }

    def _race(self, operand: Operand, k: int, seeds: Sequence[np.random.SeedSequence], *, nndsvd: bool = False) -> Runs:
        """For every seed the best of several starts; the first one also starts from the SVD if told so."""
        race = race_of(k)
        runs = start_random(operand, k, [derive_seed(seed, start) for seed in seeds for start in range(race[0][0])])
        if nndsvd:
            svd = start_nndsvd(self.X, k, seeds[0], self._device)
            runs.W[0], runs.H[0] = svd.W[0], svd.H[0]
        for (running, rounds), left in zip(race, (*(running for running, _ in race[1:]), 1), strict=True):
            runs = improve([operand] * runs.errors.size, runs, max_iterations=rounds, tolerance=0)
            best = np.argsort(runs.errors.reshape(len(seeds), running), axis=1, kind="stable")[:, :left]
            runs = runs.take((best + running * np.arange(len(seeds))[:, None]).ravel().tolist())
        return runs

    def _noisy(self, seed: np.random.SeedSequence) -> Floats:
        rng = np.random.default_rng(derive_seed(seed, _NOISE))
        if self._config.perturb == "poisson":
            return poisson_noise(self.X.data, self._occurrences, rng)
        return uniform_noise(self.X.data, self._config.noise, rng)


def _blocks(perturbations: int) -> int:
    return -(-perturbations // RUNS_PER_UNIT)


def derive_seed(seed: Seed, *key: int) -> np.random.SeedSequence:
    """An independent seed for a piece of work named by numbers, whatever was drawn elsewhere."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, *key))
