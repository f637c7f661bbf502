"""Rows of the database as arrays."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.batches import batched

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]

_ROWS = 20_000


def arrays(rows: Sequence[tuple[Any, ...]], *types: Any) -> list[NDArray[Any]]:
    """The columns of rows as arrays of these types, each of shape (n,)."""
    found = zip(*rows, strict=True) if rows else [()] * len(types)
    return [np.array(column, dtype=kind) for column, kind in zip(found, types, strict=True)]


def streamed_arrays(rows: Iterable[tuple[Any, ...]], *types: Any) -> list[NDArray[Any]]:
    """As ``arrays``, of rows that need not be in memory together: a number takes a fifth of its space as an object."""
    parts = [arrays(batch, *types) for batch in batched(rows, _ROWS)] or [arrays([], *types)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def rows_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of each wanted id in ``ids``, int64, shape (n,), ascending; -1 where it is absent."""
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[found] == wanted, found, -1)
