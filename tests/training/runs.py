"""A training that takes seconds, and readers of its results."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file

from heal_tasks.training.trainer import TrainingConfig, train_encoder

CONFIG = TrainingConfig(
    max_steps=8,
    batch_size=8,
    learning_rate=2e-3,
    max_tokens=16,
    eval_steps=3,
    patience=5,
    heal_weight=0.1,
    device="cpu",
    dtype="float32",
)


def run(tiny_encoder, planted, folder, config=CONFIG, **change):
    data, validation = planted
    reports: list[tuple[int, int, str]] = []
    arguments = {
        "work_dir": folder / "work",
        "output_dir": folder / "model",
        "data_fingerprint": "planted",
        "progress": lambda done, total, message="": reports.append((done, total, message)),
    }
    return train_encoder(tiny_encoder, data, validation, config, **{**arguments, **change}), reports


def stop(done, total, message=""):
    """A progress that ends a training in its fifth step."""
    if done == 5:
        raise KeyboardInterrupt


def weights(result):
    return load_file(result.model_dir / "model.safetensors")


def furthest(left, right) -> float:
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def trained_steps(reports):
    return [done for done, _, message in reports if message.startswith("loss")]


def quiet(model: Path, folder: Path) -> Path:
    """A copy of an encoder without dropout, whose gradient does not depend on how a batch is cut."""
    copied = shutil.copytree(model, folder / "quiet")
    config = json.loads((copied / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (copied / "config.json").write_text(json.dumps(config))
    return copied
