"""A sparse matrix on a device, for products with dense factors: with its transpose, or approximated by a sketch.

Both orders are stored because a product with a transposed view takes 50 times as long (torch 2.13, CPU, 1,500 x 2,913
with 149,278 entries times six columns: 8.9 ms against 0.18 ms with a copy of its own).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from heal_tasks.core.errors import InputError
from heal_tasks.topics.seeds import Seed

Floats = NDArray[np.float32]

SKETCH_RANK = 32
_OVERSAMPLING, _POWER_ITERATIONS = 5, 4


@dataclass(frozen=True, eq=False)
class Operand:
    """A matrix X and its transpose; 20 bytes per stored entry."""

    rows: torch.Tensor  # X, float32 sparse csr tensor, shape (n, v)
    columns: torch.Tensor  # its transpose, shape (v, n)
    order: NDArray[np.int32]  # (nnz,): index in rows of each stored entry of columns
    squared_norm: float  # sum of the squared entries, in float64

    @classmethod
    def of(cls, X: csr_array, device: str = "cpu") -> "Operand":
        """Copy a float32 csr matrix of shape (n, v) to a device of torch."""
        positions = csr_array((np.arange(X.nnz, dtype=np.int32), X.indices, X.indptr), shape=X.shape)
        transposed = positions.T.tocsr()
        order = transposed.data
        rows = _csr_tensor(X.indptr, X.indices, X.data, X.shape, device)
        columns = _csr_tensor(transposed.indptr, transposed.indices, X.data[order], transposed.shape, device)
        return cls(rows, columns, order, _squared_norm(rows))

    def with_entries(self, entries: Floats) -> "Operand":
        """Replace the stored entries, shape (nnz,), in csr order; the copy takes 8 more bytes per stored entry."""
        rows = _replaced(self.rows, entries)
        return Operand(rows, _replaced(self.columns, entries[self.order]), self.order, _squared_norm(rows))


@dataclass(frozen=True, eq=False)
class Sketch:
    """X approximated by ``left.T @ right``, its strongest singular vectors, for the race of starts.

    Zhou, Cichocki and Xie, Fast nonnegative matrix/tensor factorization based on low-rank approximation, 2012. A start
    spends its first rounds on separating the topics, for which these vectors suffice: searches that begin on 32 of them
    end in the same minima as those on the whole matrix (k = 8 on 898 ATT&CK techniques, eight searches each: mean error
    .93525 and .93527, best .93521 both), for .64 of the CPU time there and .46 with ten planted topics, as two dense
    products replace a sparse one. With 16 or 64 vectors the errors are alike.
    """

    left: torch.Tensor  # float32, shape (rank, n)
    right: torch.Tensor  # float32, shape (rank, v)
    squared_norm: float  # that of X itself

    @classmethod
    def of(cls, operand: Operand, rank: int, seed: Seed) -> "Sketch":
        """Sketch a matrix of shape (n, v) with ``rank`` singular vectors, or min(n, v) if there are no more."""
        left, strengths, right = truncated_svd(operand, min(rank, *operand.rows.shape), seed)
        return cls((left * strengths).t().contiguous(), right.contiguous(), operand.squared_norm)

    def with_terms(self, H: torch.Tensor) -> torch.Tensor:
        """``H[r] @ X.T`` for every run r: float32, shape (runs, k, n), contiguous, from H of shape (runs, k, v)."""
        return (H.flatten(0, 1) @ self.right.t() @ self.left).view(*H.shape[:2], -1)

    def with_documents(self, W: torch.Tensor) -> torch.Tensor:
        """``W[r] @ X`` for every run r: float32, shape (runs, k, v), contiguous, from W of shape (runs, k, n)."""
        return (W.flatten(0, 1) @ self.left.t() @ self.right).view(*W.shape[:2], -1)


def check_matrix(X: csr_array) -> None:
    """Refuse a matrix that cannot be factorised.

    Raises:
        InputError: an entry is negative, infinite or not a number, the message says which; or entries are unsorted.
    """
    if not X.has_sorted_indices:
        raise InputError(
            "the entries of a row are not in the order of their columns; call sort_indices() on the matrix"
        )
    bad = np.flatnonzero(~(np.isfinite(X.data) & (X.data >= 0)))
    if bad.size:
        row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
        raise InputError(
            f"entry {X.data[bad[0]]} in row {row}, column {X.indices[bad[0]]} ({bad.size} such entries); a matrix to "
            "factorise has finite entries of 0 or more"
        )


def truncated_svd(operand: Operand, rank: int, seed: Seed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the ``rank`` strongest singular vectors of a matrix, shape (n, v), by a randomised SVD.

    Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithm 4.4.

    Returns:
        U, float32, shape (n, rank); the singular values, shape (rank,), descending; V.T, shape (rank, v).
    """
    (n, v), device = operand.rows.shape, operand.rows.device
    start = np.random.default_rng(seed).standard_normal((v, min(rank + _OVERSAMPLING, n, v)), np.float32)
    basis = on_device(start, device)
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(operand.rows @ basis)[0]
        basis = torch.linalg.qr(operand.columns @ basis)[0]
    U, S, Vt = torch.linalg.svd(operand.rows @ basis, full_matrices=False)
    return U[:, :rank], S[:rank], Vt[:rank] @ basis.t()


def products(matrices: Sequence[torch.Tensor], factors: torch.Tensor) -> torch.Tensor:
    """``factors[r] @ matrices[r].T`` for every run r: float32, shape (runs, k, n), contiguous.

    Args:
        matrices: one csr tensor of shape (n, v) per run. If all are the same one, a single wide product serves every
            run at half the cost.
        factors: float32, shape (runs, k, v).
    """
    runs, k, _ = factors.shape
    if all(matrix is matrices[0] for matrix in matrices):
        wide = matrices[0] @ factors.reshape(runs * k, -1).t().contiguous()
        return wide.t().contiguous().view(runs, k, -1)
    return torch.stack([(matrix @ part.t().contiguous()).t() for matrix, part in zip(matrices, factors, strict=True)])


def on_device(array: NDArray[Any], device: str | torch.device = "cpu") -> torch.Tensor:
    """Copy an array to a tensor in memory that torch allocated.

    That memory is aligned to 64 bytes, as numpy's is not, and BLAS rounds differently by alignment: without the copy,
    one run in three of the same factorisation ended in other last digits.
    """
    return torch.from_numpy(array).clone().to(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute products on one thread: nodes and runs are spread over threads, and rounding must not depend on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


def _csr_tensor(
    indptr: NDArray[np.integer], indices: NDArray[np.integer], data: Floats, shape: tuple[int, ...], device: str
) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch calls its csr tensors a beta feature, once per process.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            on_device(indptr.astype(np.int32), device), on_device(indices.astype(np.int32), device),
            on_device(data, device), size=shape, check_invariants=False,
        )  # fmt: skip


def _replaced(matrix: torch.Tensor, entries: Floats) -> torch.Tensor:
    return torch.sparse_csr_tensor(
        matrix.crow_indices(), matrix.col_indices(), on_device(entries, matrix.device),
        size=matrix.shape, check_invariants=False,
    )  # fmt: skip


def _squared_norm(matrix: torch.Tensor) -> float:
    return float(matrix.values().double().square().sum())
