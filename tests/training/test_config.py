import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"heal_weight": -1.0}, "heal_weight is -1.0"),
        ({"base_weight": -1.0}, "base_weight is -1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"base_share": 1.0}, "base_share is 1.0"),
        ({"idf_power": -0.5}, "idf_power is -0.5"),
        ({"min_drop": -0.1}, "min_drop is -0.1"),
        ({"micro_batch_size": -1}, "micro_batch_size -1"),
        ({"batch_size": 9, "processes": 2}, "batch_size 9 must be a multiple of processes 2"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**change)


@pytest.mark.parametrize(
    ("max_steps", "steps_per_epoch", "expected"),
    [(40, 6250, 20), (6000, 6250, 300), (6000, 16, 20), (6000, 401, 21), (100_000, 6250, 313)],
)
def test_the_interval_follows_the_epoch_and_has_a_minimum(max_steps, steps_per_epoch, expected):
    assert TrainingConfig(max_steps=max_steps).validation_steps(steps_per_epoch) == expected
