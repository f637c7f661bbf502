"""Step sift on a real store: the questions that it drops, and the effect of dropping them."""

import numpy as np
import pytest

from heal_tasks.cli.questions import document_lines
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.ranking import ranks_of
from heal_tasks.report.page import PAGE, read_samples
from heal_tasks.report.summary import summarise
from heal_tasks.steps import sift as sift_step
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.scoring import judged
from heal_tasks.steps.vectors.spaces import in_order
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.questions.questions import SAMPLES, QuestionRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.steps.asking import number
from tests.steps.sift.conftest import DOCUMENTS, K, generation, reasons, sift


def test_drops_questions_whose_chunk_is_not_found(asked: Connection, settings: Settings) -> None:
    manifest = sift(settings)
    rows = asked.execute(
        "SELECT q.question_id, q.text, c.text, q.split, q.writer, q.round_trip_rank, q.dropped_by "
        "FROM heal.question q JOIN heal.chunk c USING (chunk_id)"
    ).fetchall()
    for _, said, text, split, writer, rank, reason in rows:
        if split == "seen_test" or writer == "human":
            assert (rank, reason) == (None, None)
        elif said == text:
            assert (rank, reason) == (1, None)
        else:
            assert rank > 1
            assert reason == ("round_trip" if rank > K else None)
    dropped = sum(reason is not None for *_, reason in rows)
    assert dropped > DOCUMENTS
    assert manifest.counts == {
        "placed": 0, "checked": 3 * DOCUMENTS, "checked_validation": DOCUMENTS, "dropped_round_trip": dropped,
    }  # fmt: skip
    assert manifest.note == (
        f"{2 * DOCUMENTS} training and {DOCUMENTS} validation questions checked, {dropped} dropped by round_trip"
    )


def test_ranks_are_those_of_a_full_sort(asked: Connection, settings: Settings) -> None:
    sift(settings)
    (space,) = SpaceRepository(asked).list()
    ids, vectors = SpaceRepository(asked).load_chunks(space)
    for question_id, chunk_id, rank in asked.execute(
        "SELECT question_id, chunk_id, round_trip_rank FROM heal.question WHERE round_trip_rank IS NOT NULL"
    ):
        (vector,) = in_order(np.array([question_id]), *SpaceRepository(asked).load_questions(space))
        order = [int(ids[row]) for row in np.argsort(-(vectors @ vector), kind="stable")]
        assert rank == 1 + order.index(chunk_id)


def test_what_is_dropped_is_not_learnt_from(asked: Connection, settings: Settings) -> None:
    before = len(Corpus(asked).questions().question_ids)
    sift(settings)
    gone = {key for key, reason in reasons(asked).items() if reason}
    left = Corpus(asked).questions()
    assert set(left.question_ids.tolist()) == set(reasons(asked)) - gone
    assert len(left.question_ids) == before - len(gone)
    counts = QuestionRepository(asked).counts()
    for splits, each in ((("train",), 2), (("train", "unseen_validation"), 3), (("seen_test",), 1)):
        own = asked.execute("SELECT question_id FROM heal.question WHERE split = ANY(%s)", ([*splits],)).fetchall()
        refused = len(gone & {row[0] for row in own})
        in_use = sum(n for writer, _, split, n in counts if writer == "llm" and split in splits)
        assert in_use == each * DOCUMENTS - refused
        assert bool(refused) == (splits != ("seen_test",))


