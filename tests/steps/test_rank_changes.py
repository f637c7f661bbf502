"""Rank changes: the questions that gained and lost most, by the path that both systems have."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from heal_tasks.steps.quality import comparing
from heal_tasks.steps.quality.comparing import MOST_CHANGES, rank_changes
from heal_tasks.steps.quality.scoring import BY_TEXT, UNSEEN, AnswerKey, Scores
from heal_tasks.store.questions.rank_changes import RankChange


def scores(**reciprocal_ranks: list[float]) -> Scores:
    paths = {"encoder": UNSEEN, "text": UNSEEN + BY_TEXT}
    values = {paths[name]: {"mrr@10": np.array(ranks)} for name, ranks in reciprocal_ranks.items()}
    return Scores("s", None, values, {})


def changes(monkeypatch: pytest.MonkeyPatch, after: Scores, before: Scores, number: int) -> list[RankChange]:
    rows = np.arange(number)
    monkeypatch.setattr(comparing, "held_out", lambda *_: {UNSEEN: AnswerKey(rows, [], rows)})
    table: Any = SimpleNamespace(question_ids=100 + rows)
    return rank_changes(after, before, table, table)


def test_the_largest_gains_come_first_and_then_the_largest_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = [1.0, 1.0, 0.0, 0.5, 0.1], [1.0, 0.25, 1.0, 1.0, 0.0]
    found = changes(monkeypatch, scores(text=after), scores(text=before), 5)
    assert found == [
        RankChange(102, "text", None, 1), RankChange(103, "text", 2, 1),
        RankChange(101, "text", 1, 4), RankChange(104, "text", 10, None),
    ]  # fmt: skip


def test_a_system_without_a_lexicon_is_compared_by_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    found = changes(monkeypatch, scores(text=[1.0], encoder=[0.5]), scores(encoder=[1.0]), 1)
    assert found == [RankChange(100, "encoder", 1, 2)]


def test_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    number = 3 * MOST_CHANGES
    before = [1.0 if n % 2 else 0.0 for n in range(number)]
    after = [0.0 if n % 2 else 1.0 for n in range(number)]
    found = changes(monkeypatch, scores(text=after), scores(text=before), number)
    assert [change.rank_after for change in found] == [1] * MOST_CHANGES + [None] * MOST_CHANGES
