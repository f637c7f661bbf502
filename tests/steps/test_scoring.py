"""Whose questions decide."""

import numpy as np
import pytest

from heal_tasks.core.settings import load_settings
from heal_tasks.steps.scoring import (
    GATE_METRIC,
    HUMAN,
    SEEN,
    Scores,
    compare,
    compare_for_drop,
    mean_quality,
    people_decide,
)
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


def scores(name: str, people: float, written: float, asked: int) -> Scores:
    rng = np.random.default_rng(1)  # the same questions for every system
    noise = 0.01 * rng.standard_normal(200)
    values = {HUMAN: {GATE_METRIC: people + noise[:asked]}, SEEN: {GATE_METRIC: written + noise}}
    return Scores(name, None, values, {HUMAN: np.arange(asked), SEEN: np.arange(200)})


def test_written_questions_may_fall_where_people_gain() -> None:
    settings = load_settings(bootstrap_samples=200)
    for asked, written, promoted in ((30, 0.6, True), (29, 0.6, False), (30, 0.4, False)):
        before, after = scores("live", 0.5, 0.7, asked), scores("candidate", 0.8, written, asked)
        assert compare(after, before, settings).promote is promoted
        assert (SEEN in compare_for_drop(after, before, settings)) is not promoted
        assert HUMAN in compare_for_drop(before, after, settings)


def test_candidates_are_ranked_by_the_questions_that_decide() -> None:
    people, written, together = 0.8, 0.4, 0.6
    for asked, least, expected in ((30, 30, people), (29, 30, written), (30, 201, together)):
        found = mean_quality(scores("candidate", people, written, asked), load_settings(gate_min_questions=least))
        assert found == pytest.approx(expected, abs=0.01)
