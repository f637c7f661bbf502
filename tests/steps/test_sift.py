"""Step sift on a real store: what it drops, what it leaves alone, and what becomes of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from heal_tasks.cli.questions import print_questions
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Question, Split
from heal_tasks.evaluation.ranking import ranks_of
from heal_tasks.questions.cross_encoder import CrossEncoderJudge
from heal_tasks.report.summary import summarise
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps import sift as sift_step
from heal_tasks.steps.engine.road import load_step
from heal_tasks.steps.quality.scoring import question_set
from heal_tasks.steps.report import PAGE
from heal_tasks.steps.vectors.spaces import in_order
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.vectors import VectorRepository
from heal_tasks.store.questions.questions import SAMPLES, Asked, QuestionRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.asking import add, number

DOCUMENTS = 30
K = 5


@pytest.fixture(autouse=True)
def few_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty documents are too few for the real number of ranks."""
    monkeypatch.setattr(sift_step, "ROUND_TRIP_K", K)


@pytest.fixture(scope="module")
def settings(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(var_dir=tmp_path_factory.mktemp("var"), database_url=module_database_url)


@pytest.fixture(scope="module")
def embedded(settings: Settings) -> Iterator[Connection]:
    """Thirty documents; of each, training questions that say it, that say another's text, and held-out ones."""
    with connect(settings.require_database_url(), autocommit=True) as conn:
        _plant(conn)
        load_step("embed_base").run(settings, Manifest(run_id="r1"))
        yield conn


@pytest.fixture
def asked(embedded: Connection) -> Connection:
    """The same before any question was checked."""
    embedded.execute("DELETE FROM heal.question_dropped")
    embedded.execute("DELETE FROM heal.step_result WHERE step = 'sift'")
    embedded.execute(
        "UPDATE heal.question SET round_trip_rank = NULL, cross_encoder = NULL, cross_encoder_score = NULL, "
        "dropped_by = NULL"
    )
    return embedded


def _plant(conn: Connection) -> None:
    add(conn, range(DOCUMENTS))
    RunRepository(conn).open_run("r1")
    chunks = conn.execute("SELECT chunk_id, text FROM heal.chunk ORDER BY chunk_id").fetchall()
    questions, key = [], 0
    for place, (chunk_id, text) in enumerate(chunks):
        elsewhere, far = (chunks[(place + DOCUMENTS // part) % DOCUMENTS][1] for part in (2, 3))
        for writer, split, said in (
            ("llm", "train", text), ("llm", "train", elsewhere), ("llm", "seen_test", elsewhere),
            ("llm", "unseen_validation", far), ("human", "train", elsewhere),
        ):  # fmt: skip
            key += 1
            questions.append(_question(key, chunk_id, said, writer, split))
    by_chunk = {chunk_id: [item for item in questions if item.chunk_id == chunk_id] for chunk_id, _ in chunks}
    QuestionRepository(conn).store("r1", [Asked(c, "h", "p", "m", found, 0) for c, found in by_chunk.items()], [])


def _question(key: int, chunk_id: int, text: str, writer: str, split: Split) -> Question:
    return Question(
        question_id=key, chunk_id=chunk_id, text=text, answer="a", evidence=text, kind="claim", writer=writer,
        model="m", prompt_hash="p", split=split,
    )  # fmt: skip


def changed(settings: Settings, **changes: object) -> Settings:
    return load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), **changes
    )


def sift(settings: Settings, run_id: str = "r1", **changes: object) -> Manifest:
    with_changes = changed(settings, **changes)
    return load_step("sift").run(with_changes, Manifest(run_id=run_id))


def reasons(conn: Connection) -> dict[int, str | None]:
    return dict(conn.execute("SELECT question_id, dropped_by FROM heal.question ORDER BY 1").fetchall())


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
        "checked": 3 * DOCUMENTS, "checked_validation": DOCUMENTS, "dropped_round_trip": dropped,
    }  # fmt: skip
    assert manifest.note == (
        f"{2 * DOCUMENTS} training and {DOCUMENTS} validation questions checked, {dropped} dropped by round_trip"
    )


def test_ranks_are_those_of_a_full_sort(asked: Connection, settings: Settings) -> None:
    sift(settings)
    generation = GenerationRepository(asked).list("building", "ready")[0]
    ids, vectors = VectorRepository(asked).load_base(generation)
    for question_id, chunk_id, rank in asked.execute(
        "SELECT question_id, chunk_id, round_trip_rank FROM heal.question WHERE round_trip_rank IS NOT NULL"
    ):
        (vector,) = in_order(np.array([question_id]), *VectorRepository(asked).load_questions(generation))
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
    assert off.counts == {"checked": 3 * DOCUMENTS, "checked_validation": DOCUMENTS}
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
    generations = GenerationRepository(asked)
    served = generations.create(kind="reference", run_id="r1", model_uri="m", model_sha256="m", dims=384)
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
    (generation,) = GenerationRepository(asked).list("building", "ready")
    chunk_ids = Corpus(asked).chunks(None).chunk_ids
    state = NudgeState(asked, generation)
    assert len(state.rows(chunk_ids).answers) == 3 * DOCUMENTS
    sift(settings)
    used = asked.execute(
        "SELECT DISTINCT chunk_id, text FROM heal.question WHERE heal.moves_rows(split) AND dropped_by IS NULL"
    ).fetchall()
    rows = state.rows(chunk_ids)
    assert len(rows.answers) == len(used)
    assert sorted(rows.chunk_ids[rows.answers].tolist()) == sorted(chunk_id for chunk_id, _ in used)


def test_a_refused_validation_question_neither_chooses_nor_moves(asked: Connection, settings: Settings) -> None:
    (generation,) = GenerationRepository(asked).list("building", "ready")
    corpus, vectors = Corpus(asked), VectorRepository(asked)
    sift(settings)
    chunks, questions = corpus.chunks(None), corpus.questions()
    refused = dict(
        asked.execute(
            "SELECT question_id, chunk_id FROM heal.question "
            "WHERE split = 'unseen_validation' AND dropped_by IS NOT NULL"
        ).fetchall()
    )
    assert 0 < len(refused) < DOCUMENTS
    own = in_order(questions.question_ids, *vectors.load_questions(generation))
    assert len(
        question_set(questions, own, chunks, questions.in_splits("unseen_validation")).positives
    ) == DOCUMENTS - len(refused)
    with asked.transaction(force_rollback=True):
        asked.execute("DELETE FROM heal.question WHERE split = 'train'")
        rows = NudgeState(asked, generation).rows(chunks.chunk_ids)
    moved = rows.chunk_ids[rows.answers]
    assert sorted(moved.tolist()) == sorted(set(chunks.chunk_ids.tolist()) - set(refused.values()))


def test_report_and_terminal_show_them(
    asked: Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    dropped = sift(settings).counts["dropped_round_trip"]
    summary = summarise(asked, "r1")
    assert summary is not None
    assert (summary.checked(), summary.sifted()) == (3 * DOCUMENTS, {"round_trip": dropped})
    assert {row[2] for row in summary.dropped_samples} == {"round_trip"}
    report = load_step("report").run(settings, Manifest(run_id="r1"))
    page = artifact_store(settings).local(report.text("report_uri")) / PAGE
    text = page.read_text(encoding="utf-8")
    assert (
        f"{3 * DOCUMENTS} questions of training and validation checked against the vectors; not learnt from:"
        in " ".join(text.split())
    )
    assert f"round_trip {dropped}." in text
    ((document, chunk_id),) = asked.execute(
        "SELECT document_id, chunk_id FROM heal.question JOIN heal.chunk USING (chunk_id) "
        "WHERE dropped_by IS NOT NULL ORDER BY question_id LIMIT 1"
    ).fetchall()
    print_questions(settings, Console(width=300), document_id=document, dropped=True)
    shown = capsys.readouterr().out
    dropped_here = number(
        asked, f"SELECT count(*) FROM heal.question WHERE chunk_id = {chunk_id} AND dropped_by IS NOT NULL"
    )
    assert f"{dropped_here} dropped" in shown
    assert "dropped by filter round_trip" in shown
    kept = number(asked, f"SELECT count(*) FROM heal.question WHERE chunk_id = {chunk_id} AND dropped_by IS NULL")
    assert shown.count("  claim by ") == kept


@pytest.fixture(scope="module")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cross-encoder of two thin layers with random weights, saved as sentence-transformers saves one."""
    folder = tmp_path_factory.mktemp("judge")
    return _tiny(folder, outputs=1)


def _tiny(folder: Path, outputs: int) -> str:
    letters = [f"{mark}{letter}" for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz0123456789.?"]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=outputs, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_cross_encoder_drops_what_it_scores_low(asked: Connection, settings: Settings, tiny_judge: str) -> None:
    sift(settings)
    lost = {key for key, reason in reasons(asked).items() if reason}
    assert {row[0] for row in asked.execute("SELECT cross_encoder_score FROM heal.question")} == {None}
    model = CrossEncoder(tiny_judge, device="cpu")
    pairs = asked.execute(
        "SELECT q.question_id, q.text, d.title, c.text FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
        "JOIN heal.document d USING (document_id) WHERE heal.moves_rows(q.split) AND q.writer = 'llm'"
    ).fetchall()
    logits = {
        key: float(model.predict([(text, embedding_text(title, body))], activation_fn=torch.nn.Identity())[0])
        for key, text, title, body in pairs if key not in lost
    }  # fmt: skip
    expected = {key: 1 / (1 + np.exp(-value)) for key, value in logits.items()}
    threshold = float(np.median(list(expected.values())))
    manifest = sift(settings, "r2", cross_encoder=tiny_judge, cross_encoder_min_score=threshold, device="cpu")
    scored = dict(
        asked.execute(
            "SELECT question_id, cross_encoder_score FROM heal.question WHERE cross_encoder IS NOT NULL"
        ).fetchall()
    )
    assert scored == pytest.approx(expected, abs=1e-5)
    low = {key for key, reason in reasons(asked).items() if reason == "cross_encoder"}
    clear = {key for key, value in expected.items() if abs(value - threshold) > 1e-5}
    assert low & clear == {key for key in clear if expected[key] < threshold}
    assert 0 < len(low) < len(expected)
    assert manifest.counts["dropped_cross_encoder"] == len(low)
    assert {key for key, reason in reasons(asked).items() if reason == "round_trip"} == lost
    assert ("r2", "cross_encoder") in asked.execute("SELECT run_id, reason FROM heal.question_dropped").fetchall()


def test_scores_are_kept_so_that_nothing_is_scored_twice(
    asked: Connection, settings: Settings, tiny_judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    scores = CrossEncoderJudge.scores

    def counted(self: CrossEncoderJudge, pairs: list[tuple[str, str]]) -> list[float]:
        seen.append(len(pairs))
        return scores(self, pairs)

    monkeypatch.setattr(CrossEncoderJudge, "scores", counted)
    first = sift(settings, cross_encoder=tiny_judge, device="cpu")
    assert seen == [3 * DOCUMENTS - first.counts["dropped_round_trip"]]
    verdicts = reasons(asked)
    again = sift(settings, "r2", cross_encoder=tiny_judge, device="cpu")
    assert len(seen) == 1
    assert (again.counts, reasons(asked)) == (first.counts, verdicts)


def test_a_wrong_cross_encoder_is_named(asked: Connection, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 outputs; give a cross-encoder with one"):
        sift(settings, cross_encoder=_tiny(tmp_path, outputs=2), device="cpu")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty holds no cross-encoder"):
        sift(settings, cross_encoder=str(empty), device="cpu")


def test_ranks_of_refuses_what_it_cannot_rank() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert ranks_of(vectors, vectors, np.array([0, 1, 2]), query_block=2).tolist() == [1, 1, 1]
    assert ranks_of(vectors[:1], vectors[[1, 0, 2]], np.array([0])).tolist() == [2]
    for wrong in ([0, 1], [0, 1, 3], [0, 1, -1]):
        with pytest.raises(InputError, match="from 0 to 2"):
            ranks_of(vectors, vectors, np.array(wrong))


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"HEAL_CROSS_ENCODER_MIN_SCORE='1.5'"):
        load_settings(cross_encoder_min_score="1.5")
