"""Word counts and float32 TF-IDF matrices.

Words are counted once per corpus. Each node of the topic tree weights the counts of its documents with its own
vocabulary and IDF: a word that separates two sub-topics is rare in the corpus and common in the node, so it says
little at the root and much further down.

Scripts without blanks between words give pairs of letters, as in the search by words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from heal_tasks.core.scripts import combining, join, spaced
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.operand import Floats

# At least two characters, the first of them (after underscores) a letter: keeps identifiers such as
# `read_csv` and `__init__`, drops numbers and rulers such as `____`.
TOKEN_PATTERN = r"(?u)\b(?=_*[^\W\d_])\w\w+\b"  # noqa: S105
_TOKEN = re.compile(TOKEN_PATTERN)
_SAME_WEIGHT = 0.9


@dataclass(frozen=True, eq=False)
class NodeMatrix:
    """TF-IDF of a node's documents over the node's own vocabulary."""

    columns: NDArray[np.int32]  # (v,): its words as columns of the corpus, ascending
    idf: Floats  # (v,)
    X: csr_array  # (n, v), float32

    @classmethod
    def of(cls, counts: csr_array, config: HNMFkConfig) -> "NodeMatrix":
        """Weight the documents of one node from their counts, shape (documents of the node, words of the corpus)."""
        columns = select_terms(counts, min_df=config.min_df, max_df=config.max_df, max_terms=config.max_terms)
        own = csr_array(counts[:, columns])
        own.sort_indices()
        idf = smooth_idf(own)
        return cls(columns, idf, weigh(own, idf))


def count_corpus(texts: Sequence[str], config: HNMFkConfig) -> tuple[csr_array, tuple[str, ...]]:
    """Count the words of a corpus that are frequent enough for some node of its tree.

    ``max_df`` is applied per node, as a word of most documents can still separate topics further down.

    Returns:
        Counts, float32 csr, shape (n, words), and the words.
    """
    counts, terms = count_terms(texts)
    columns = select_terms(counts, min_df=config.min_df, max_df=1.0, max_terms=config.max_terms)
    return csr_array(counts[:, columns]), tuple(terms[column] for column in columns)


def count_terms(texts: Sequence[str]) -> tuple[csr_array, tuple[str, ...]]:
    """Count every word of every text, without English stop words.

    Returns:
        Counts, float32 csr with sorted indices, shape (n, words), and the words in column order (alphabetical).
    """
    vectorizer = _vectorizer()
    analyse = vectorizer.build_analyzer()
    if not any(analyse(text) for text in texts):
        return csr_array(np.empty((len(texts), 0), np.float32)), ()
    counts = csr_array(vectorizer.fit_transform(texts))
    counts.sort_indices()
    return counts, tuple(str(term) for term in vectorizer.get_feature_names_out())


def count_known_terms(texts: Sequence[str], terms: Sequence[str]) -> csr_array:
    """Count the given words in every text: float32 csr, shape (number of texts, number of terms)."""
    if not terms:
        return csr_array(np.empty((len(texts), 0), np.float32))
    counts = csr_array(_vectorizer(vocabulary=list(terms)).transform(texts))
    counts.sort_indices()
    return counts


def still_words(terms: Sequence[str]) -> bool:
    """True if at least half of some earlier words, and one or more, are still counted as words."""
    return 2 * sum(_words(term) == [term] for term in terms) >= max(len(terms), 1)


def select_terms(counts: csr_array, *, min_df: int, max_df: float, max_terms: int) -> NDArray[np.int32]:
    """Choose the columns that are neither too rare nor too common in these documents, ascending.

    Args:
        counts: float32 csr, shape (n, words).
        min_df: smallest number of documents that a word occurs in.
        max_df: largest share of the documents that a word occurs in, in (0, 1].
        max_terms: most words; the most frequent are kept, and of two equally frequent ones the earlier column.
    """
    frequencies = _document_frequencies(counts)
    kept = np.flatnonzero((frequencies >= min_df) & (frequencies <= max_df * counts.shape[0]))
    if kept.size > max_terms:
        totals = np.asarray(counts.sum(axis=0)).ravel()[kept]
        kept = np.sort(kept[np.argsort(-totals, kind="stable")[:max_terms]])
    return kept.astype(np.int32)


def smooth_idf(counts: csr_array) -> Floats:
    """Inverse document frequencies as if one more document held every word: float32, shape (words,)."""
    idf = np.log((1 + counts.shape[0]) / (1 + _document_frequencies(counts))) + 1
    return idf.astype(np.float32)


def weigh(counts: csr_array, idf: Floats) -> csr_array:
    """Multiply counts by IDF and scale each non-empty row to unit Euclidean length; the order of entries is kept."""
    if 0 in counts.shape:
        return counts
    weighed = csr_array((counts.data * idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape)
    return csr_array(normalize(weighed, copy=False))


def readable(terms: Sequence[str], weights: Sequence[float]) -> tuple[str, ...]:
    """Join pairs of letters that overlap and weigh about the same to the word that they are from, at the first one.

    "感器" and "传感" become "传感器": parts of a word are in the same texts.
    """
    left, found = list(zip(terms, weights, strict=True)), list[str]()
    while left:
        word, weight = left.pop(0)
        place = 0
        while place < len(left):
            longer = join(word, left[place][0]) if left[place][1] >= _SAME_WEIGHT * weight else ""
            if longer:
                word = longer
                del left[place]
            place = 0 if longer else place + 1
        found.append(word)
    return tuple(found)


def _document_frequencies(counts: csr_array) -> NDArray[np.int64]:
    return np.bincount(counts.indices, minlength=counts.shape[1])


def _vectorizer(**options: Any) -> Any:
    return CountVectorizer(stop_words="english", tokenizer=_words, token_pattern=None, dtype=np.float32, **options)


def _words(text: str) -> list[str]:
    return (_TOKEN if text.isascii() else _token_with_marks()).findall(spaced(text))


@cache
def _token_with_marks() -> re.Pattern[str]:
    """``TOKEN_PATTERN`` where combining marks, which ``\\w`` does not match, belong to a word; twice as slow."""
    marks = combining()
    return re.compile(rf"\b(?=_*[^\W\d_])\w[{marks}]*\w[\w{marks}]*")
