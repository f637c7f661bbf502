"""TF-IDF against scikit-learn's own, and the words that count as words."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.tfidf import (
    TOKEN_PATTERN,
    NodeMatrix,
    count_corpus,
    count_known_terms,
    count_terms,
    smooth_idf,
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


def fit(min_df: int, max_df: float, max_terms: int) -> tuple[NodeMatrix, tuple[str, ...]]:
    """TF-IDF of ``TEXTS``, and its words."""
    counts, terms = count_terms(TEXTS)
    made = NodeMatrix.of(counts, HNMFkConfig(min_df=min_df, max_df=max_df, max_terms=max_terms))
    return made, tuple(terms[column] for column in made.columns)


def test_equals_scikit_learn_on_the_same_tokens() -> None:
    made, terms = fit(min_df=2, max_df=0.5, max_terms=100)
    reference = TfidfVectorizer(stop_words="english", token_pattern=TOKEN_PATTERN, min_df=2, max_df=0.5)
    expected = reference.fit_transform(TEXTS)
    assert terms == tuple(reference.get_feature_names_out())
    assert made.X.dtype == np.float32
    assert_allclose(made.X.toarray(), expected.toarray(), rtol=1e-6)
    assert_allclose(made.idf, reference.idf_, rtol=1e-6)


def test_known_terms_of_the_same_texts_give_the_fitted_matrix() -> None:
    made, terms = fit(min_df=1, max_df=1.0, max_terms=100)
    assert_array_equal(weigh(count_known_terms(TEXTS, terms), made.idf).toarray(), made.X.toarray())


def test_unknown_words_and_empty_texts_are_zero_rows() -> None:
    _, terms = fit(min_df=1, max_df=1.0, max_terms=100)
    assert count_known_terms(["zebra", ""], terms).nnz == 0


def test_max_terms_keeps_the_most_frequent_and_the_earlier_of_equals() -> None:
    _, terms = count_corpus(["bb bb bb aa cc", "aa cc dd"], HNMFkConfig(min_df=1, max_terms=2))
    assert terms == ("aa", "bb")


def test_a_word_of_most_documents_is_counted_but_not_weighed_at_the_root() -> None:
    config = HNMFkConfig(min_df=1, max_df=0.5)
    counts, terms = count_corpus(TEXTS, config)
    assert "file" in terms
    assert "file" not in {terms[column] for column in NodeMatrix.of(counts, config).columns}


@pytest.mark.parametrize("texts", [[], [""], ["the of a", "1 2 3"]])
def test_no_words_at_all(texts: list[str]) -> None:
    counts, terms = count_corpus(texts, HNMFkConfig())
    assert counts.shape == (len(texts), 0)
    assert terms == ()
    assert NodeMatrix.of(counts, HNMFkConfig()).X.shape == (len(texts), 0)
    assert count_known_terms(texts, ()).shape == (len(texts), 0)


def test_weights_have_the_places_of_the_counts() -> None:
    rng = np.random.default_rng(0)
    counts = csr_array(rng.poisson(0.4, (30, 50)).astype(np.float32))[:, rng.permutation(50)]
    weighed = weigh(counts, smooth_idf(counts))
    assert_array_equal(weighed.indices, counts.indices)
    assert_array_equal(weighed.indptr, counts.indptr)
    dense = counts.toarray() * smooth_idf(counts)
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    assert_allclose(weighed.toarray(), dense / np.where(norms > 0, norms, 1), rtol=1e-5)
    assert counts.data.max() > 1
