"""The best rows that do not move are those of a full sort, and their scores are exact."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heal_tasks.nudge.products import exact
from heal_tasks.nudge.static import StaticSearch
from tests.nudge.helpers import unit


def sample(seed, n, d, skew):
    """Unit rows; with skew, a few dimensions dwarf the others, as in some encoders."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((n, d)) * np.exp(skew * rng.standard_normal(d)))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 300), k=st.integers(1, 12), skew=st.floats(0.0, 3.0),
       block_scores=st.sampled_from([20, 500, None]))  # fmt: skip
def test_the_best_rows_that_do_not_move_are_those_of_a_full_sort(seed, n, k, skew, block_scores):
    rng = np.random.default_rng(seed)
    questions, base = sample(seed, 5, 16, skew), sample(seed + 1, max(n, 1), 16, skew)[:n]
    if n > 20:
        base[10:20] = base[3]  # equal scores
    moved = np.flatnonzero(rng.random(n) < 0.2)
    rows, found = StaticSearch(questions, base, moved, k, block_scores=block_scores).best
    stays = np.setdiff1d(np.arange(n), moved)
    scores = questions.astype(np.float64) @ base[stays].astype(np.float64).T
    for question in range(len(questions)):
        # Rows with equal vectors must tie exactly, whatever BLAS makes of them.
        expected = exact(questions, base, np.full(len(stays), question), stays)
        np.testing.assert_allclose(expected, scores[question], atol=1e-12)
        order = np.lexsort((stays, -expected))[:k]
        missing = k - len(order)
        assert rows[question].tolist() == [*stays[order], *[-1] * missing]
        assert found[question].tolist() == [*expected[order], *[-np.inf] * missing]
