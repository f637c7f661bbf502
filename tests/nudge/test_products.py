"""Blocks cover everything once, and chosen products equal the full product."""

import numpy as np
import pytest

from heal_tasks.nudge.products import block_size, blocks, exact
from tests.nudge.helpers import unit


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (3, 3), (10, 4)])
def test_blocks_cover_everything_once(n, size):
    parts = [np.arange(n)[part] for part in blocks(n, size)]
    assert all(0 < len(part) <= size for part in parts)
    assert np.concatenate([np.empty(0, dtype=int), *parts]).tolist() == list(range(n))


def test_a_block_holds_at_most_the_scores_given():
    assert block_size(10, "cpu", 100) == 8
    assert block_size(1000, "cpu", 100) == 1
    assert block_size(2000, "cpu") * 2000 <= 1 << 22
    assert block_size(2000, "cuda") > block_size(2000, "cpu")


def test_chosen_products_equal_the_full_product():
    rng = np.random.default_rng(0)
    questions, rows = unit(rng.standard_normal((50, 20))), unit(rng.standard_normal((70, 20)))
    question, row = rng.integers(0, 50, 40_000), rng.integers(0, 70, 40_000)
    full = questions.astype(np.float64) @ rows.astype(np.float64).T
    np.testing.assert_allclose(exact(questions, rows, question, row), full[question, row], atol=1e-14)
