"""Planted texts: every stem has a true vector, and a text points where its stems do."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.lexicon.terms import count_stems, inverse_document_frequencies, weigh_texts

DIMS = 12


def planted(
    texts: int = 300, stems: int = 80, words: int = 9, noise: float = 0.0, seed: int = 0
) -> tuple[csr_array, NDArray[np.float32], NDArray[np.float32]]:
    """Counts of stems, shape (n, v), unit vectors of the texts, (n, d), and true vectors of the stems, (v, d)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(stems, DIMS)).astype(np.float32)
    frequency = 1 / np.arange(1, stems + 1)
    drawn = rng.choice(stems, size=(texts, words), p=frequency / frequency.sum())
    counts = count_stems(np.repeat(np.arange(texts), words), drawn.ravel(), np.ones(texts * words), (texts, stems))
    counts.sum_duplicates()
    vectors = weigh_texts(counts, inverse_document_frequencies(counts)) @ truth
    vectors += noise * rng.normal(size=vectors.shape).astype(np.float32)
    return counts, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth
