"""Validation during training: its interval, early stopping, and agreement with the library's evaluator."""

import dataclasses

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from transformers import TrainerControl, TrainerState

from heal_tasks.core.errors import InputError
from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT
from heal_tasks.training.encoder import encode, load_encoder, model_sha256
from heal_tasks.training.validation import BaseAwareStopping, Validation
from tests.training.pairs import unknown
from tests.training.runs import CONFIG, run


def test_early_stop_counts_the_base_model_and_saves_the_best_trained_one(tiny_encoder, planted, tmp_path):
    # Weights thrown about by a huge learning rate never beat a base model that already ranks perfectly.
    data, validation = planted
    perfect = dataclasses.replace(
        validation, queries=validation.documents, positives=[np.array([row]) for row in range(64)]
    )
    config = dataclasses.replace(CONFIG, max_steps=50, eval_steps=2, patience=2, min_drop=0.0, learning_rate=0.05)
    config = dataclasses.replace(config, heal_weight=0.0)
    result, _ = run(tiny_encoder, (data, perfect), tmp_path, config)
    assert result.base_score == pytest.approx(1, abs=0.02)
    assert result.steps == 4
    assert result.stop_reason == (
        f"stopped early: 2 consecutive validations at least 0 below nDCG@10 {result.base_score:.4f}"
    )
    assert result.best_score <= result.base_score
    assert result.best_step in (2, 4)
    again, reports = run(tiny_encoder, (data, perfect), tmp_path, config, output_dir=tmp_path / "again")
    assert reports == []
    assert model_sha256(again.model_dir) == model_sha256(result.model_dir)
    assert again.stop_reason == result.stop_reason


def test_training_stops_where_plain_retrieval_falls_and_keeps_the_best_weights(tiny_encoder, planted, tmp_path):
    # An encoder that has learned half of the dictionary is shown wrong answers only.
    data, validation = planted
    good = dataclasses.replace(CONFIG, max_steps=30, batch_size=24, eval_steps=30, learning_rate=6e-3, heal_weight=0.0)
    learned, _ = run(tiny_encoder, planted, tmp_path / "good", good)
    turned = data.documents[48:] + data.documents[:48]
    wrong = dataclasses.replace(data, documents=turned, negatives=[[] for _ in turned], **unknown([[] for _ in turned]))
    config = dataclasses.replace(good, max_steps=48, eval_steps=3, patience=2, base_weight=0.0)
    whole, _ = run(learned.model_dir, (wrong, validation), tmp_path / "whole", dataclasses.replace(config, patience=99))
    values = [entry["score"] for entry in whole.history]
    assert values[-1] < learned.best_score - 0.1, "planted: training to the end does harm"

    result, _ = run(learned.model_dir, (wrong, validation), tmp_path / "interrupted", config)
    assert [entry["score"] for entry in result.history] == values[: len(result.history)]
    assert result.steps < 24
    assert "2 consecutive validations" in result.stop_reason
    assert result.best_score == max(values[: len(result.history)]) > values[-1] + 0.1
    kept = Validation(validation, NDCG, 1, lambda done, total, message="": None)
    assert kept(load_encoder(result.model_dir, device="cpu"))[NDCG] == pytest.approx(result.best_score, abs=1e-6)


@pytest.mark.parametrize(("min_drop", "expected"), [(0.0, [1, 2, 0, 1, 2, 3]), (0.04, [1, 0, 0, 0, 1, 0])])
def test_validations_below_the_best_are_counted_over_checkpoints(min_drop, expected):
    stopping = BaseAwareStopping(3, base_score=0.5, min_drop=min_drop)
    state, control = TrainerState(), TrainerControl()
    outcomes = []
    for value in (0.4, 0.5, 0.6, 0.6, 0.55, 0.59):
        restored = BaseAwareStopping.from_state(stopping.state())
        restored.check_metric_value(None, state, control, value)
        state.best_metric = max(value, state.best_metric or 0)
        outcomes.append(restored.early_stopping_patience_counter)
        stopping = restored
    assert outcomes == expected


def test_base_vectors_stand_in_for_the_base_models_validation(tiny_encoder, planted, tmp_path):
    data, validation = planted
    model = load_encoder(tiny_encoder, device="cpu")
    vectors = encode(model, validation.queries, role="query"), encode(model, validation.documents)
    given = dataclasses.replace(validation, base_vectors=vectors)
    config = dataclasses.replace(CONFIG, max_steps=1, base_weight=0.0)
    usual, usual_reports = run(tiny_encoder, planted, tmp_path / "usual", config)
    result, reports = run(tiny_encoder, (data, given), tmp_path / "given", config)
    assert result.base_score == pytest.approx(usual.base_score, abs=1e-6)
    assert model_sha256(result.model_dir) == model_sha256(usual.model_dir)
    assert [step for step, _, message in usual_reports if message.startswith("validation")] == [0, 1]
    assert [step for step, _, message in reports if message.startswith("validation")] == [1]
    with pytest.raises(InputError, match=r"has \(16, 2\) base vectors for \(16, 64\) queries and documents"):
        dataclasses.replace(validation, base_vectors=(vectors[0], vectors[1][:2]))


def test_topic_agreement_is_the_share_of_levels_that_the_nearest_other_documents_have(tiny_encoder, planted):
    _, validation = planted
    ids, paths = validation.document_ids // 2, validation.paths.copy()  # two texts of each document
    paths[::5, 1] = -1
    validation = dataclasses.replace(validation, document_ids=ids, paths=paths)
    model = load_encoder(tiny_encoder, device="cpu")
    vectors = encode(model, validation.documents)
    shares = []
    for row in np.unique(np.concatenate(validation.positives)):
        others = [other for other in range(len(ids)) if ids[other] != ids[row]]
        nearest = sorted(others, key=lambda other: -float(vectors[row] @ vectors[other]))[:10]
        own = [topic for topic in paths[row] if topic >= 0]
        shares += [np.mean([topic in paths[other] for topic in own]) for other in nearest]
    ours = Validation(validation, TOPIC_AGREEMENT, 1, lambda done, total, message="": None)(model)
    assert ours[TOPIC_AGREEMENT] == pytest.approx(np.mean(shares), abs=1e-9)


def test_validation_agrees_with_the_librarys_evaluator(tiny_encoder, planted):
    _, validation = planted
    model = load_encoder(tiny_encoder, device="cpu")
    library = InformationRetrievalEvaluator(
        {str(row): text for row, text in enumerate(validation.queries)},
        {str(row): text for row, text in enumerate(validation.documents)},
        {str(row): set(map(str, found)) for row, found in enumerate(validation.positives)},
        write_csv=False,
    )(model)
    ours = Validation(validation, NDCG, 1, lambda done, total, message="": None)(model)
    assert ours[NDCG] == pytest.approx(library["cosine_ndcg@10"], abs=1e-6)
