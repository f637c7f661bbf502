import pytest

from heal_tasks.core.settings import load_settings
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
