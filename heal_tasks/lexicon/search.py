"""Search by vector and words in memory: the same ranking as ``heal.find`` and ``heal.hybrid_search`` give in SQL."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from heal_tasks.lexicon.lexicon import Lexicon, with_lexicon
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.terms import texts_with

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]

RARE_CHUNKS = 20
"""Chunks found by their words alone: those of a question's rarest stems that together so many chunks have, at most.
With 10 to 50 nDCG@10 is that of a search of all chunks within .001 (ATT&CK, encoder + lexicon)."""
_MOST_POSITIONS = 255  # that PostgreSQL keeps of a stem
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Words:
    """The stems of chunks, ready to be searched."""

    counts: csr_array  # (n, v): occurrences
    values: Float32Array  # one per entry of ``counts``: PostgreSQL's ts_rank of one stem, up to a factor
    chunks_of: csc_array  # (n, v): only stems that at most RARE_CHUNKS chunks have

    @classmethod
    def of(cls, counts: csr_array) -> "Words":
        """Prepare the stems of chunks, float32, shape (n, v)."""
        # ts_rank adds 1 / j^2 for the j-th position of a stem.
        ranks = np.cumsum(1 / np.arange(1, _MOST_POSITIONS + 1) ** 2).astype(np.float32)
        is_rare, values, found = texts_with(counts) <= RARE_CHUNKS, np.empty(counts.nnz, np.float32), list[Int64Array]()
        for first in range(0, counts.nnz, _BLOCK):  # a place in a table has 64 bits
            part = slice(first, first + _BLOCK)
            values[part] = ranks[np.minimum(counts.data[part], _MOST_POSITIONS).astype(np.int64) - 1]
            found.append(first + np.flatnonzero(is_rare[counts.indices[part]]))
        rare = np.concatenate([np.empty(0, dtype=np.int64), *found])
        rows = np.searchsorted(counts.indptr, rare, side="right") - 1
        chunks_of = csc_array((np.ones(len(rows), bool), (rows, counts.indices[rare])), shape=counts.shape)
        return cls(counts, values, chunks_of)


@dataclass(frozen=True)
class LexicalSearch:
    """The questions of a corpus, ready to be searched by a lexicon."""

    record: LexiconRecord
    lexicon: Lexicon
    words: Words
    questions: csr_array  # (q, v): stems of the questions
    vectors: Float32Array  # (q, d): vectors of the questions by the lexicon; zero without a known stem

    def with_encoder(self, encoded: Float32Array, rows: Int64Array) -> Float32Array:
        """Vectors of some questions by the encoder, float32, shape (m, d), with the lexicon's added."""
        return with_lexicon(encoded, self.vectors[rows], self.record.lexicon_weight)

    def add_words(
        self, found: Int64Array, asked: Float32Array, rows: Int64Array, chunks: Float32Array
    ) -> tuple[Int64Array, Float32Array]:
        """Rank the chunks that a search by vector found, and those with rare stems, by similarity plus shared words.

        Args:
            found: int64, shape (m, c): the nearest chunks of each question; -1 for an empty place.
            asked: vectors of the questions, float32, shape (m, d); a zero vector finds nothing.
            rows: int64, shape (m,): the questions.
            chunks: vectors of the chunks, float32, shape (n, d).

        Returns:
            Chunk rows int64, shape (m, c), best first, -1 for an empty place; scores float32, shape (m, c).
        """
        ranked, scores = np.full_like(found, -1), np.full(found.shape, -np.inf, dtype=np.float32)
        weight_of = np.zeros(self.questions.shape[1], dtype=np.float32)
        for place, (row, near) in enumerate(zip(rows, found, strict=True)):
            stems = self.questions.indices[self.questions.indptr[row] : self.questions.indptr[row + 1]]
            stems = stems[self.lexicon.chunks[stems] > 0]
            if not asked[place].any():
                continue
            candidates = np.union1d(near[near >= 0], _of_rare_stems(stems, self.words, self.lexicon))
            weight_of[stems] = self.lexicon.weights[stems]
            shared = _weights(candidates, self.words, weight_of)
            weight_of[stems] = 0
            best = shared.max(initial=0)
            score = chunks[candidates] @ asked[place]
            score += np.float32(self.record.words_weight) * shared / (best if best > 0 else 1)
            order = np.argsort(-score, kind="stable")[: found.shape[1]]
            ranked[place, : len(order)], scores[place, : len(order)] = candidates[order], score[order]
        return ranked, scores


def _of_rare_stems(stems: NDArray[np.integer], words: Words, lexicon: Lexicon) -> Int64Array:
    """Chunks of the rarest stems, as many stems as have ``RARE_CHUNKS`` chunks together."""
    ordered = stems[np.argsort(lexicon.chunks[stems], kind="stable")]
    rare = ordered[np.cumsum(lexicon.chunks[ordered]) <= RARE_CHUNKS]
    parts = [words.chunks_of.indices[words.chunks_of.indptr[s] : words.chunks_of.indptr[s + 1]] for s in rare]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _weights(rows: Int64Array, words: Words, weight_of: Float32Array) -> Float32Array:
    """The weight of the words that some chunks share with a question, whose stems have a ``weight_of`` above 0."""
    first, last = words.counts.indptr[rows], words.counts.indptr[rows + 1]
    sizes = last - first
    owner = np.repeat(np.arange(len(rows)), sizes)
    entries = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + first[owner]
    shared = weight_of[words.counts.indices[entries]] * words.values[entries]
    return np.bincount(owner, shared, minlength=len(rows)).astype(np.float32)
