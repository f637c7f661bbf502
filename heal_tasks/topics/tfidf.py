"""Turns texts into the float32 TF-IDF matrices that the factorisations work on.

Words are counted once per corpus. Every node of the topic tree then takes its documents' rows of the
counts and weighs them with a vocabulary and an IDF of its own, because a word that separates two
sub-topics (rare in the corpus, common in the node) says little at the root and much further down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from heal_tasks.core.errors import InputError

# At least two characters, the first of them (after underscores) a letter: keeps identifiers such as
# `read_csv` and `__init__`, drops numbers and rulers such as `____`.
TOKEN_PATTERN = r"(?u)\b(?=_*[^\W\d_])\w\w+\b"  # noqa: S105

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Vocabulary:
    """The words of a TF-IDF matrix, in column order.

    Args:
        terms: the words.
        idf: float32, shape (n_terms,), their smooth inverse document frequencies.
    """

    terms: tuple[str, ...]
    idf: Floats


def count_terms(texts: Sequence[str]) -> tuple[csr_array, tuple[str, ...]]:
    """Count every word of every text, without English stop words.

    Args:
        texts: the documents; may be empty, and so may each of them.

    Returns:
        Counts, float32 csr with sorted indices, shape (n_docs, n_terms), and the words in column order (alphabetical).
    """
    vectorizer = _vectorizer()
    analyse = vectorizer.build_analyzer()
    if not any(analyse(text) for text in texts):
        return csr_array(np.empty((len(texts), 0), np.float32)), ()
    counts = csr_array(vectorizer.fit_transform(texts))
    counts.sort_indices()
    return counts, tuple(str(term) for term in vectorizer.get_feature_names_out())


def count_known_terms(texts: Sequence[str], terms: Sequence[str]) -> csr_array:
    """Count the given words in every text; other words are ignored.

    Args:
        texts: the documents.
        terms: the words, in column order.

    Returns:
        Counts, float32 csr, shape (n_docs, n_terms).
    """
    if not terms or not texts:
        return csr_array(np.empty((len(texts), len(terms)), np.float32))
    counts = csr_array(_vectorizer(vocabulary=list(terms)).transform(texts))
    counts.sort_indices()
    return counts


def select_terms(counts: csr_array, *, min_df: int, max_df: float, max_terms: int) -> NDArray[np.int32]:
    """Choose the columns that are neither too rare nor too common in these documents.

    Args:
        counts: float32 csr, shape (n_docs, n_terms).
        min_df: smallest number of documents a word occurs in.
        max_df: largest share of the documents a word occurs in, in (0, 1].
        max_terms: most words to keep; the most frequent win, and the earlier column wins a tie.

    Returns:
        Column indices, int32, ascending.

    Raises:
        InputError: a limit is out of range.
    """
    if min_df < 1 or max_terms < 1 or not 0 < max_df <= 1:
        raise InputError(
            f"term limits min_df={min_df}, max_df={max_df}, max_terms={max_terms} are out of range; "
            "use min_df >= 1, 0 < max_df <= 1, max_terms >= 1"
        )
    frequencies = document_frequencies(counts)
    kept = np.flatnonzero((frequencies >= min_df) & (frequencies <= max_df * counts.shape[0]))
    if kept.size > max_terms:
        totals = np.asarray(counts.sum(axis=0)).ravel()[kept]
        kept = np.sort(kept[np.argsort(-totals, kind="stable")[:max_terms]])
    return kept.astype(np.int32)


def document_frequencies(counts: csr_array) -> NDArray[np.int64]:
    """In how many documents each word occurs: int64, shape (n_terms,)."""
    return np.bincount(counts.indices, minlength=counts.shape[1])


def smooth_idf(counts: csr_array) -> Floats:
    """Inverse document frequencies as if one more document held every word: float32, shape (n_terms,)."""
    idf = np.log((1 + counts.shape[0]) / (1 + document_frequencies(counts))) + 1
    return idf.astype(np.float32)


def weigh(counts: csr_array, idf: Floats) -> csr_array:
    """Counts times IDF, each non-empty row scaled to unit Euclidean length.

    Args:
        counts: float32 csr, shape (n_docs, n_terms).
        idf: float32, shape (n_terms,).

    Returns:
        float32 csr, shape (n_docs, n_terms), with entries where ``counts`` has them, in the same order.
    """
    if 0 in counts.shape:
        return counts
    weighed = csr_array((counts.data * idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape)
    return csr_array(normalize(weighed, copy=False))


def fit_tfidf(texts: Sequence[str], *, min_df: int, max_df: float, max_terms: int) -> tuple[csr_array, Vocabulary]:
    """Build a vocabulary from texts, and their TF-IDF matrix.

    Args:
        texts: the documents.
        min_df: smallest number of documents a word occurs in.
        max_df: largest share of the documents a word occurs in, in (0, 1].
        max_terms: most words to keep.

    Returns:
        float32 csr, shape (n_docs, n_terms), rows of unit length or zero; and its vocabulary.

    Raises:
        InputError: a limit is out of range.
    """
    counts, terms = count_terms(texts)
    columns = select_terms(counts, min_df=min_df, max_df=max_df, max_terms=max_terms)
    counts = counts[:, columns]
    vocabulary = Vocabulary(tuple(terms[column] for column in columns), smooth_idf(counts))
    return weigh(counts, vocabulary.idf), vocabulary


def transform_tfidf(texts: Sequence[str], vocabulary: Vocabulary) -> csr_array:
    """TF-IDF of new texts with a stored vocabulary.

    Args:
        texts: the documents.
        vocabulary: words and IDF from ``fit_tfidf``.

    Returns:
        float32 csr, shape (n_docs, n_terms).
    """
    return weigh(count_known_terms(texts, vocabulary.terms), vocabulary.idf)


def _vectorizer(**options: Any) -> Any:
    return CountVectorizer(stop_words="english", token_pattern=TOKEN_PATTERN, dtype=np.float32, **options)
