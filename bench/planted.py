"""Planted corpora: topics known by construction, as counts, at any size."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

COMMON = 60
"""Number of the most frequent words, which belong to no topic."""


@dataclass(frozen=True, eq=False)
class Planted:
    """A corpus and its truth.

    Args:
        counts: float32 csr, shape (n, words).
        labels: int64, shape (n, 2): super-topic, and sub-topic within it.
        fine: int64, shape (n,): both in one number.
    """

    counts: csr_array
    labels: NDArray[np.int64]
    fine: NDArray[np.int64]


def plant(
    seed: int,
    documents: int = 1500,
    words: int = 3400,
    supers: int = 3,
    subs: int = 2,
    *,
    imbalance: float = 0.0,
    length: tuple[int, int] = (60, 240),
) -> Planted:
    """Draw documents from a mixture of a Zipf background, a super-topic and a sub-topic.

    A word of a document is background with probability 0.35, of its super-topic 0.29, of its sub-topic 0.36. With one
    sub-topic per super-topic the topics are flat.

    Args:
        seed: of every draw.
        documents: how many.
        words: size of the vocabulary.
        supers: number of super-topics, of 250 words each.
        subs: sub-topics of each, of 120 words each.
        imbalance: a topic's share is proportional to 1 / rank ** imbalance; 0 makes all equally likely.
        length: smallest and largest number of words of a document.
    """
    rng = np.random.default_rng(seed)
    background = 1 / np.arange(1, words + 1) ** 1.05
    background /= background.sum()

    def topic(size: int) -> NDArray[np.float64]:
        chosen = rng.choice(np.arange(COMMON, words), size, replace=False)
        weights = rng.gamma(0.7, 1, size) + 0.02
        distribution = np.zeros(words)
        distribution[chosen] = weights / weights.sum()
        return distribution

    by_super = [topic(250) for _ in range(supers)]
    by_sub = [topic(120) for _ in range(supers * subs)]
    shares = 1 / np.arange(1, supers * subs + 1) ** imbalance
    fine = rng.choice(rng.permutation(supers * subs), documents, p=shares / shares.sum())
    lengths = rng.integers(*length, documents)
    rows, columns = [], []
    for number in range(supers * subs):
        inside = np.flatnonzero(fine == number)
        mixture = 0.35 * background + 0.65 * (0.45 * by_super[number // subs] + 0.55 * by_sub[number])
        total = int(lengths[inside].sum())
        rows.append(np.repeat(inside, lengths[inside]).astype(np.int32))
        columns.append(np.searchsorted(mixture.cumsum() / mixture.sum(), rng.random(total)).astype(np.int32))
    placed = np.concatenate(rows), np.minimum(np.concatenate(columns), words - 1)
    counts = csr_array((np.ones(placed[0].size, np.float32), placed), shape=(documents, words))
    return Planted(counts, np.stack([fine // subs, fine % subs], axis=1), fine)
