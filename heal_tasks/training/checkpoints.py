"""Finds the checkpoint that a killed training can go on from, and clears away what it cannot use.

The Trainer writes ``trainer_state.json`` last, without renaming. A kill leaves a folder without it, or with half of
it, or, when it strikes while an old checkpoint is being deleted, with it and without the weights.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from heal_tasks.core.types import JsonObject
from heal_tasks.training.adapters import WEIGHTS

STATE = "trainer_state.json"
RUN = "run.json"
BASE_VECTORS = "base.safetensors"
_NEEDED = (STATE, "optimizer.pt", "scheduler.pt", "**/*.safetensors", "rng_state*.pth")
# What a model is saved with: its list of modules, or an adapter's matrices alone.
_MODEL = ("modules.json", WEIGHTS)
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(work_dir: Path, step: int) -> Path:
    """Where the Trainer keeps the checkpoint of a step."""
    return work_dir / f"checkpoint-{step}"


def read_state(checkpoint: Path) -> JsonObject | None:
    """The Trainer's state in a checkpoint; None if the checkpoint is not whole."""
    if not all(any(checkpoint.glob(name)) for name in _NEEDED) or not any((checkpoint / n).is_file() for n in _MODEL):
        return None
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return state if isinstance(state, dict) and "global_step" in state else None


def open_work_dir(work_dir: Path, run: JsonObject) -> JsonObject:
    """Prepare the folder: what belongs to another run, or is not whole, goes.

    Args:
        work_dir: made if it is not there.
        run: what decides the result of the training; checkpoints are kept only for an equal one.

    Returns:
        Facts that ``remember`` stored for this run; empty at its start.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    stored = _read_json(work_dir / RUN)
    same = stored.get("run") == json.loads(json.dumps(run))
    for folder in work_dir.iterdir():
        if _NAME.fullmatch(folder.name) and (not same or read_state(folder) is None):
            shutil.rmtree(folder)
    if same:
        return dict(stored["facts"])
    (work_dir / BASE_VECTORS).unlink(missing_ok=True)
    remember(work_dir, run, {})
    return {}


def remember(work_dir: Path, run: JsonObject, facts: JsonObject) -> None:
    """Store the run and facts about it that a retry need not compute again."""
    fresh = work_dir / f"{RUN}.new"
    fresh.write_text(json.dumps({"run": run, "facts": facts}, sort_keys=True), encoding="utf-8")
    fresh.replace(work_dir / RUN)


def last_checkpoint(work_dir: Path) -> tuple[Path, JsonObject] | None:
    """The newest checkpoint whose best checkpoint is there as well, with its state.

    Args:
        work_dir: after ``open_work_dir``.

    Returns:
        Folder and the Trainer's state, or None to start from the base model.
    """
    found = [folder for folder in work_dir.iterdir() if _NAME.fullmatch(folder.name)]
    for folder in sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        state = read_state(folder)
        if state is None or not checkpoint_folder(work_dir, int(state["best_global_step"])).is_dir():
            continue
        return folder, state
    return None


def is_finished(state: JsonObject) -> bool:
    """Whether the Trainer meant to stop where this state was saved: last step done, or stopped early."""
    control: Any = state["stateful_callbacks"]["TrainerControl"]
    return bool(control["args"]["should_training_stop"])


def _read_json(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
