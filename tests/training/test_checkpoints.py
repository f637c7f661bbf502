import json
from pathlib import Path

import pytest

from heal_tasks.training.checkpoints import (
    BASE_VECTORS,
    checkpoint_folder,
    is_finished,
    last_checkpoint,
    open_work_dir,
    remember,
)

RUN = {"base_sha256": "ab", "data": "cd", "config": {"max_steps": 8, "seeds": (1, 2)}}
FILES = ("modules.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")


def checkpoint(work_dir: Path, step: int, *, best: int | None = None, stop: bool = False) -> Path:
    folder = checkpoint_folder(work_dir, step)
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("x")
    control = {"args": {"should_training_stop": stop}, "attributes": {}}
    state = {"global_step": step, "best_global_step": best or step, "stateful_callbacks": {"TrainerControl": control}}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def names(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.glob("checkpoint-*"))


def test_the_newest_whole_checkpoint_by_number(tmp_path: Path):
    open_work_dir(tmp_path, RUN)
    assert last_checkpoint(tmp_path) is None
    for step in (9, 90, 100):
        checkpoint(tmp_path, step, stop=step == 100)
    folder, state = last_checkpoint(tmp_path)
    assert (folder.name, state["global_step"], is_finished(state)) == ("checkpoint-100", 100, True)
    assert not is_finished(json.loads((tmp_path / "checkpoint-90" / "trainer_state.json").read_text()))


@pytest.mark.parametrize("missing", [*FILES, "trainer_state.json"])
def test_a_checkpoint_that_a_kill_left_without_a_file_is_cleared_away(tmp_path: Path, missing: str):
    open_work_dir(tmp_path, RUN)
    checkpoint(tmp_path, 3)
    (checkpoint(tmp_path, 6) / missing).unlink()
    open_work_dir(tmp_path, RUN)
    assert names(tmp_path) == ["checkpoint-3"]
    assert last_checkpoint(tmp_path)[1]["global_step"] == 3


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_half_a_state_is_no_state(tmp_path: Path, length: int):
    open_work_dir(tmp_path, RUN)
    checkpoint(tmp_path, 3)
    state = checkpoint(tmp_path, 6) / "trainer_state.json"
    state.write_text(state.read_text()[:length])
    open_work_dir(tmp_path, RUN)
    assert names(tmp_path) == ["checkpoint-3"]


def test_a_checkpoint_whose_best_one_is_gone_is_not_used(tmp_path: Path):
    open_work_dir(tmp_path, RUN)
    checkpoint(tmp_path, 6, best=6)
    checkpoint(tmp_path, 9, best=3)
    assert last_checkpoint(tmp_path)[1]["global_step"] == 6


def test_facts_are_kept_for_the_same_run_and_dropped_for_another(tmp_path: Path):
    assert open_work_dir(tmp_path, RUN) == {}
    remember(tmp_path, RUN, {"base_score": 0.5})
    vectors = tmp_path / BASE_VECTORS
    vectors.touch()
    checkpoint(tmp_path, 3)
    assert open_work_dir(tmp_path, RUN) == {"base_score": 0.5}
    assert names(tmp_path) == ["checkpoint-3"]
    assert vectors.is_file()
    assert open_work_dir(tmp_path, {**RUN, "data": "other"}) == {}
    assert names(tmp_path) == []
    assert not vectors.exists()


def test_a_run_file_that_cannot_be_read_starts_anew(tmp_path: Path):
    open_work_dir(tmp_path, RUN)
    checkpoint(tmp_path, 3)
    (tmp_path / "run.json").write_text('{"run": ')
    assert open_work_dir(tmp_path, RUN) == {}
    assert names(tmp_path) == []
