"""Step train: the configuration of each objective, and what happens to a training that takes too long."""

import itertools

import pytest

from heal_tasks.core.settings import load_settings
from heal_tasks.steps import train
from heal_tasks.steps.train import training_config


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
        ("topics", False, (False, 1.0, 0.0, "topic_agreement@10")),
        ("topics", True, (False, 1.0, 0.0, "topic_agreement@10")),
        ("paper", True, (True, 0.0, 0.0, "topic_agreement@10")),
    ],
)
def test_an_objective_decides_the_terms_and_the_validation(objective, by_people, expected):
    config = training_config(load_settings(), by_people, objective)
    assert (config.paper, config.heal_weight, config.base_share, config.metric) == expected


def test_only_further_objectives_have_a_limit_and_only_without_a_gpu(monkeypatch):
    settings = load_settings(extra_training_minutes=3, device="cpu")
    assert [train._limit(settings, objective) for objective in settings.objectives] == [None, 3]
    monkeypatch.setattr(train, "pick_device", lambda device: "cuda:0")
    assert train._limit(settings, "topics") is None


@pytest.mark.parametrize(("limit", "ends_at"), [(1.9, 2), (2.1, None)])
def test_a_training_that_takes_too_long_ends_after_its_second_step(limit, ends_at, monkeypatch):
    # 40 steps of 3 seconds, the first of a minute: two minutes.
    clock = itertools.chain([60.0], itertools.count(63.0, 3.0))
    monkeypatch.setattr(train.time, "monotonic", lambda: next(clock))
    seen: list[int] = []
    report = train._within(limit, lambda done, total, message="": seen.append(done))
    report(0, 40, "base vectors")
    ended = None
    for step in range(1, 41):
        try:
            report(step, 40)
        except train._TooLongError as found:
            ended = step
            assert found.minutes == pytest.approx(2)
            break
    assert ended == ends_at
    assert seen == list(range((ended or 40) + 1))
