"""Step sift with a cross-encoder as a second judge."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.questions.cross_encoder import CrossEncoderJudge
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.store.db import Connection
from tests.steps.sift.conftest import DOCUMENTS, reasons, sift


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


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"HEAL_CROSS_ENCODER_MIN_SCORE='1.5'"):
        load_settings(cross_encoder_min_score="1.5")
