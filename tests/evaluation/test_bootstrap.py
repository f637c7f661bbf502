"""Bootstrap intervals: coverage, groups, pairs, determinism."""

import numpy as np
import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.evaluation.bootstrap import Interval, mean_interval, paired_difference


def test_interval_covers_the_true_mean_about_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        values = rng.beta(2, 3, size=80)  # mean 0.4
        interval = mean_interval(values, seed=trial)
        covered += interval.low <= 0.4 <= interval.high
    assert 0.90 <= covered / 300 <= 0.985


def test_width_equals_normal_theory():
    values = np.random.default_rng(1).standard_normal(2000)
    interval = mean_interval(values, seed=0)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.05)
    assert interval.value == pytest.approx(values.mean())
    assert interval.n == 2000


def test_groups_are_drawn_together():
    rng = np.random.default_rng(2)
    # 50 documents with ten equal questions each: the information of 50 values, not of 500.
    documents = rng.standard_normal(50)
    values, groups = np.repeat(documents, 10), np.repeat([f"d{i}" for i in range(50)], 10)
    grouped = mean_interval(values, seed=0, groups=groups)
    single = mean_interval(documents, seed=0)
    naive = mean_interval(values, seed=0)
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low, rel=0.05)
    assert naive.high - naive.low < 0.4 * (grouped.high - grouped.low)


def test_groups_equal_a_slow_loop():
    rng = np.random.default_rng(3)
    values, groups = rng.random(30), rng.integers(0, 7, 30)
    interval = mean_interval(values, seed=5, groups=groups)
    drawn = np.random.default_rng(5).integers(0, 7, size=(2000, 7))
    means = [np.concatenate([values[groups == group] for group in row]).mean() for row in drawn]
    assert interval.low == pytest.approx(np.percentile(means, 2.5))
    assert interval.high == pytest.approx(np.percentile(means, 97.5))
    assert interval.value == pytest.approx(values.mean())


def test_a_paired_difference_removes_the_difficulty_of_the_questions():
    rng = np.random.default_rng(4)
    difficulty = rng.random(200)
    better = difficulty + 0.02 + 0.01 * rng.standard_normal(200)
    paired = paired_difference(better, difficulty, seed=0)
    assert 0.015 < paired.low < paired.value < paired.high < 0.025
    assert mean_interval(better, seed=0).low < difficulty.mean()
    reverse = paired_difference(difficulty, better, seed=0)
    assert (reverse.low, reverse.high) == pytest.approx((-paired.high, -paired.low))


def test_same_seed_same_interval_other_seed_another():
    values = np.random.default_rng(5).random(100)
    first = mean_interval(values, seed=1)
    assert first == mean_interval(values, seed=1)
    assert first != mean_interval(values, seed=2)
    assert first == mean_interval(values, seed=1, block=250), "blocks must not change the draws"


def test_constant_values_and_single_groups():
    assert mean_interval(np.array([0.5]), seed=0) == Interval(0.5, 0.5, 0.5, 1)
    assert mean_interval(np.full(9, 0.25), seed=0) == Interval(0.25, 0.25, 0.25, 9)
    one_group = mean_interval(np.array([0.0, 1.0, 0.0, 1.0]), seed=0, groups=np.zeros(4))
    assert one_group.low < 0.5 < one_group.high, "one document must not look certain"


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([], None, "at least one value"),
        ([0.1, np.nan], None, "value 1 is nan"),
        ([0.1, 0.2], [1], "1 groups do not fit 2 values"),
    ],
)
def test_refuses(values, groups, message):
    with pytest.raises(InputError, match=message):
        mean_interval(np.array(values), seed=0, groups=None if groups is None else np.array(groups))


def test_refuses_values_that_are_not_pairs():
    with pytest.raises(InputError, match=r"shapes \(2,\) and \(3,\) are not pairs"):
        paired_difference(np.zeros(2), np.zeros(3), seed=0)
