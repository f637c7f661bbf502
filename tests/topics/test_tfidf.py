"""TF-IDF against scikit-learn's own, and the words that count as words."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from heal_tasks.core.errors import InputError
from heal_tasks.topics.tfidf import (
    TOKEN_PATTERN,
    count_known_terms,
    count_terms,
    fit_tfidf,
    smooth_idf,
    transform_tfidf,
    weigh,
)

TEXTS = [
    "The read_csv function reads a file",
    "A file of 1234 rows; __init__ is called, __init__ again",
    "Rows and columns: read_csv, to_csv ____ x",
    "columns of a file",
]


def test_identifiers_are_words_and_numbers_rulers_and_stop_words_are_not() -> None:
    _, terms = count_terms(TEXTS)
    assert {"read_csv", "__init__", "to_csv", "rows"} <= set(terms)
    assert not {"1234", "____", "x", "the", "of"} & set(terms)


def test_equals_scikit_learn_on_the_same_tokens() -> None:
    X, vocabulary = fit_tfidf(TEXTS, min_df=2, max_df=0.5, max_terms=100)
    reference = TfidfVectorizer(stop_words="english", token_pattern=TOKEN_PATTERN, min_df=2, max_df=0.5)
    expected = reference.fit_transform(TEXTS)
    assert vocabulary.terms == tuple(reference.get_feature_names_out())
    assert X.dtype == np.float32
    assert_allclose(X.toarray(), expected.toarray(), rtol=1e-6)
    assert_allclose(vocabulary.idf, reference.idf_, rtol=1e-6)


def test_transform_of_the_same_texts_is_the_fitted_matrix() -> None:
    X, vocabulary = fit_tfidf(TEXTS, min_df=1, max_df=1.0, max_terms=100)
    assert_array_equal(transform_tfidf(TEXTS, vocabulary).toarray(), X.toarray())


def test_unknown_words_and_empty_texts_are_zero_rows() -> None:
    _, vocabulary = fit_tfidf(TEXTS, min_df=1, max_df=1.0, max_terms=100)
    assert transform_tfidf(["zebra", ""], vocabulary).nnz == 0


def test_max_terms_keeps_the_most_frequent_and_the_earlier_of_equals() -> None:
    _, vocabulary = fit_tfidf(["bb bb bb aa cc", "aa cc dd"], min_df=1, max_df=1.0, max_terms=2)
    assert vocabulary.terms == ("aa", "bb")


@pytest.mark.parametrize("texts", [[], [""], ["the of a", "1 2 3"]])
def test_no_words_at_all(texts: list[str]) -> None:
    X, vocabulary = fit_tfidf(texts, min_df=1, max_df=1.0, max_terms=10)
    assert X.shape == (len(texts), 0)
    assert vocabulary.terms == ()
    assert count_known_terms(texts, ()).shape == (len(texts), 0)


@pytest.mark.parametrize("limits", [(0, 0.5, 10), (1, 0.0, 10), (1, 1.5, 10), (1, 0.5, 0)])
def test_limits_out_of_range(limits: tuple[int, float, int]) -> None:
    min_df, max_df, max_terms = limits
    with pytest.raises(InputError, match=f"min_df={min_df}, max_df={max_df}, max_terms={max_terms} are out of range"):
        fit_tfidf(TEXTS, min_df=min_df, max_df=max_df, max_terms=max_terms)


def test_weights_stand_where_the_counts_stand() -> None:
    rng = np.random.default_rng(0)
    counts = csr_array(rng.poisson(0.4, (30, 50)).astype(np.float32))[:, rng.permutation(50)]
    weighed = weigh(counts, smooth_idf(counts))
    assert_array_equal(weighed.indices, counts.indices)
    assert_array_equal(weighed.indptr, counts.indptr)
    dense = counts.toarray() * smooth_idf(counts)
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    assert_allclose(weighed.toarray(), dense / np.where(norms > 0, norms, 1), rtol=1e-5)
    assert counts.data.max() > 1
