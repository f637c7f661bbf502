"""Relevance curves: isotonic regression of right answers on scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from heal_tasks.evaluation.calibration import MOST_POINTS, Curve, relevance_curve


def relevance_of(scores: np.ndarray, curve: Curve) -> np.ndarray:
    """Relevance of scores as ``heal.relevance`` reads a curve."""
    return np.interp(scores, curve["scores"], curve["shares"])


def found(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and right answers that are the more frequent the higher the score."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.1, 0.9, count).astype(np.float32)
    return scores, rng.random(count) < scores**2


def test_few_scores_are_all_kept_with_scikit_learns_shares() -> None:
    scores, right = found(1, MOST_POINTS)
    curve = relevance_curve(scores, right)
    expected = IsotonicRegression().fit(scores, right).predict(np.sort(scores))
    np.testing.assert_allclose(curve["scores"], np.sort(scores), atol=1e-6)
    np.testing.assert_allclose(curve["shares"], expected, atol=1e-6)
    # Stored scores have six decimals, which a steep step shows.
    np.testing.assert_allclose(np.sort(relevance_of(scores, curve)), np.sort(expected), atol=1e-4)


def test_a_curve_of_many_rows_keeps_close_to_scikit_learn_and_to_the_truth() -> None:
    scores, right = found(2, 5000)
    curve = relevance_curve(scores, right)
    assert len(curve["scores"]) == MOST_POINTS
    by_curve = relevance_of(scores, curve)
    assert np.abs(by_curve - IsotonicRegression().fit(scores, right).predict(scores)).mean() < 0.02
    assert np.abs(by_curve - scores**2).mean() < 0.04
    # Calibrated: of the rows with a relevance of about p, a share of p is right.
    for low in (0.1, 0.3, 0.5):
        within = (by_curve >= low) & (by_curve < low + 0.2)
        assert right[within].mean() == pytest.approx(by_curve[within].mean(), abs=0.04)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=60))
def test_a_curve_rises_within_0_and_1_over_scores_that_ascend(rows: list[tuple[int, bool]]) -> None:
    scores, right = np.array([row[0] / 4 for row in rows]), np.array([row[1] for row in rows])
    curve = relevance_curve(scores, right)
    assert len(curve["scores"]) == len(curve["shares"]) <= MOST_POINTS
    assert (np.diff(curve["scores"]) > 0).all()
    assert (np.diff([0, *curve["shares"], 1]) >= 0).all()
    if len(rows) <= MOST_POINTS:  # the mean of an isotonic regression is the share of right rows
        assert relevance_of(scores, curve).mean() == pytest.approx(right.mean(), abs=1e-5)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_flat(right: bool) -> None:
    scores, _ = found(3, 100)
    curve = relevance_curve(scores, np.full(100, right))
    assert curve["shares"] == [float(right)] * MOST_POINTS
    assert relevance_of(np.array([-1, 0.5, 2]), curve).tolist() == [float(right)] * 3


def test_one_score_is_one_point_and_none_is_no_curve() -> None:
    assert relevance_curve(np.array([0.5] * 4), np.array([True, False, True, True])) == {
        "scores": [0.5],
        "shares": [0.75],
    }
    assert relevance_of(np.array([0.1, 0.5, 0.9]), {"scores": [0.5], "shares": [0.75]}).tolist() == [0.75] * 3
    assert relevance_curve(np.array([0.3]), np.array([True])) == {"scores": [0.3], "shares": [1.0]}
    assert relevance_curve(np.empty(0, dtype=np.float32), np.empty(0, dtype=bool)) == {}


def test_scores_beyond_the_curve_have_the_relevance_of_its_ends() -> None:
    curve = relevance_curve(np.array([0.2, 0.4, 0.6, 0.8]), np.array([False, True, False, True]))
    assert curve["shares"] == [0, 0.5, 0.5, 1]
    assert relevance_of(np.array([-1, 0.3, 0.7, 3]), curve).tolist() == pytest.approx([0, 0.25, 0.75, 1])
