"""Step train: the configuration of each objective, and what happens to a training that takes too long."""

from types import SimpleNamespace

import numpy as np
import pytest

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import load_settings
from heal_tasks.steps import train
from heal_tasks.steps.train import TRAIN, training_config
from heal_tasks.store.runs.runs import RunRepository


@pytest.mark.parametrize(
    ("change", "rate"),
    [({}, 5e-5), ({"train_adapter": "lora"}, 2e-5), ({"train_adapter": "lora", "train_learning_rate": 3e-4}, 3e-4)],
)
def test_the_learning_rate_follows_the_adapter_unless_set(change, rate):
    assert training_config(load_settings(**change), by_people=False).learning_rate == rate


def test_devices_processes_and_micro_batches_keep_the_identity():
    usual, cut, other = (
        training_config(load_settings(**change), by_people=False).identity()
        for change in (
            {},
            {"device": "cpu", "train_micro_batch": 4, "train_processes": 2},
            {"base_weight": 0.3},
        )
    )
    assert usual == cut != other


@pytest.mark.parametrize(
    ("change", "by_people", "expected"),
    [
        ({}, False, (0.25, 0.5, 1.0)),
        ({}, True, (0.0, 0.0, 0.1)),
        ({"idf_power": 0.0, "train_base_share": 0.0, "base_weight": 0.0}, False, (0.0, 0.0, 0.0)),
        ({"idf_power": 1.0, "train_base_share": 0.2}, True, (1.0, 0.2, 0.1)),
    ],
)
def test_written_questions_keep_half_of_the_base_model_unless_set(change, by_people, expected):
    config = training_config(load_settings(**change), by_people=by_people)
    assert (config.idf_power, config.base_share, config.base_weight) == expected


@pytest.mark.parametrize(
    ("objective", "by_people", "expected"),
    [
        ("answers", False, (False, 0.0, 0.5, "ndcg@10")),
        ("topics", False, (False, 0.3, 0.5, "topic_agreement@10")),
        ("topics", True, (False, 0.3, 0.0, "topic_agreement@10")),
        ("paper", True, (True, 0.0, 0.0, "topic_agreement@10")),
    ],
)
def test_an_objective_decides_the_terms_and_the_validation(objective, by_people, expected):
    config = training_config(load_settings(), by_people, objective)
    assert (config.paper, config.heal_weight, config.base_share, config.metric) == expected


@pytest.mark.parametrize(
    ("objective", "limit", "minutes", "device", "skipped"),
    [
        ("topics", 3, 3.1, "cpu", True),
        ("topics", 3, 2.9, "cpu", False),
        ("topics", 3, 3.1, "cuda:0", False),
        ("topics", 0, 0.0, "cpu", True),
        ("answers", 3, 3.1, "cpu", False),
        ("answers", 0, 3.1, "cpu", False),
    ],
)
def test_only_further_objectives_have_a_limit_and_only_without_a_gpu(
    objective, limit, minutes, device, skipped, monkeypatch
):
    monkeypatch.setattr(train, "pick_device", lambda _: device)
    data = SimpleNamespace(leaves=np.array([0, 1, -1]))
    why = train._why_skipped(load_settings(extra_training_minutes=limit), objective, data, minutes)
    expected = f"the answers model took {minutes:.1f} minutes, and HEAL_EXTRA_TRAINING_MINUTES={limit} without a GPU"
    assert why == (expected if skipped else "")


@pytest.mark.parametrize("leaves", [[0, 0, -1], [-1, -1]])
def test_topics_are_trained_only_where_there_are_two(leaves, monkeypatch):
    monkeypatch.setattr(train, "pick_device", lambda _: "cuda:0")
    data = SimpleNamespace(leaves=np.array(leaves))
    assert train._why_skipped(load_settings(), "topics", data, 1.0) == "the training documents have no two topics"
    assert train._why_skipped(load_settings(), "answers", data, 1.0) == ""


def test_a_model_that_a_killed_try_has_finished_is_not_trained_again(settings, monkeypatch):
    monkeypatch.setattr(train, "train_encoder", None)
    artifacts, config = artifact_store(settings), training_config(settings, by_people=False)
    key = fingerprint(["set", train._base_sha256(SimpleNamespace(settings=settings)), config.identity()])
    with artifacts.writing(f"models/{key}") as folder:
        (folder / "card.json").write_text("{}")
    manifest = Manifest(run_id="r", refs={"training_set_uri": "set"})
    context = SimpleNamespace(settings=settings, manifest=manifest, artifacts=artifacts)
    made = train._train(context, "answers", config, None, None)
    assert made.refs == {"answers_model_uri": artifacts.uri(f"models/{key}")}
    assert made.note.startswith("answers: trained before")


def test_the_shards_of_a_run_are_one_step_with_the_same_inputs(auto, settings):
    """Each task trains its own objective; the second finds the time of the first."""
    manifest = Manifest(run_id="r", refs={"training_set_uri": "", "by_people": 0})
    made = [TRAIN.run(settings, manifest, shard, 2) for shard in (0, 1)]
    assert [[ref for ref in item.refs if ref.endswith("model_uri")] for item in made] == [
        ["answers_model_uri"], ["topics_model_uri"],
    ]  # fmt: skip
    rows = RunRepository(auto).steps_of("r")
    assert [(row.step, row.shard) for row in rows] == [("train", 0), ("train", 1)]
    context = SimpleNamespace(conn=auto, run_id="r", shard=1)
    assert train._first_minutes(context) > 0
