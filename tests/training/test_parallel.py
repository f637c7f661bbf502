"""Trainings in several processes."""

import dataclasses
import multiprocessing
from collections.abc import Iterator
from functools import partial
from multiprocessing import forkserver

import pytest
import torch
from safetensors.torch import load_file

from heal_tasks.core.errors import InputError, StepError
from heal_tasks.training import parallel
from heal_tasks.training.parallel import run_processes
from tests.training.runs import CONFIG, furthest, quiet, run, trained_steps, weights


def test_more_processes_than_gpus_are_refused(tiny_encoder, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="processes is 2, and torch sees 1 GPUs; set HEAL_TRAIN_PROCESSES to 1"):
        run(tiny_encoder, planted, tmp_path, dataclasses.replace(CONFIG, processes=2))


@pytest.fixture
def imported_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that are forked from one that has all imports, which take each new process several seconds."""
    made = parallel.LaunchConfig
    monkeypatch.setattr(parallel, "LaunchConfig", lambda **options: made(**options | {"start_method": "forkserver"}))
    multiprocessing.set_forkserver_preload(["heal_tasks.training.trainer"])
    yield
    forkserver._forkserver._stop()


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two processes need two GPUs, or none")
def test_two_processes_train_as_one(tiny_encoder, planted, tmp_path, imported_once):
    base = quiet(tiny_encoder, tmp_path)
    one, _ = run(base, planted, tmp_path / "one")
    two, reports = run(base, planted, tmp_path / "two", dataclasses.replace(CONFIG, processes=2))
    assert trained_steps(reports) == list(range(1, 9))
    for name in ("loss", "own_document", "heal", "score"):
        assert [entry[name] for entry in two.history] == pytest.approx([entry[name] for entry in one.history], rel=1e-4)
    moved = furthest(weights(one), load_file(base / "model.safetensors"))
    assert furthest(weights(one), weights(two)) < 1e-2 * moved


def test_a_process_that_fails_ends_the_others_with_its_error():
    with pytest.raises(StepError, match=r"training process \d failed: TypeError: unsupported operand"):
        run_processes(partial(divmod, 1), 2, print)
