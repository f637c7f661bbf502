"""Whose questions decide, and if questions or topics do."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT
from heal_tasks.core.settings import load_settings
from heal_tasks.questions.splits import is_unseen_test
from heal_tasks.steps.quality import scoring
from heal_tasks.steps.quality.comparing import compare, compare_for_drop, is_judged, mean_quality
from heal_tasks.steps.quality.scoring import (
    BY_TEXT,
    HUMAN,
    SEEN,
    TOPICS,
    UNSEEN,
    Scores,
    System,
    held_out,
    judged,
    llm_wrote,
    people_decide,
    score,
    unseen_documents,
)
from heal_tasks.store.documents.corpus import ChunkTable, QuestionTable

NONE_NEAR = (np.empty(0, np.int64), np.empty(0, np.int64))


def table(texts: list[int], human: list[int], splits: list[str]) -> QuestionTable:
    ids = np.arange(len(texts))
    human_mask = np.array(human, dtype=bool)
    moves, extracted = np.ones(len(texts), dtype=bool), np.zeros(len(texts), dtype=bool)
    return QuestionTable(ids, ids, ids, np.array(splits), np.array(texts), human_mask, moves, extracted, *NONE_NEAR)


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
    values = {HUMAN: {NDCG: people + noise[:asked]}, SEEN: {NDCG: written + noise}}
    return Scores(name, None, values, {HUMAN: np.arange(asked), SEEN: np.arange(200)})


def test_written_questions_may_fall_where_people_gain() -> None:
    settings = load_settings()
    for asked, written, promoted in ((30, 0.6, True), (29, 0.6, False), (30, 0.4, False)):
        before, after = scores("live", 0.5, 0.7, asked), scores("candidate", 0.8, written, asked)
        assert compare(after, before, settings).promote is promoted
        assert (SEEN in compare_for_drop(after, before, settings)) is not promoted
        assert HUMAN in compare_for_drop(before, after, settings)


@pytest.mark.parametrize(("loss", "shown"), [(0.0, False), (0.004, False), (0.006, True)])
def test_a_drop_within_the_tolerance_is_none(loss: float, shown: bool) -> None:
    before, after = scores("live", 0.5, 0.7, 30), scores("candidate", 0.5 - loss, 0.7, 30)
    assert bool(compare_for_drop(after, before, load_settings(gate_epsilon=0.005))) is shown


def test_of_many_generated_questions_some_are_judged_and_of_human_ones_all(monkeypatch: pytest.MonkeyPatch) -> None:
    human = [0] * 40 + [1] * 20
    questions = table([*range(60)], human, [*["unseen_test"] * 25, *["seen_test"] * 15, *["unseen_test"] * 20])
    ids = np.arange(60)
    chunks = ChunkTable(ids, ids, ids.astype(np.int32), ids[:, None], np.ones(60, dtype=bool))
    everything = held_out(questions, chunks)
    assert {name: len(key.rows) for name, key in everything.items()} == {UNSEEN: 25, SEEN: 15, HUMAN: 20}
    monkeypatch.setattr(scoring, "MOST_GENERATED", 15)
    some = held_out(questions, chunks)
    assert some[UNSEEN].rows.tolist() == [*range(0, 25, 2)]
    assert [rows.tolist() for rows in some[UNSEEN].positives] == [[row] for row in range(0, 25, 2)]
    assert {name: len(some[name].rows) for name in (SEEN, HUMAN)} == {SEEN: 15, HUMAN: 20}


def test_a_language_model_wrote_where_most_questions_that_move_rows_are_its_own() -> None:
    questions = table([1, 2, 3, 4, 5], [0, 0, 0, 1, 0], ["train"] * 4 + ["seen_test"])
    moves = np.array([True, True, True, True, False])
    for extracted, expected in (([0, 0, 1, 0, 1], True), ([0, 1, 1, 0, 0], False), ([1, 1, 1, 0, 0], False)):
        assert llm_wrote(replace(questions, moves=moves, extracted=np.array(extracted, dtype=bool))) is expected
    assert not llm_wrote(questions.none())


def test_a_gain_by_the_encoder_does_not_excuse_a_loss_by_text() -> None:
    settings = load_settings()

    def by_path(encoder: float, text: float) -> Scores:
        one = scores("s", 0.5, encoder, 0).values[SEEN], scores("s", 0.5, text, 0).values[SEEN]
        names = (SEEN, SEEN + BY_TEXT)
        return Scores("s", None, dict(zip(names, one, strict=True)), dict.fromkeys(names, np.arange(200)))

    live = by_path(0.5, 0.5)
    for encoder, text, promoted in ((0.6, 0.6, True), (0.6, 0.5, True), (0.5, 0.6, True), (0.6, 0.4, False)):
        assert compare(by_path(encoder, text), live, settings).promote is promoted
    assert f"lost on {SEEN}{BY_TEXT}" in compare(by_path(0.6, 0.4), live, settings).reasons[-1]
    assert compare(by_path(0.4, 0.6), live, settings).promote is False
    # A live generation of an older release has no lexicon, so nothing to lose by text.
    older = Scores("s", None, {SEEN: live.values[SEEN]}, {SEEN: np.arange(200)})
    assert compare(by_path(0.6, 0.4), older, settings).promote
    assert mean_quality(by_path(0.6, 0.4), settings) == pytest.approx(0.5, abs=0.01)
    assert mean_quality(by_path(0.6, 0.4), settings, older) == pytest.approx(0.6, abs=0.01)


def test_candidates_are_ranked_by_the_questions_that_decide() -> None:
    people, written, together = 0.8, 0.4, 0.6
    for asked, least, expected in ((30, 30, people), (29, 30, written), (30, 201, together)):
        found = mean_quality(scores("candidate", people, written, asked), load_settings(gate_min_questions=least))
        assert found == pytest.approx(expected, abs=0.01)


CHUNKS = ChunkTable(
    np.array([10, 11, 12, 13, 14]), np.array([2, 1, 2, 1, 3]), np.full(5, -1, np.int32), np.full((5, 1), -1),
    np.ones(5, bool),
)  # fmt: skip
"""Documents 2, 1, 2, 1, 3."""


def test_every_chunk_of_what_people_name_is_right_and_the_one_with_the_question_moves() -> None:
    # Two documents are right for text 7; 8 is a written question about a chunk of document 2; 9 has no chunk.
    questions = QuestionTable(
        np.arange(5), np.array([12, 11, 10, 14, 99]), np.array([2, 1, 2, 3, 4]), np.array(["seen_test"] * 5),
        np.array([7, 7, 8, 6, 9]), np.array([True, True, False, True, True]), np.ones(5, dtype=bool),
        np.zeros(5, dtype=bool), near_rows=np.array([0, 0, 3]), near_chunk_ids=np.array([10, 98, 13]),
    )  # fmt: skip
    everything = np.ones(5, dtype=bool)
    whole, moving = judged(questions, CHUNKS, everything), judged(questions, CHUNKS, everything, moving=True)
    assert whole.rows.tolist() == moving.rows.tolist() == [0, 2, 3]
    assert [rows.tolist() for rows in whole.positives] == [[0, 1, 2, 3], [0], [4]]
    assert [rows.tolist() for rows in moving.positives] == [[0, 1, 2], [0], [3, 4]], "98 is no chunk any more"
    later = judged(questions, CHUNKS, np.array([False, True, True, True, True]), moving=True)
    assert [rows.tolist() for rows in later.positives] == [[1], [0], [3, 4]], "row 0 is not chosen"


@tried(max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 7), max_size=6))
def test_all_chunks_of_documents(documents: list[int], wanted: list[int]) -> None:
    table = ChunkTable(
        np.arange(len(documents)), np.array(documents, dtype=np.int64), np.empty(0, np.int32), np.empty((0, 1)),
        np.ones(len(documents), bool),
    )  # fmt: skip
    place, rows = table.of_documents(np.array(wanted, dtype=np.int64))
    expected = [(at, row) for at, key in enumerate(wanted) for row, own in enumerate(documents) if own == key]
    assert list(zip(place.tolist(), rows.tolist(), strict=True)) == expected


def test_peoples_questions_want_a_document_and_written_ones_their_chunk() -> None:
    # By this question the chunks rank 14, 13, 12, 11, 10: documents 3, 1, 2.
    vectors = np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], dtype=np.float32)
    system = System("s", None, np.ones((2, 1), dtype=np.float32), vectors)
    questions = QuestionTable(
        np.arange(2), np.array([10, 10]), np.array([2, 2]), np.array(["seen_test"] * 2), np.array([1, 2]),
        np.array([True, False]), np.zeros(2, dtype=bool), np.zeros(2, dtype=bool), *NONE_NEAR,
    )  # fmt: skip
    found = score(system, questions, CHUNKS, np.empty(0, np.int64))
    assert found.values[HUMAN][NDCG].tolist() == [1 / np.log2(4)]
    assert found.values[SEEN][NDCG].tolist() == [1 / np.log2(6)]


@pytest.mark.parametrize(
    ("goal", "questions", "topics", "promoted", "rank"),
    [
        ("answers", 0.6, 0.2, True, 0.6),
        ("answers", 0.5, 0.9, False, 0.5),
        ("topics", 0.46, 0.6, True, 0.6),
        ("topics", 0.44, 0.6, False, 0.6),  # found much worse by questions
        ("topics", 0.9, 0.5, False, 0.5),
        ("both", 0.5, 0.6, True, 0.55),
        ("both", 0.6, 0.5, True, 0.55),
        ("both", 0.6, 0.49, False, 0.545),
        ("both", 0.49, 0.6, False, 0.545),
    ],
)
def test_the_goal_says_if_questions_or_topics_promote(
    goal: str, questions: float, topics: float, promoted: bool, rank: float
) -> None:
    settings = load_settings(gate_goal=goal)

    def measured(questions: float, topics: float) -> Scores:
        noise = 0.001 * np.random.default_rng(1).standard_normal(200)
        values = {SEEN: {NDCG: questions + noise}, TOPICS: {TOPIC_AGREEMENT: topics + noise}}
        return Scores("s", None, values, {SEEN: np.arange(200), TOPICS: np.arange(200)})

    candidate, rival = measured(questions, topics), measured(0.5, 0.5)
    verdict = compare(candidate, rival, settings)
    assert verdict.promote is promoted
    assert any(f"{TOPICS}: topic agreement@10 changes by {topics - 0.5:+.4f}" in line for line in verdict.reasons)
    assert mean_quality(candidate, settings) == pytest.approx(rank, abs=0.001)


def test_topic_agreement_is_of_other_documents_whose_split_is_test() -> None:
    unseen = [number for number in range(200) if is_unseen_test(number)][:2]
    seen = [number for number in range(200) if not is_unseen_test(number)][:12]
    documents = np.array([unseen[0], unseen[0], unseen[1], *seen])
    order = np.argsort(documents)
    # The first unseen document is near the first six others, which share one of its two levels, and near itself.
    places = {unseen[0]: 0.0, unseen[1]: 2.0} | {number: 0.1 + 0.05 * place for place, number in enumerate(seen)}
    angles = np.array([places[number] for number in documents[order]])
    paths = {number: [1, 3 if place < 6 else 4] for place, number in enumerate(seen)}
    paths |= {unseen[0]: [1, 2], unseen[1]: [-1, -1]}
    table = ChunkTable(
        np.arange(len(order)), documents[order],
        np.array([0 if number != unseen[1] else -1 for number in documents[order]], dtype=np.int32),
        np.array([paths[number] for number in documents[order]]), np.ones(len(order), bool),
    )  # fmt: skip
    rows = unseen_documents(table)
    assert table.document_ids[rows].tolist() == [unseen[0]], "one chunk of each, with a topic"
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    none = QuestionTable(*(np.empty(0, kind) for kind in (int, int, int, str, int, bool, bool, bool, int, int)))
    found = score(System("s", None, vectors[:0], vectors), none, table, rows)
    assert found.values[TOPICS][TOPIC_AGREEMENT].tolist() == [0.5]
    assert found.documents[TOPICS].tolist() == [unseen[0]]


def test_topics_alone_judge_only_where_they_are_a_goal() -> None:
    alone = Scores("s", None, {TOPICS: {TOPIC_AGREEMENT: np.full(40, 0.5)}}, {TOPICS: np.arange(40)})
    judged_by = {goal: is_judged(alone, load_settings(gate_goal=goal)) for goal in ("answers", "topics", "both")}
    assert judged_by == {"answers": False, "topics": True, "both": True}
    assert mean_quality(alone, load_settings(gate_goal="both")) == 0.5
