"""Splits: stable, disjoint by document, and of the promised shares."""

from collections import Counter

import pytest

from heal_tasks.questions.splits import is_unseen, judgment_split, split_of

DOCUMENTS = 6000


def test_shares() -> None:
    counts = Counter(split_of(document, document * 5 + number) for document in range(DOCUMENTS) for number in range(5))
    shares = {split: count / (5 * DOCUMENTS) for split, count in counts.items()}
    expected = {"train": 0.64, "seen_validation": 0.08, "seen_test": 0.08, "unseen_validation": 0.1, "unseen_test": 0.1}
    assert shares == pytest.approx(expected, abs=0.015)


def test_a_document_is_seen_or_unseen_as_a_whole() -> None:
    for document in range(500):
        splits = {split_of(document, question) for question in range(40)}
        if is_unseen(document):
            assert splits in ({"unseen_test"}, {"unseen_validation"})
        else:
            assert "train" in splits
            assert splits <= {"train", "seen_validation", "seen_test"}


def test_the_question_decides_independently_of_its_document() -> None:
    seen = [document for document in range(2000) if not is_unseen(document)]
    same_number = Counter(split_of(document, document) for document in seen)
    assert same_number["train"] / len(seen) == pytest.approx(0.8, abs=0.03)


def test_never_changes() -> None:
    assert [split_of(document, 7) for document in range(12)] == [
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
        "train",
    ]


def test_a_query_never_trains_for_one_document_and_tests_another() -> None:
    for query in range(300):
        for given in ("train", "test", None):
            splits = {judgment_split(document, query, given) for document in range(40)}
            assert not ("train" in splits and splits & {"seen_test", "unseen_test"})
            assert given != "test" or splits == {"seen_test", "unseen_test"}
            assert given != "train" or not splits & {"seen_test", "unseen_test"}
    for document in range(300):
        assert is_unseen(document) == judgment_split(document, document).startswith("unseen")
    counts = Counter(judgment_split(document, document * 7) for document in range(DOCUMENTS))
    assert counts["train"] / DOCUMENTS == pytest.approx(0.64, abs=0.02)
