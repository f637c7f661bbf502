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
ASKED_WEIGHT = 0.5
"""Weight of a stem that only questions have, where a stem of a single chunk has 1. With .5 human questions of three
collections gain up to .019 nDCG@10 by text and .011 by encoder; with 1 ATT&CK's gain .01 less by text."""


@dataclass(frozen=True)
class AnsweredQuestions:
    """Questions with the vectors of their answers."""

    counts: csr_array  # (m, v): their stems
    targets: Float32Array  # (m, d): the mean direction of the chunks that answer each, of unit length


@dataclass(frozen=True)
class Lexicon:
    """Stems with their vectors."""

    chunks: Int64Array  # (v,): chunks that have the stem
    weights: Float32Array  # (v,): inverse document frequency; zero where neither a chunk nor a fitted question has it
    vectors: Float32Array  # (v, d): zero where the weight is

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
    weights, chunks = inverse_document_frequencies(counts), texts_with(counts)
    if questions is not None and question_weight > 0:
        asked = (chunks == 0) & (texts_with(questions.counts) > 0)
        weights[asked] = asked_weight(counts.shape[0])
    sample = slice(0, None, -(-counts.shape[0] // most_chunks) or 1)
    texts, wanted = _texts(counts[sample], targets[sample], weights, questions, question_weight)
    vectors = fit_stems(texts, wanted, ridge=ridge, start=start).vectors
    lexicon = Lexicon(chunks, weights, vectors)
    missing = np.flatnonzero((texts_with(texts) == 0) & (chunks > 0))
    extend(lexicon, counts, targets, missing, ridge=ridge)
    return lexicon


def asked_weight(chunks: int) -> float:
    """The weight of a stem that questions have and none of so many chunks."""
    return ASKED_WEIGHT * float(np.log1p(chunks))


def extend(
    lexicon: Lexicon,
    counts: csr_array,
    targets: Float32Array,
    new: Int64Array,
    *,
    ridge: float,
    questions: AnsweredQuestions | None = None,
    question_weight: float = 0.0,
) -> None:
    """Fit, in place, vectors of stems that a lexicon has none of, to the texts that have them; the others stay.

    The new stems explain what the known ones leave: ridge regression on the difference between each text's target and
    the sum of its known stems.

    Args:
        lexicon: of v stems, with weights of the new ones.
        counts: float32, shape (n, v): stems of the chunks, at least of all that have a new one.
        targets: float32, shape (n, d).
        new: int64, shape (m,): the new stems.
        ridge: as in ``fit_stems``.
        questions: as in ``fit_lexicon``.
        question_weight: as in ``fit_lexicon``.
    """
    is_new = np.zeros(counts.shape[1], dtype=np.float32)
    is_new[new] = 1
    rows = np.flatnonzero(counts @ is_new)
    if questions is not None:
        asked = np.flatnonzero(questions.counts @ is_new)
        questions = AnsweredQuestions(csr_array(questions.counts[asked]), questions.targets[asked])
    vectors = lexicon.vectors
    texts, wanted = _texts(counts[rows], targets[rows], lexicon.weights, questions, question_weight)
    if not texts.shape[0]:
        return
    vectors[new] = 0
    own = csr_array(texts[:, new])
    for first in range(0, vectors.shape[1], BLOCK_DIMS):  # a fifth of a million chunks have new stems
        part = slice(first, first + BLOCK_DIMS)
        left = wanted[:, part] - texts @ vectors[:, part]
        vectors[new, part] = fit_stems(own, left, ridge=ridge).vectors


def _texts(
    counts: csr_array,
    targets: Float32Array,
    weights: Float32Array,
    questions: AnsweredQuestions | None,
    question_weight: float,
) -> tuple[csr_array, Float32Array]:
    """The rows of the regression and their targets: chunks, and questions by their weight."""
    texts = weigh_texts(csr_array(counts), weights)
    if questions is None or not question_weight > 0:
        return texts, targets
    root = np.float32(np.sqrt(question_weight))
    asked = root * weigh_questions(questions.counts, weights)
    return csr_array(vstack([texts, asked])), np.concatenate([targets, root * questions.targets])


def with_lexicon(encoded: Float32Array, by_lexicon: Float32Array, weight: float) -> Float32Array:
    """Add the lexicon's vectors to an encoder's, both of unit length, shape (m, d); float32, of unit length."""
    return unit_rows(encoded + np.float32(weight) * by_lexicon)


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Scale rows, shape (m, d), to unit length; zero rows stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
