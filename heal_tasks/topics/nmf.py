"""Non-negative matrix factorisation of a sparse matrix, several runs at once, and projection of new rows.

Hierarchical alternating least squares with a few inner sweeps per sparse product: Gillis and Glineur, Accelerated
Multiplicative Updates and Hierarchical ALS Algorithms for Nonnegative Matrix Factorization, 2012, arXiv 1107.5194. The
runs of one k are updated together as tensors of shape (runs, k, n), on the CPU or a GPU, and each is taken out when it
has converged. The error follows from products that are computed anyway, so testing the tolerance is free and X is never
made dense.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.topics.operand import Floats, Operand, Sketch, on_device, products, truncated_svd
from heal_tasks.topics.seeds import Seed

# Two rounds of coordinate updates per product: half the CPU time of four at equal errors on nodes of 150 documents.
INNER_SWEEPS = 2
MAX_ITERATIONS = 200
TOLERANCE = 1e-5
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Runs:
    """Several factorisations with the same k, on a device."""

    W: torch.Tensor  # (runs, k, n), float32: document factors
    H: torch.Tensor  # (runs, k, v), float32: term factors
    errors: NDArray[np.float64]  # (runs,): relative errors ||X - WH|| / ||X||
    iterations: int  # rounds of all runs together


def start_random(operand: Operand, k: int, seeds: Sequence[Seed]) -> Runs:
    """Draw uniform factors on the scale of X, one run per seed; the same on every device."""
    (n, v), device = operand.rows.shape, operand.rows.device
    check_k(k, (n, v))
    scale = np.sqrt(float(operand.rows.values().sum()) / (n * v) / k) if operand.rows.values().numel() else 0.0
    W, H = np.empty((len(seeds), k, n), np.float32), np.empty((len(seeds), k, v), np.float32)
    for run, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        rng.random(out=W[run], dtype=np.float32)
        rng.random(out=H[run], dtype=np.float32)
    W *= scale
    H *= scale
    return Runs(on_device(W, device), on_device(H, device), np.full(len(seeds), np.inf), 0)


def start_nndsvd(operand: Operand, k: int, seed: Seed) -> Runs:
    """Start one run from the stronger signed part of each pair of singular vectors.

    Boutsidis and Gallopoulos, SVD based initialization, 2008. Zeros are filled with a small constant, because a
    coordinate update can leave zero but an all-zero topic cannot.
    """
    n, v = operand.rows.shape
    check_k(k, (n, v))
    U, S, right = truncated_svd(operand, k, seed)
    left = U.t()  # (k, n); right: (k, v)
    pairs = [(torch.clamp(sign * left, min=0), torch.clamp(sign * right, min=0)) for sign in (1, -1)]
    strengths = [W.norm(dim=1) * H.norm(dim=1) for W, H in pairs]
    stronger = (strengths[0] >= strengths[1])[:, None]
    W, H = (torch.where(stronger, pairs[0][side], pairs[1][side]) for side in (0, 1))
    weight = torch.sqrt(S * torch.maximum(*strengths))[:, None]
    filler = float(operand.rows.values().sum()) / (n * v) / 100
    W, H = (torch.clamp(weight * F / (F.norm(dim=1, keepdim=True) + _TINY), min=filler) for F in (W, H))
    return Runs(W[None].contiguous(), H[None].contiguous(), np.full(1, np.inf), 0)


def improve(
    operands: Sequence[Operand], runs: Runs, *, max_iterations: int = MAX_ITERATIONS, tolerance: float = TOLERANCE
) -> Runs:
    """Update the factors until every run has converged; the error of a run never rises from round to round.

    Args:
        operands: one per run, of one shape.
        runs: where to start from; not modified.
        max_iterations: most rounds per run.
        tolerance: a run stops when a round lowers its squared error by less than this share of it.
    """
    W, H, norms = runs.W.clone(), runs.H.clone(), np.array([operand.squared_norm for operand in operands])
    done_W, done_H, errors = W.clone(), H.clone(), np.zeros(len(operands))
    going, squared, iterations = np.flatnonzero(norms > 0), np.full(len(operands), np.inf), 0
    done_W[norms == 0], done_H[norms == 0] = 0, 0
    W, H, squared = W[going], H[going], squared[going]
    by_terms = H @ H.mT  # (runs, k, k)
    for iteration in range(1, max_iterations + 1):
        if not going.size:
            break
        iterations += going.size
        _sweep(W, products([operands[run].rows for run in going.tolist()], H), by_terms)
        gram, target = W @ W.mT, products([operands[run].columns for run in going.tolist()], W)
        _sweep(H, target, gram)
        by_terms = H @ H.mT
        before, squared = squared, _squared_errors(norms[going], H, target, gram, by_terms)
        converged = before - squared < tolerance * squared
        if iteration == max_iterations:
            converged[:] = True
        if converged.any():
            left, kept = going[converged], np.flatnonzero(~converged)
            done_W[left], done_H[left] = W[converged], H[converged]
            errors[left] = np.sqrt(np.maximum(squared[converged], 0) / norms[left])
            going, W, H, squared, by_terms = going[kept], W[kept], H[kept], squared[kept], by_terms[kept]
    return Runs(done_W, done_H, errors, runs.iterations + iterations)


def improve_on_sketch(sketch: Sketch, runs: Runs, rounds: int) -> Runs:
    """Update copies of the factors for some rounds on a sketch of the matrix; errors are those on the sketch."""
    W, H = runs.W.clone(), runs.H.clone()
    by_terms = H @ H.mT
    for _ in range(rounds):
        _sweep(W, sketch.with_terms(H), by_terms)
        gram, target = W @ W.mT, sketch.with_documents(W)
        _sweep(H, target, gram)
        by_terms = H @ H.mT
    norms = np.full(W.shape[0], max(sketch.squared_norm, _TINY))
    errors = np.sqrt(np.maximum(_squared_errors(norms, H, target, gram, by_terms), 0) / norms)
    return Runs(W, H, errors, runs.iterations + rounds * W.shape[0])


def project(X: csr_array, term_factors: Floats, *, max_iterations: int = 200, tolerance: float = 1e-6) -> Floats:
    """Solve non-negative least squares for the document factors of rows, with fixed term factors.

    All rows are solved together; the result of a row depends on the other rows only within the tolerance.

    Args:
        X: float32 csr, shape (n, v).
        term_factors: shape (k, v).
        max_iterations: most coordinate sweeps.
        tolerance: stop when no entry moved by more than this share of the largest entry.

    Returns:
        Shape (n, k), non-negative.

    Raises:
        InputError: the widths differ.
    """
    if X.shape[1] != term_factors.shape[1]:
        raise InputError(f"rows with {X.shape[1]} terms, factors with {term_factors.shape[1]}; use one vocabulary")
    if 0 in X.shape:
        return np.zeros((X.shape[0], term_factors.shape[0]), np.float32)
    target = on_device(np.ascontiguousarray((X @ term_factors.T).T))[None]
    gram, W = on_device(term_factors @ term_factors.T)[None], torch.zeros_like(target)
    for _ in range(max_iterations):
        before = W.clone()
        _sweep(W, target, gram, sweeps=1)
        if float((W - before).abs().max()) <= tolerance * float(W.max()):
            break
    return W[0].t().contiguous().numpy()


def residuals(X: csr_array, document_factors: Floats, term_factors: Floats) -> Floats:
    """Relative reconstruction error ||x - wH|| / ||x|| of each row of X, shape (n,); 1 for an empty row.

    Args:
        X: float32 csr, shape (n, v).
        document_factors: shape (n, k).
        term_factors: shape (k, v).
    """
    if 0 in X.shape:
        return np.ones(X.shape[0], np.float32)
    W = document_factors.astype(np.float64)
    squares = np.asarray((X * X).sum(axis=1), np.float64).ravel()
    cross = np.einsum("nk,nk->n", W, X @ term_factors.T)
    model = np.einsum("nk,kl,nl->n", W, (term_factors @ term_factors.T).astype(np.float64), W)
    ratio = np.divide(squares - 2 * cross + model, squares, out=np.ones_like(squares), where=squares > 0)
    return np.asarray(np.sqrt(np.clip(ratio, 0, None)), np.float32)


def check_k(k: int, shape: tuple[int, ...]) -> None:
    """Refuse a number of topics that is not possible for a matrix of this shape."""
    if not 1 <= k <= min(shape):
        raise InputError(f"k={k} topics for a matrix of shape {tuple(shape)}; use 1 <= k <= {min(shape)}")


def _sweep(F: torch.Tensor, target: torch.Tensor, gram: torch.Tensor, sweeps: int = INNER_SWEEPS) -> None:
    """Update F (runs, k, n) in place towards min ||X - G.T F||, given target = G X and gram = G G.T.

    Row j becomes max(0, (target_j - sum of gram_jl F_l over l != j) / gram_jj). The division is done once beforehand,
    which leaves two calls per row: on nodes of a few hundred documents the calls are most of the cost.
    """
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    alive = diagonal > _TINY
    step = torch.where(alive, 1 / diagonal, 0)[:, :, None]  # (runs, k, 1)
    target, gram = target * step, gram * step
    # A topic without weight keeps its row, so that it can gain weight again.
    torch.diagonal(gram, dim1=1, dim2=2).copy_(torch.where(alive, 0.0, -1.0))
    rows = list(zip(*(torch.split(part, 1, dim=1) for part in (target, gram, F)), strict=True))
    for _ in range(sweeps):
        for wanted, weights, row in rows:
            torch.clamp(torch.baddbmm(wanted, weights, F, alpha=-1), min=0, out=row)


def _squared_errors(
    norms: NDArray[np.float64], H: torch.Tensor, target: torch.Tensor, gram: torch.Tensor, by_terms: torch.Tensor
) -> NDArray[np.float64]:
    """||X - WH||^2 = ||X||^2 - 2 <W.T X, H> + <W.T W, H H.T> per run; sums over topics in float64."""
    cross, model = (torch.sum(part, dim=2).double().sum(dim=1) for part in (target * H, gram * by_terms))
    explained: NDArray[np.float64] = (2 * cross - model).cpu().numpy()
    return norms - explained
