"""Whose questions decide."""

import numpy as np

from heal_tasks.core.settings import load_settings
from heal_tasks.steps.scoring import people_decide
from heal_tasks.store.corpus import QuestionTable


def table(texts: list[int], human: list[int], splits: list[str]) -> QuestionTable:
    ids = np.arange(len(texts))
    return QuestionTable(ids, ids, ids, np.array(splits), np.array(texts), np.array(human, dtype=bool))


def test_people_decide_where_enough_of_their_questions_are_held_out_for_validation() -> None:
    settings = load_settings(gate_min_questions=2)
    splits = ["train", "train", "seen_validation", "unseen_validation", "seen_test"]
    assert people_decide(table([1, 2, 3, 4, 5], [1, 0, 1, 1, 1], splits), settings)
    # Written ones do not count, one asked twice counts once, and those that train or judge do not count.
    assert not people_decide(table([1, 2, 3, 4, 5], [1, 0, 1, 0, 1], splits), settings)
    assert not people_decide(table([1, 2, 3, 3, 5], [1, 0, 1, 1, 1], splits), settings)
