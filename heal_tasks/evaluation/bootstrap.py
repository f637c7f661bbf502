"""Bootstrap intervals of a mean and of a paired difference.

Questions of one document are not independent, so a resample draws documents (groups) instead of questions where the
caller gives them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import InputError

# With so many the ends of a 95 % interval vary by about a fiftieth of its width from seed to seed.
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % percentile bootstrap interval."""

    value: float  # the mean
    low: float  # 2.5th percentile of the resampled means
    high: float  # 97.5th percentile
    n: int  # number of values


def mean_interval(
    values: NDArray[np.floating], *, seed: int, groups: NDArray[np.generic] | None = None, block: int = 1 << 21
) -> Interval:
    """Mean of values with its 95 % interval; a single value has low = high = value.

    Args:
        values: shape (n,).
        seed: of the resampling; the same seed gives the same interval.
        groups: shape (n,): values of one group are drawn together. A single group has no spread; its values are then
            drawn one by one, which gives too narrow an interval.
        block: draws at a time; bounds the memory and changes nothing else.

    Raises:
        InputError: no values, one that is not finite, or groups of another length.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise InputError(f"an interval needs at least one value in one dimension, got shape {data.shape}")
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        raise InputError(f"value {bad[0]} is {data[bad[0]]}; score every question before taking an interval")
    sums, sizes = data, np.ones_like(data)
    if groups is not None:
        if len(groups) != len(data):
            raise InputError(f"{len(groups)} groups do not fit {len(data)} values; pass one group per value")
        member = np.unique(groups, return_inverse=True)[1]
        if member.max() > 0:
            sums = np.bincount(member, weights=data).astype(np.float64)
            sizes = np.bincount(member).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    step = max(1, block // len(sums))
    for start in range(0, _RESAMPLES, step):
        drawn = rng.integers(0, len(sums), size=(min(step, _RESAMPLES - start), len(sums)))
        means[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def paired_difference(
    a: NDArray[np.floating], b: NDArray[np.floating], *, seed: int, groups: NDArray[np.generic] | None = None
) -> Interval:
    """Mean of a - b over the same questions, both of shape (n,), with its 95 % interval; above zero a is better.

    ``seed`` and ``groups`` (the documents of the questions) as in ``mean_interval``.

    Raises:
        InputError: the lengths differ, or as in ``mean_interval``.
    """
    if np.shape(a) != np.shape(b):
        raise InputError(f"values of shapes {np.shape(a)} and {np.shape(b)} are not pairs; score the same questions")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_interval(difference, seed=seed, groups=groups)
