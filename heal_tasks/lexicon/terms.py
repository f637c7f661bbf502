"""Texts as weighted stems: the rows of the least-squares problem that gives every stem its vector."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]


def count_stems(
    texts: NDArray[np.integer], stems: NDArray[np.integer], counts: NDArray[np.integer], shape: tuple[int, int]
) -> csr_array:
    """Arrange the stems of texts as a matrix.

    Args:
        texts: (e,): row of the text of each entry.
        stems: (e,): number of its stem.
        counts: (e,): occurrences of the stem in the text.
        shape: number of texts and of stems.

    Returns:
        float32, shape (n, v).
    """
    return csr_array((counts.astype(np.float32), (texts, stems)), shape=shape)


def texts_with(counts: csr_array) -> Int64Array:
    """The number of texts that have each stem, int64, shape (v,)."""
    total, block = np.zeros(counts.shape[1], dtype=np.int64), 1 << 22  # np.bincount makes a copy of 64 bits
    for first in range(0, counts.nnz, block):
        total += np.bincount(counts.indices[first : first + block], minlength=counts.shape[1])
    return total


def inverse_document_frequencies(counts: csr_array) -> Float32Array:
    """The weight of each stem, ln(1 + n / texts that have it); float32, shape (v,); 0 for a stem that no text has."""
    texts = texts_with(counts)
    return np.where(texts, np.log1p(counts.shape[0] / np.maximum(texts, 1)), 0).astype(np.float32)


def weigh_texts(counts: csr_array, weights: Float32Array) -> csr_array:
    """Weigh stems by (1 + ln occurrences) times ``weights``, shape (v,), each text scaled to unit length.

    A text without a weighted stem stays zero.
    """
    return _weigh(counts, 1 + np.log(counts.data), weights)


def weigh_questions(counts: csr_array, weights: Float32Array) -> csr_array:
    """As ``weigh_texts``, with every stem counted once, as SQL does: a question seldom repeats a word."""
    return _weigh(counts, np.ones_like(counts.data), weights)


def _weigh(counts: csr_array, occurrences: Float32Array, weights: Float32Array) -> csr_array:
    """The stems of texts times ``weights``, each text scaled to unit length."""
    values = (occurrences * weights[counts.indices]).astype(np.float32, copy=False)
    owners = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    lengths = np.sqrt(np.bincount(owners, values.astype(np.float64) ** 2, minlength=counts.shape[0]))
    values /= np.where(lengths > 0, lengths, 1)[owners].astype(np.float32)
    return csr_array((values, counts.indices, counts.indptr), shape=counts.shape)
