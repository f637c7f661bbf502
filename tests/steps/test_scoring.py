"""Which held-out questions choose."""

import numpy as np

from heal_tasks.core.settings import load_settings
from heal_tasks.steps.scoring import deciding
from heal_tasks.store.corpus import QuestionTable


def table(texts: list[int], human: list[int]) -> QuestionTable:
    ids = np.arange(len(texts))
    return QuestionTable(
        ids, ids, ids, np.full(len(texts), "seen_validation"), np.array(texts), np.array(human, dtype=bool)
    )


def test_people_choose_alone_where_they_have_asked_enough() -> None:
    settings = load_settings(gate_min_questions=2)
    chosen = np.array([True, True, True, True, False])
    enough = table([1, 2, 3, 4, 5], [0, 0, 1, 1, 1])
    assert deciding(enough, chosen, settings).tolist() == [False, False, True, True, False]
    for few in (table([1, 2, 3, 4, 5], [0, 0, 0, 1, 1]), table([1, 2, 3, 3, 5], [0, 0, 1, 1, 1])):
        assert deciding(few, chosen, settings).tolist() == chosen.tolist()
