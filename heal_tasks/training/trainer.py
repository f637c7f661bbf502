"""Fine-tunes an encoder on questions and topic paths; survives a kill; hands over the best look it had.

The loop is the sentence-transformers Trainer. Its checkpoints (weights, optimiser, random state, patience) make
a killed run continue instead of starting over; the saved model is read back from the best checkpoint,
because the Trainer's own way of loading it logs a failure and goes on with the last weights.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.types import JsonObject, Progress, silent
from heal_tasks.training.checkpoints import checkpoint_folder, is_finished, last_checkpoint, open_work_dir, remember
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import TrainingData, ValidationSet
from heal_tasks.training.encoder import (
    CARD,
    limited_threads,
    load_encoder,
    model_sha256,
    supports_bf16,
    without_bars,
)
from heal_tasks.training.looks import NDCG, ProgressReport, RetrievalLook
from heal_tasks.training.loop import make_trainer

__all__ = ["TrainingConfig", "TrainingData", "TrainingResult", "ValidationSet", "train_encoder"]

_PACKAGES = ("torch", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Args:
        model_dir: the folder with the saved model.
        model_sha256: see ``encoder.model_sha256``.
        steps: optimiser steps done, those before a kill included.
        best_step: step whose weights were saved.
        base_ndcg: nDCG@10 of the base model on the validation set.
        best_ndcg: nDCG@10 of the saved model; may be below the base model's.
        improved: whether the saved model beats the base model on the validation set.
        resumed_from_step: checkpoint that this call went on from; 0 if it started from the base model.
        stop_reason: why training stopped before ``max_steps``; empty if it did not.
        history: one entry per look: step, ndcg, and the mean losses since the look before.
    """

    model_dir: Path
    model_sha256: str
    steps: int
    best_step: int
    base_ndcg: float
    best_ndcg: float
    improved: bool
    resumed_from_step: int
    stop_reason: str
    history: Sequence[JsonObject]


def train_encoder(
    base_model: str | Path,
    data: TrainingData,
    validation: ValidationSet,
    config: TrainingConfig,
    *,
    work_dir: Path,
    output_dir: Path,
    data_fingerprint: str,
    progress: Progress = silent,
) -> TrainingResult:
    """Fine-tune, or go on where a killed call with the same arguments stopped.

    Every ``eval_steps`` steps the model is judged by nDCG@10 on the validation set and saved to ``work_dir``.
    The weights with the best value are written to ``output_dir``, even if the base model's was better:
    whether a trained model is used is the gate's decision.

    Args:
        base_model: folder of the encoder to start from.
        data: training pairs.
        validation: held-out questions; every look encodes all of its texts, so a few thousand documents are plenty.
        config: how to train.
        work_dir: checkpoints; the caller deletes it once the result is safe. Contents of another run are deleted.
        output_dir: receives the model as safetensors, and ``card.json``.
        data_fingerprint: names the data; checkpoints are used only for the same fingerprint, base model and settings.
        progress: told (step, max_steps, text) after every step and while looking.

    Returns:
        Metrics, and where the model is.

    Raises:
        InputError: no training or validation question, no encoder in ``base_model``, no such device.
        StepError: the loss is not finite.
    """
    if not data.questions or not validation.queries:
        raise InputError(
            f"there are {len(data.questions)} training and {len(validation.queries)} validation questions; "
            "training needs at least one of each"
        )
    device = pick_device(config.device)
    settings = {name: value for name, value in asdict(config).items() if name not in ("device", "threads")}
    run: JsonObject = {
        "base_sha256": model_sha256(base_model),
        "data_fingerprint": data_fingerprint,
        "config": settings,
    }
    facts = open_work_dir(work_dir, run)
    found = last_checkpoint(work_dir)
    with limited_threads(config.threads), without_bars():
        if found is None or not is_finished(found[1]):
            model = load_encoder(base_model, device=device)
            look = RetrievalLook(validation, config.batch_size, config.max_steps, progress)
            if "base_ndcg" not in facts:
                facts = {"base_ndcg": look(model)[NDCG]}
                remember(work_dir, run, facts)
            report = ProgressReport(progress, facts["base_ndcg"])
            trainer = make_trainer(model, data, config, look, report, work_dir, device)
            trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))
    last = last_checkpoint(work_dir)
    if last is None:
        raise StepError(f"no checkpoint was left in {work_dir}; check the space there and run the step again")
    state, base_ndcg = last[1], float(facts["base_ndcg"])
    best = load_encoder(checkpoint_folder(work_dir, state["best_global_step"]), device="cpu")
    output_dir.mkdir(parents=True, exist_ok=True)
    with without_bars():
        best.save_pretrained(str(output_dir), create_model_card=False)
    result = TrainingResult(
        model_dir=output_dir,
        model_sha256=model_sha256(output_dir),
        steps=state["global_step"],
        best_step=state["best_global_step"],
        base_ndcg=base_ndcg,
        best_ndcg=state["best_metric"],
        improved=state["best_metric"] > base_ndcg,
        resumed_from_step=0 if found is None else found[1]["global_step"],
        stop_reason=_stop_reason(state, config, base_ndcg),
        history=_history(state),
    )
    card = {
        "base_model": Path(base_model).name,
        **run,
        "device": device,
        "bf16": supports_bf16(device),
        "model_sha256": result.model_sha256,
        "metrics": {key: getattr(result, key) for key in ("base_ndcg", "best_ndcg", "improved", "best_step", "steps")},
        "stop_reason": result.stop_reason,
        "history": result.history,
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    (output_dir / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return result


def _stop_reason(state: JsonObject, config: TrainingConfig, base_ndcg: float) -> str:
    if state["global_step"] >= config.max_steps:
        return ""
    best = max(base_ndcg, state["best_metric"])
    return f"stopped early after {config.patience} looks in a row that did not beat nDCG@10 {best:.4f}"


def _history(state: JsonObject) -> list[JsonObject]:
    """The Trainer's log, one entry per look."""
    entries: dict[int, JsonObject] = {}
    names = {"loss": "loss", "own_document": "own_document", "heal": "heal", f"eval_{NDCG}": "ndcg"}
    for logged in state["log_history"]:
        entry = entries.setdefault(logged["step"], {"step": logged["step"]})
        entry.update({name: logged[key] for key, name in names.items() if key in logged})
    return [entry for entry in entries.values() if "ndcg" in entry]
