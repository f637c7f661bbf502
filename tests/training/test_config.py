import pytest

from heal_tasks.core.errors import InputError
from heal_tasks.training.config import TrainingConfig


def test_a_batch_that_the_processes_cannot_share_equally_is_refused():
    with pytest.raises(InputError, match="batch_size 9 must be a multiple of processes 2"):
        TrainingConfig(batch_size=9, processes=2)


@pytest.mark.parametrize(
    ("max_steps", "steps_per_epoch", "expected"),
    [(40, 6250, 20), (6000, 6250, 300), (6000, 16, 20), (6000, 401, 21), (100_000, 6250, 313)],
)
def test_the_interval_follows_the_epoch_and_has_a_minimum(max_steps, steps_per_epoch, expected):
    assert TrainingConfig(max_steps=max_steps).validation_steps(steps_per_epoch) == expected
