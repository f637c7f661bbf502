"""The working folder of a training: checkpoints, facts about the run, base vectors, and the batch that failed.

The Trainer writes ``trainer_state.json`` last and without renaming, so a kill leaves a checkpoint without that file,
with half of it, or (while an old checkpoint is being deleted) with it and without the weights.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from heal_tasks.core.files import private_folder
from heal_tasks.core.types import JsonObject

BASE_VECTORS = "base.safetensors"
_ADAPTER = "adapter_model.safetensors"
_STATE = "trainer_state.json"
_RUN = "run.json"
_NEEDED = (_STATE, "optimizer.pt", "scheduler.pt", "**/*.safetensors", "rng_state*.pth")
# A saved model has a list of modules, an adapter has its matrices only.
_MODEL = ("modules.json", _ADAPTER)
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(work_dir: Path, step: int) -> Path:
    """The Trainer's folder for the checkpoint of a step."""
    return work_dir / f"checkpoint-{step}"


def read_state(checkpoint: Path) -> JsonObject | None:
    """The Trainer's state in a checkpoint; None if the checkpoint is incomplete."""
    if not all(any(checkpoint.glob(name)) for name in _NEEDED) or not any((checkpoint / n).is_file() for n in _MODEL):
        return None
    state = _read_json(checkpoint / _STATE)
    return state if "global_step" in state else None


def open_work_dir(work_dir: Path, run: JsonObject) -> JsonObject:
    """Make the folder, or remove from it all that belongs to another run or is incomplete.

    Returns:
        Facts that ``remember`` stored for this run; empty at its start. ``run`` is all that decides the result.
    """
    private_folder(work_dir)
    stored = _read_json(work_dir / _RUN)
    same = stored.get("run") == json.loads(json.dumps(run))
    drop_checkpoints(work_dir, complete=not same)
    if same:
        return dict(stored["facts"])
    (work_dir / BASE_VECTORS).unlink(missing_ok=True)
    remember(work_dir, run, {})
    return {}


def drop_checkpoints(work_dir: Path, *, complete: bool) -> None:
    """Remove incomplete checkpoints and half-written files from the folder, and with ``complete`` all checkpoints."""
    for path in work_dir.iterdir() if work_dir.is_dir() else ():
        if _NAME.fullmatch(path.name) and (complete or read_state(path) is None):
            shutil.rmtree(path)
        elif path.suffix == ".new":
            path.unlink()


def remember(work_dir: Path, run: JsonObject, facts: JsonObject) -> None:
    """Store the run and facts about it that a retry need not compute again."""
    fresh = work_dir / f"{_RUN}.new"
    fresh.write_text(json.dumps({"run": run, "facts": facts}, sort_keys=True), encoding="utf-8")
    fresh.replace(work_dir / _RUN)


def last_checkpoint(work_dir: Path) -> tuple[Path, JsonObject] | None:
    """The newest checkpoint whose best checkpoint is also there, with the Trainer's state; None if there is none."""
    found = [folder for folder in work_dir.iterdir() if _NAME.fullmatch(folder.name)]
    for folder in sorted(found, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        state = read_state(folder)
        if state is not None and checkpoint_folder(work_dir, int(state["best_global_step"])).is_dir():
            return folder, state
    return None


def is_finished(state: JsonObject) -> bool:
    """True if the Trainer ended where this state was saved: last step done, or stopped early."""
    control: Any = state["stateful_callbacks"]["TrainerControl"]
    return bool(control["args"]["should_training_stop"])


def save_weights(model: SentenceTransformer, folder: str | Path, *, adapter: bool) -> None:
    """Write the weights of a checkpoint as safetensors: the whole model, or the matrices of its adapter."""
    if not adapter:
        model.save_pretrained(str(folder), create_model_card=False)
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model[0].model)
    save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, Path(folder) / _ADAPTER)


def load_adapter(model: SentenceTransformer, folder: str | Path) -> None:
    """Read the matrices that ``save_weights`` wrote into a model that ``add_adapter`` prepared the same way."""
    set_peft_model_state_dict(model[0].model, load_file(Path(folder) / _ADAPTER))


def stored_tensors(file: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in a safetensors file, which is computed and written if it is missing."""
    if not file.is_file():
        fresh = file.with_suffix(".new")
        save_file(compute(), fresh)
        fresh.replace(file)
    return dict(load_file(file))


def write_bad_batch(work_dir: str, batch: JsonObject) -> Path:
    """Write the texts of a batch without a finite loss or gradient; returns the file."""
    file = Path(work_dir) / "bad_batch.json"
    file.write_text(json.dumps(batch, indent=1, ensure_ascii=False), encoding="utf-8")
    return file


def _read_json(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