def test_switched_off_or_widened_brings_them_back(
    asked: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sift(settings)
    narrow = reasons(asked)
    again = sift(settings, "r2")
    assert reasons(asked) == narrow
    off = sift(settings, "r3", question_filters="none")
    assert set(reasons(asked).values()) == {None}
    assert off.counts == {"placed": 0, "checked": 3 * DOCUMENTS, "checked_validation": DOCUMENTS}
    monkeypatch.setattr(sift_step, "ROUND_TRIP_K", DOCUMENTS)
    wide = sift(settings, "r4")
    assert wide.counts["dropped_round_trip"] == 0 < again.counts["dropped_round_trip"]


def test_samples_are_few_and_each_question_once(asked: Connection, settings: Settings) -> None:
    first = sift(settings)
    assert first.counts["dropped_round_trip"] > SAMPLES
    for run_id in ("r1", "r2"):
        sift(settings, run_id)
    rows = asked.execute("SELECT run_id, reason, chunk_id, text FROM heal.question_dropped").fetchall()
    assert len(rows) == len(set(rows)) == SAMPLES
    assert {row[:2] for row in rows} == {("r1", "round_trip")}


def test_a_served_generation_is_told_which_chunks_to_compute_again(asked: Connection, settings: Settings) -> None:
    served = generation(asked)
    try:
        state = NudgeState(asked, served)
        for run_id, filters in (("r1", "round_trip"), ("r2", "round_trip"), ("r3", "none")):
            before = reasons(asked)
            sift(settings, run_id, question_filters=filters)
            changed_ids = [key for key, reason in reasons(asked).items() if reason != before[key]]
            expected = asked.execute(
                "SELECT DISTINCT chunk_id FROM heal.question WHERE heal.moves_rows(split) AND text IN "
                "(SELECT text FROM heal.question WHERE question_id = ANY(%s)) ORDER BY 1",
                (changed_ids,),
            ).fetchall()
            assert state.touched().tolist() == [row[0] for row in expected]
            assert bool(expected) == (run_id != "r2")
            state.settle(state.touched())
    finally:
        asked.execute("DELETE FROM heal.generation WHERE generation_id = %s", (served.generation_id,))


def test_a_nudge_leaves_out_what_is_dropped(asked: Connection, settings: Settings) -> None:
    chunk_ids = Corpus(asked).chunks(None).chunk_ids
    state = NudgeState(asked, generation(asked))
    assert len(state.rows(chunk_ids).answers) == 3 * DOCUMENTS
    sift(settings)
    used = asked.execute(
        "SELECT DISTINCT chunk_id, text FROM heal.question WHERE heal.moves_rows(split) AND dropped_by IS NULL"
    ).fetchall()
    rows = state.rows(chunk_ids)
    assert len(rows.answers) == len(used)
    assert sorted(rows.chunk_ids[rows.answers].tolist()) == sorted(chunk_id for chunk_id, _ in used)


def test_a_refused_validation_question_neither_chooses_nor_moves(asked: Connection, settings: Settings) -> None:
    corpus = Corpus(asked)
    sift(settings)
    chunks, questions = corpus.chunks(None), corpus.questions()
    refused = dict(
        asked.execute(
            "SELECT question_id, chunk_id FROM heal.question "
            "WHERE split = 'unseen_validation' AND dropped_by IS NOT NULL"
        ).fetchall()
    )
    assert 0 < len(refused) < DOCUMENTS
    held_out = judged(questions, chunks, questions.in_splits("unseen_validation"))
    assert len(held_out.positives) == DOCUMENTS - len(refused)
    with asked.transaction(force_rollback=True):
        asked.execute("DELETE FROM heal.question WHERE split = 'train'")
        rows = NudgeState(asked, generation(asked)).rows(chunks.chunk_ids)
    moved = rows.chunk_ids[rows.answers]
    assert sorted(moved.tolist()) == sorted(set(chunks.chunk_ids.tolist()) - set(refused.values()))


def test_ranks_are_estimated_from_a_part_of_the_chunks_where_there_are_many(
    asked: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sift(settings)
    query = "SELECT question_id, round_trip_rank FROM heal.question WHERE round_trip_rank IS NOT NULL"
    exact = dict(asked.execute(query).fetchall())
    asked.execute("DELETE FROM heal.step_result WHERE step = 'sift'")
    monkeypatch.setattr(sift_step, "LEAST_COMPARED", DOCUMENTS // 2)
    sift(settings)
    estimated = dict(asked.execute(query).fetchall())
    assert exact.keys() == estimated.keys()
    assert all(estimated[number] == 1 for number, rank in exact.items() if rank == 1)
    apart = np.array([estimated[number] - rank for number, rank in exact.items()])
    assert np.abs(apart).max() > 0
    assert np.abs(apart.mean()) < 0.05 * DOCUMENTS


def test_report_and_terminal_show_them(asked: Connection, settings: Settings) -> None:
    dropped = sift(settings).counts["dropped_round_trip"]
    summary = summarise(asked, "r1")
    assert summary is not None
    assert summary.total("sift", "checked") == 3 * DOCUMENTS
    assert summary.dropped("sift") == {"round_trip": dropped}
    _, sampled = read_samples(asked, summary.run)
    assert {sample.detail for sample in sampled} == {"round_trip"}
    report = load_step("report").run(settings, Manifest(run_id="r1"))
    page = artifact_store(settings).local(report.text("report_uri")) / PAGE
    text = page.read_text(encoding="utf-8")
    assert (
        f"{3 * DOCUMENTS} questions of training and validation checked against the vectors; not trained on:"
        in " ".join(text.split())
    )
    assert f"round_trip {dropped}." in text
    ((document, chunk_id),) = asked.execute(
        "SELECT document_id, chunk_id FROM heal.question JOIN heal.chunk USING (chunk_id) "
        "WHERE dropped_by IS NOT NULL ORDER BY question_id LIMIT 1"
    ).fetchall()
    shown = "\n".join(document_lines(asked, document, None, dropped=True))
    dropped_here = number(
        asked, f"SELECT count(*) FROM heal.question WHERE chunk_id = {chunk_id} AND dropped_by IS NOT NULL"
    )
    assert f"{dropped_here} dropped" in shown
    assert "dropped by filter round_trip" in shown
    kept = number(asked, f"SELECT count(*) FROM heal.question WHERE chunk_id = {chunk_id} AND dropped_by IS NULL")
    assert shown.count("  claim by ") == kept


def test_ranks_of_refuses_what_it_cannot_rank() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert ranks_of(vectors, vectors, np.array([0, 1, 2]), query_block=2).tolist() == [1, 1, 1]
    assert ranks_of(vectors[:1], vectors[[1, 0, 2]], np.array([0])).tolist() == [2]
    for wrong in ([0, 1], [0, 1, 3], [0, 1, -1]):
        with pytest.raises(InputError, match="from 0 to 2"):
            ranks_of(vectors, vectors, np.array(wrong))
