"""The lexicon: questions point where their answers are; sampling, new stems, answered questions."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from heal_tasks.lexicon.lexicon import (
    ASKED_WEIGHT,
    AnsweredQuestions,
    Lexicon,
    extend,
    fit_lexicon,
    unit_rows,
    with_lexicon,
)
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.lexicon.terms import count_stems, inverse_document_frequencies, weigh_texts
from tests.lexicon.planted import planted


def test_a_question_points_where_its_stems_do() -> None:
    counts, targets, truth = planted(texts=2000)
    lexicon = fit_lexicon(counts, targets, ridge=0.1)
    asked = count_stems(
        np.repeat(np.arange(50), 3), np.random.default_rng(5).integers(0, 40, 150), np.ones(150), (50, 80)
    )
    asked.sum_duplicates()
    found = lexicon.question_vectors(asked)
    expected = unit_rows((asked > 0).astype(np.float32) @ (truth * lexicon.weights[:, None]))
    assert np.einsum("ij,ij->i", found, expected).mean() > 0.95
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_weights_are_inverse_document_frequencies() -> None:
    counts = csr_array(np.array([[1, 3, 0], [0, 1, 0]], dtype=np.float32))
    np.testing.assert_allclose(inverse_document_frequencies(counts), [np.log(3), np.log(2), 0], rtol=1e-6)
    weighed = weigh_texts(counts, inverse_document_frequencies(counts)).toarray()
    row = np.array([np.log(3), (1 + np.log(3)) * np.log(2), 0])
    np.testing.assert_allclose(weighed, [row / np.linalg.norm(row), [0, 1, 0]], rtol=1e-6)


def test_an_unknown_stem_alone_gives_no_vector() -> None:
    counts, targets, _ = planted()
    wider = csr_array((counts.data, counts.indices, counts.indptr), shape=(300, 81))
    lexicon = fit_lexicon(wider, targets, ridge=0.3)
    asked = count_stems(np.array([0]), np.array([80]), np.array([1]), (2, 81))
    assert not lexicon.question_vectors(asked).any()
    assert lexicon.chunks[80] == 0
    assert not lexicon.vectors[80].any()


def test_a_sample_covers_every_stem_and_loses_little() -> None:
    counts, targets, _ = planted(texts=3000, stems=400, noise=0.1)
    whole = fit_lexicon(counts, targets, ridge=0.3)
    sample = fit_lexicon(counts, targets, ridge=0.3, most_chunks=500)
    known = whole.chunks > 0
    assert np.linalg.norm(sample.vectors[known], axis=1).min() > 0
    texts = weigh_texts(counts, whole.weights)
    agreement = np.einsum("ij,ij->i", unit_rows(texts @ sample.vectors), unit_rows(texts @ whole.vectors))
    assert agreement.mean() > 0.9


def test_answered_questions_draw_their_stems_to_the_answers() -> None:
    counts, targets, _ = planted(noise=0.5)
    rng = np.random.default_rng(6)
    asked = count_stems(np.repeat(np.arange(60), 3), rng.integers(0, 80, 180), np.ones(180), (60, 80))
    asked.sum_duplicates()
    answers = AnsweredQuestions(asked, targets[rng.integers(0, 300, 60)])

    def agreement(weight: float) -> float:
        lexicon = fit_lexicon(counts, targets, ridge=0.3, questions=answers, question_weight=weight)
        return float(np.einsum("ij,ij->i", lexicon.question_vectors(asked), answers.targets).mean())

    assert agreement(0) < agreement(0.3) < agreement(3)
    alone = fit_lexicon(counts, targets, ridge=0.3).vectors
    np.testing.assert_array_equal(fit_lexicon(counts, targets, ridge=0.3, questions=answers).vectors, alone)


def test_new_stems_are_fitted_and_the_known_ones_stay() -> None:
    counts, targets, _ = planted(texts=1500, noise=0.1)
    whole = fit_lexicon(counts, targets, ridge=0.3)
    new = np.array([60, 70, 79])
    without = csr_array(counts * ~np.isin(np.arange(80), new)[None, :])
    without.eliminate_zeros()
    before = fit_lexicon(without, targets, ridge=0.3)
    extended = Lexicon(whole.chunks, whole.weights, before.vectors.copy())
    extend(extended, counts, targets, new, ridge=0.3)
    kept = np.setdiff1d(np.arange(80), new)
    np.testing.assert_array_equal(extended.vectors[kept], before.vectors[kept])
    texts = weigh_texts(counts, whole.weights)
    agreement = np.einsum("ij,ij->i", unit_rows(texts @ extended.vectors), unit_rows(texts @ whole.vectors))
    assert agreement.min() > 0.95


def test_stems_that_only_questions_have_are_fitted_with_them_and_later_alike() -> None:
    counts, targets, _ = planted(texts=1500, noise=0.1)
    known = csr_array((counts.data, counts.indices, counts.indptr), shape=(1500, 82))
    rng = np.random.default_rng(8)
    stems = np.concatenate([rng.integers(0, 80, (60, 2)), np.repeat([[80], [81]], 30, axis=0)], axis=1)
    asked = count_stems(np.repeat(np.arange(60), 3), stems.ravel(), np.ones(180), (60, 82))
    asked.sum_duplicates()
    answers = np.concatenate([np.tile(targets[:1], (30, 1)), np.tile(targets[1:2], (30, 1))])
    questions = AnsweredQuestions(asked, answers)
    alone = fit_lexicon(known, targets, ridge=0.3)
    assert not alone.weights[80:].any()
    whole = fit_lexicon(known, targets, ridge=0.3, questions=questions, question_weight=0.3)
    assert whole.chunks[80:].tolist() == [0, 0]
    np.testing.assert_allclose(whole.weights[80:], ASKED_WEIGHT * np.log1p(1500), rtol=1e-6)
    extended = Lexicon(whole.chunks, whole.weights, alone.vectors.copy())
    extend(extended, known, targets, np.array([80, 81]), ridge=0.3, questions=questions, question_weight=0.3)
    np.testing.assert_array_equal(extended.vectors[:80], alone.vectors[:80])
    for lexicon in (whole, extended):
        for stem, answer in ((80, 0), (81, 1)):
            vector = unit_rows(lexicon.vectors[stem : stem + 1])[0]
            assert vector @ targets[answer] > 0.9


def test_a_weight_of_zero_leaves_the_encoder_alone() -> None:
    rng = np.random.default_rng(7)
    encoded, lexical = (unit_rows(rng.normal(size=(5, 8)).astype(np.float32)) for _ in range(2))
    np.testing.assert_allclose(with_lexicon(encoded, lexical, 0), encoded, atol=1e-6)
    both = with_lexicon(encoded, lexical, 0.5)
    np.testing.assert_allclose(both, unit_rows(encoded + 0.5 * lexical), atol=1e-6)
    np.testing.assert_allclose(with_lexicon(encoded, np.zeros_like(lexical), 0.5), encoded, atol=1e-6)


def test_a_record_survives_json() -> None:
    record = LexiconRecord(question_weight=0.3, by_people=True, relevance={"text": {"scores": [0.1], "shares": [0.5]}})
    assert LexiconRecord.from_json(record.to_json()) == record
    with pytest.raises(TypeError):
        LexiconRecord.from_json({"unknown": 1})
