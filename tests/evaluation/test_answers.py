"""ROUGE-L against all common subsequences, and against known values."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heal_tasks.evaluation.answers import rouge_l

words = st.lists(st.sampled_from("abc"), max_size=6)


def subsequences(items):
    return {tuple(part) for size in range(len(items) + 1) for part in itertools.combinations(items, size)}


@given(words, words)
def test_it_is_the_f1_of_the_longest_common_subsequence(answer, reference):
    common = max(len(part) for part in subsequences(answer) & subsequences(reference))
    precision, recall = common / max(1, len(answer)), common / max(1, len(reference))
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    assert rouge_l(" ".join(answer), " ".join(reference)) == pytest.approx(expected)
    assert rouge_l(" ".join(reference), " ".join(answer)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("Police killed the gunman.", "police KILL the gunman", 3 / 4),  # Lin 2004, section 3.1: ROUGE-L of S2
        ("the gunman kill police", "police kill the gunman", 2 / 4),  # and of S3
        ("", "police", 0.0),
        ("...", "!", 0.0),
        ("Überall é", "ÜBERALL É", 1.0),
        ("压力表", "压力高", 2 / 3),
        ("पानी की मोटर", "पानी का पंप", 1 / 3),
    ],
)
def test_known_values(answer, reference, value):
    assert rouge_l(answer, reference) == pytest.approx(value)
