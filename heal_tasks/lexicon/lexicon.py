"""The lexicon of a corpus: which vector and which weight each stem gets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from heal_tasks.lexicon.fit import BLOCK_DIMS, fit_stems
from heal_tasks.lexicon.terms import inverse_document_frequencies, texts_with, weigh_questions, weigh_texts

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

MOST_CHUNKS = 100_000
"""Chunks that the vectors are fitted to, at most: 22 CPU seconds and .7 GiB for so many (bench/RESULTS.md)."""


@dataclass(frozen=True)
class AnsweredQuestions:
    """Questions with the vectors of their answers."""

    counts: csr_array  # (m, v): their stems
    targets: Float32Array  # (m, d): the mean direction of the chunks that answer each, of unit length


@dataclass(frozen=True)
class Lexicon:
    """Stems with their vectors."""

    chunks: Int64Array  # (v,): chunks that have the stem
    weights: Float32Array  # (v,): inverse document frequency
    vectors: Float32Array  # (v, d): zero where no chunk has the stem

    def question_vectors(self, counts: csr_array) -> Float32Array:
        """Vectors of questions, float32, shape (m, d), from their stems, shape (m, v); zero without a known stem."""
        return unit_rows(weigh_questions(counts, self.weights) @ self.vectors)


def fit_lexicon(
    counts: csr_array,
    targets: Float32Array,
    *,
    ridge: float,
    questions: AnsweredQuestions | None = None,
    question_weight: float = 0.0,
    start: Float32Array | None = None,
    most_chunks: int = MOST_CHUNKS,
) -> Lexicon:
    """Fit a vector to every stem of a corpus, so that the stems of a text point where the text is.

    Args:
        counts: occurrences of stems in chunks, float32, shape (n, v); rows in an order that is random with respect to
            content; where there are more than ``most_chunks``, rows at equal distances are a sample.
        targets: vectors of the chunks, float32, shape (n, d).
        ridge: as in ``fit_stems``.
        questions: questions to fit as well, each with ``question_weight`` where a chunk has 1.
        question_weight: 0 leaves them out.
        start: vectors of a similar lexicon, float32, shape (v, d), from which the iterations begin.
        most_chunks: chunks that are fitted.
    """
    weights = inverse_document_frequencies(counts)
    sample = slice(0, None, -(-counts.shape[0] // most_chunks) or 1)
    texts, wanted = weigh_texts(csr_array(counts[sample]), weights), targets[sample]
    if questions is not None and question_weight > 0:
        root = np.float32(np.sqrt(question_weight))
        texts = csr_array(vstack([texts, root * weigh_questions(questions.counts, weights)]))
        wanted = np.concatenate([wanted, root * questions.targets])
    vectors = fit_stems(texts, wanted, ridge=ridge, start=start).vectors
    lexicon = Lexicon(texts_with(counts), weights, vectors)
    missing = np.flatnonzero((texts_with(texts) == 0) & (lexicon.chunks > 0))
    _fit_new(lexicon, counts, targets, missing, ridge)
    return lexicon


def extend(lexicon: Lexicon, counts: csr_array, targets: Float32Array, new: Int64Array, *, ridge: float) -> Lexicon:
    """Fit vectors of stems that a lexicon has none of, to the chunks that have them; the others stay.

    The new stems explain what the known ones leave: ridge regression on the difference between each chunk's target and
    the sum of its known stems.

    Args:
        lexicon: of v stems, with weights of the new ones.
        counts: float32, shape (n, v): stems of the chunks, at least of all that have a new one.
        targets: float32, shape (n, d).
        new: int64, shape (m,): the new stems.
        ridge: as in ``fit_stems``.
    """
    extended = Lexicon(lexicon.chunks, lexicon.weights, lexicon.vectors.copy())
    _fit_new(extended, counts, targets, new, ridge)
    return extended


def _fit_new(lexicon: Lexicon, counts: csr_array, targets: Float32Array, new: Int64Array, ridge: float) -> None:
    """As ``extend``, in place."""
    is_new = np.zeros(counts.shape[1], dtype=np.float32)
    is_new[new] = 1
    rows = np.flatnonzero(counts @ is_new)
    if not len(rows):
        return
    texts, vectors = weigh_texts(csr_array(counts[rows]), lexicon.weights), lexicon.vectors
    vectors[new] = 0
    own = csr_array(texts[:, new])
    for first in range(0, vectors.shape[1], BLOCK_DIMS):  # a fifth of a million chunks have new stems
        part = slice(first, first + BLOCK_DIMS)
        left = targets[rows, part] - texts @ vectors[:, part]
        vectors[new, part] = fit_stems(own, left, ridge=ridge).vectors


def with_lexicon(encoded: Float32Array, by_lexicon: Float32Array, weight: float) -> Float32Array:
    """Add the lexicon's vectors to an encoder's, both of unit length, shape (m, d); float32, of unit length."""
    return unit_rows(encoded + np.float32(weight) * by_lexicon)


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Scale rows, shape (m, d), to unit length; zero rows stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
