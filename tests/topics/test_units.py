"""Pieces of NMFk: the same whoever runs them, and no more memory than stated."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.nmfk import choose_k
from heal_tasks.topics.operand import one_thread
from heal_tasks.topics.perturb import null_matrix, poisson_noise, uniform_noise
from heal_tasks.topics.tfidf import fit_tfidf
from heal_tasks.topics.units import NMFkConfig, Unit, Workbench, all_units, run_units, second_fit

CONFIG = NMFkConfig(perturbations=5)


@pytest.fixture(scope="module", name="X")
def matrix(planted: Any) -> csr_array:
    return fit_tfidf(planted.texts[:240], min_df=3, max_df=0.5, max_terms=20_000)[0]


def test_every_unit_that_may_be_asked_for_is_planned_once() -> None:
    asked: list[Unit] = []
    units = all_units([2, 3, 5], 5)
    assert len(set(units)) == len(units) == 3 * 2 + 4 * 2 + 3
    assert units[0] == Unit("runs", 5, 0)
    matrix = csr_array(np.random.default_rng(0).random((40, 30), np.float32))

    def run(function: Any, wanted: Any) -> list[Any]:
        asked.extend(wanted)
        return [function(unit) for unit in wanted]

    choose_k(matrix, [2, 3, 5], NMFkConfig(perturbations=5, full_search=True), run_units_with=run)
    assert set(asked) <= set(units)
    assert len(set(asked)) == len(asked)
    assert {unit.k for unit in asked if unit.kind == "runs"} == {2, 3, 5}


@pytest.mark.parametrize("perturbations", [2, 3, 4, 7, 10])
def test_blocks_hold_every_perturbed_copy_once(X: csr_array, perturbations: int) -> None:
    bench = Workbench(X, NMFkConfig(perturbations=perturbations), 1)
    with one_thread():
        blocks = [bench.run(unit)["errors"].size for unit in run_units(2, perturbations)]
    assert sum(blocks) == perturbations
    assert max(blocks) - min(blocks) <= 1
    assert max(blocks) <= 3


def test_units_run_elsewhere_and_in_any_order_give_the_same_choice(X: csr_array) -> None:
    here = choose_k(X, [2, 3, 4], CONFIG, seed=5)
    done: dict[Unit, Any] = {}
    with one_thread():
        for unit in reversed(all_units([2, 3, 4], CONFIG.perturbations)):
            done[unit] = Workbench(X, CONFIG, 5).run(unit)
    there = choose_k(X, [2, 3, 4], CONFIG, seed=5, run_units_with=lambda run, units: [done[unit] for unit in units])
    assert there.records == here.records
    assert_array_equal(there.factorisation.term_factors, here.factorisation.term_factors)
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        threaded = choose_k(X, [2, 3, 4], CONFIG, seed=5, run_units_with=pool.map)
    assert threaded.records == here.records


def test_one_search_caught_in_a_poor_minimum_does_not_end_the_walk(planted: Any) -> None:
    X = fit_tfidf(planted.texts, min_df=3, max_df=0.5, max_terms=20_000)[0]
    asked: list[Unit] = []

    def run(function: Any, units: Any) -> list[Any]:
        asked.extend(units)
        return [function(unit) | ({"error": np.float64(0.999)} if unit == Unit("fit", 5) else {}) for unit in units]

    right, caught = choose_k(X, range(2, 7), seed=1), choose_k(X, range(2, 7), seed=1, run_units_with=run)
    assert caught.k == right.k == 6
    assert {unit.k for unit in asked if unit == second_fit(unit.k)} == {5}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_choice(X: csr_array) -> None:
    on_cpu, on_gpu = (choose_k(X, [2, 3, 4], CONFIG, seed=5, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.k == on_cpu.k
    # Sums in another order may bring near equal topics into another order.
    ours, theirs = on_gpu.factorisation.term_factors, on_cpu.factorisation.term_factors
    _, order = linear_sum_assignment(ours @ theirs.T, maximize=True)
    assert_allclose(ours, theirs[order], atol=0.01)


def test_noise_stays_in_its_bounds_and_keeps_the_pattern() -> None:
    rng = np.random.default_rng(0)
    entries = rng.random(20_000, np.float32) + 0.1
    uniform = uniform_noise(entries, 0.1, rng) / entries
    assert uniform.min() >= 0.9 - 1e-6
    assert uniform.max() <= 1.1 + 1e-6
    assert uniform.mean() == pytest.approx(1, abs=0.002)
    counts = rng.integers(1, 5, 20_000).astype(np.float32)
    drawn = poisson_noise(counts * 0.3, counts, rng)
    assert_allclose(drawn / 0.3, np.rint(drawn / 0.3), atol=1e-4)
    assert drawn.mean() == pytest.approx(0.3 * counts.mean(), rel=0.02)
    assert (drawn / 0.3).var() == pytest.approx(counts.mean() + counts.var(), rel=0.05)


def test_the_null_matrix_keeps_every_columns_entries(X: csr_array) -> None:
    null = null_matrix(X, np.random.default_rng(0))
    assert null.nnz == X.nnz
    ours, theirs = X.tocsc(), null.tocsc()
    for column in range(0, X.shape[1], 50):
        part = slice(*ours.indptr[column : column + 2])
        assert_array_equal(np.sort(ours.data[part]), np.sort(theirs.data[part]))
    assert not np.array_equal(null.toarray(), X.toarray())


def test_unsorted_entries_are_refused() -> None:
    unsorted = csr_array((np.ones(4, np.float32), [1, 0, 0, 1], [0, 2, 4]), shape=(2, 2))
    with pytest.raises(InputError, match=r"call sort_indices\(\) on the matrix"):
        Workbench(unsorted, CONFIG, 0)


def test_a_k_that_the_matrix_does_not_allow() -> None:
    bench = Workbench(csr_array(np.eye(4, dtype=np.float32)), CONFIG, 0)
    with pytest.raises(InputError, match=r"k=5 topics for a matrix of shape \(4, 4\)"):
        bench.run(Unit("runs", 5))


MEASURE = """
import json
from pathlib import Path
import numpy as np
from scipy.sparse import random_array
from heal_tasks.topics.operand import one_thread
from heal_tasks.topics.units import NMFkConfig, Unit, Workbench

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

n, v, k = 20_000, 8_000, 8
X = random_array((n, v), density=0.012, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
config = NMFkConfig(silhouette=2)
with one_thread():
    Workbench(X[:300], config, 0).run(Unit("runs", 3))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = resident("VmRSS")
    Workbench(X, config, 0).run(Unit("runs", k))
    measured = resident("VmHWM") - before
stated = Workbench.peak_bytes(n, v, X.nnz, k)
print(json.dumps({"measured": measured, "stated": stated, "dense": n * v * 4}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_peak_memory_is_what_the_docstring_states() -> None:
    # Of two, since pages of libraries that a busy machine has dropped count with the first that needs them.
    runs = [subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True).stdout for _ in range(2)]
    measured = min(map(json.loads, runs), key=lambda run: run["measured"])
    assert 0.6 * measured["stated"] <= measured["measured"] <= 1.1 * measured["stated"]
    assert measured["stated"] < measured["dense"]
