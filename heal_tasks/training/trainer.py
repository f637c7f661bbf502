"""Fine-tuning of an encoder on questions and topic paths: resumes after a kill, saves the best validated weights.

The loop is the sentence-transformers Trainer, in this process or in several that share each batch. Its checkpoints
(weights, optimiser, random state, patience) let a killed run continue. The saved model is read from the best
checkpoint, because the Trainer's own way of loading it logs a failure and goes on with the last weights.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch
from accelerate import PartialState
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import WordWeights
from torch import Tensor

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.metrics import Metric, metric_name
from heal_tasks.core.models import CARD, NO_OPTIONS, ModelOptions
from heal_tasks.core.types import JsonObject, Progress, silent
from heal_tasks.training.adapters import add_adapter
from heal_tasks.training.checkpoints import (
    BASE_VECTORS,
    checkpoint_folder,
    is_finished,
    last_checkpoint,
    load_adapter,
    open_work_dir,
    remember,
    stored_tensors,
)
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import NO_NEGATIVE, IntArray, TrainingData, ValidationSet
from heal_tasks.training.encoder import encode, in_bf16, load_encoder, model_sha256
from heal_tasks.training.loop import make_sampler, make_trainer
from heal_tasks.training.objective import BaseVectors, Objective
from heal_tasks.training.parallel import run_processes
from heal_tasks.training.pooling import weight_tokens
from heal_tasks.training.validation import ProgressReport, Validation

__all__ = ["TrainingConfig", "TrainingData", "TrainingResult", "ValidationSet", "train_encoder"]

_PACKAGES = ("torch", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training."""

    model_dir: Path  # the folder with the saved model
    steps: int  # optimiser steps done, those before a kill included
    best_step: int  # step whose weights were saved
    base_score: float  # of the base model on the validation set, by TrainingConfig.metric
    best_score: float  # of the best validation, before base_share is mixed in; may be below base_score
    resumed_from_step: int  # checkpoint that this call resumed from; 0 if it started from the base model
    stop_reason: str  # reason for stopping before max_steps; empty otherwise
    history: Sequence[JsonObject]  # one entry per validation: step, score, and the mean losses since the one before


def train_encoder(
    base_model: str | Path,
    data: TrainingData,
    validation: ValidationSet,
    config: TrainingConfig,
    *,
    options: ModelOptions = NO_OPTIONS,
    work_dir: Path,
    output_dir: Path,
    data_fingerprint: str,
    progress: Progress = silent,
) -> TrainingResult:
    """Fine-tune, or resume a killed call with the same arguments.

    Every ``TrainingConfig.validation_steps`` steps the model is scored on the validation set, always on plain
    text, and saved to ``work_dir``. After ``patience`` consecutive validations at least ``min_drop`` below the
    best, training stops: APEX-Embedding (Aviss 2024, arXiv 2410.18105) interrupts it before convergence. The best
    weights are written to ``output_dir`` even where the base model was better; the gate decides if they are used.

    Args:
        base_model: folder of the encoder to start from.
        data: training pairs.
        validation: each validation encodes all its texts, so a few hundred documents are plenty.
        config: of the training.
        options: prompts and dimensions of the base model, which the trained one keeps.
        work_dir: for checkpoints; the caller deletes it once the result is safe. Files of another run are deleted.
        output_dir: receives the model as safetensors, and ``card.json``.
        data_fingerprint: checkpoints are used only for the same fingerprint, base model and config.
        progress: told (step, max_steps, text) after every step and during validation.

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
    run: JsonObject = {
        "base_sha256": options.identity(model_sha256(base_model)),
        "data_fingerprint": data_fingerprint,
        "config": config.identity(),
    }
    open_work_dir(work_dir, run)
    found = last_checkpoint(work_dir)
    training = _Training(Path(base_model), options, data, validation, config, work_dir, run, device)
    if found is None or not is_finished(found[1]):
        if config.processes > 1:
            run_processes(training.fit, config.processes, progress)
        else:
            training.fit(progress)
    last = last_checkpoint(work_dir)
    if last is None:
        raise StepError(f"no checkpoint was left in {work_dir}; check the space there and run the step again")
    state, base_score = last[1], float(open_work_dir(work_dir, run)["base_score"])
    output_dir.mkdir(parents=True, exist_ok=True)
    best = training.read_model(checkpoint_folder(work_dir, state["best_global_step"]))
    best.save_pretrained(str(output_dir), create_model_card=False)
    result = TrainingResult(
        model_dir=output_dir,
        steps=state["global_step"],
        best_step=state["best_global_step"],
        base_score=base_score,
        best_score=state["best_metric"],
        resumed_from_step=0 if found is None else found[1]["global_step"],
        stop_reason=_stop_reason(state, config, base_score),
        history=_history(state, config.metric),
    )
    card = {
        "base_model": Path(base_model).name,
        **run,
        "device": device,
        "bf16": in_bf16(config.dtype, device),
        "model_sha256": model_sha256(output_dir),
        "metric": config.metric,
        "metrics": {key: getattr(result, key) for key in ("base_score", "best_score", "best_step", "steps")},
        "stop_reason": result.stop_reason,
        "history": result.history,
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    (output_dir / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return result


@dataclass(frozen=True)
class _Training:
    """A training, which is pickled for its processes; ``run`` names it in the working folder."""

    base_model: Path
    options: ModelOptions
    data: TrainingData
    validation: ValidationSet
    config: TrainingConfig
    work_dir: Path
    run: JsonObject
    device: str

    def fit(self, progress: Progress) -> None:
        """Train until the last checkpoint is in the working folder; runs in every process."""
        config, device = self.config, self.device
        processes = PartialState(cpu=device == "cpu")
        if processes.num_processes > 1:
            device = device if device == "cpu" else str(processes.device)
            progress = progress if processes.is_main_process else silent
        quantised = config.adapter == "qlora"
        model = load_encoder(self.base_model, device=device, quantised=quantised, options=self.options)
        bf16 = in_bf16(config.dtype, device)
        validation = Validation(self.validation, config.metric, config.max_steps, progress, bf16=bf16)
        sampler, base_vectors = make_sampler(self.data, config), None
        with processes.main_process_first():
            facts = open_work_dir(self.work_dir, self.run)
            if "base_score" not in facts:
                facts = {"base_score": validation.of_base_model(model)}
                remember(self.work_dir, self.run, facts)
            self._weight_tokens(model)
            if config.base_weight > 0 and not config.paper:
                rows = sampler.rows_of_first(config.max_steps)
                compute = partial(self._base_vectors, model, rows, bf16, progress)
                base_vectors = BaseVectors(**stored_tensors(self.work_dir / BASE_VECTORS, compute))
        found = last_checkpoint(self.work_dir)
        if config.adapter != "none":
            add_adapter(model, rank=config.lora_rank, seed=config.seed)
        report = ProgressReport(progress, config.metric, facts["base_score"])
        objective = Objective(model, self.data, config, base_vectors)
        trainer = make_trainer(
            model, objective, self.data, config, sampler, validation, report, str(self.work_dir), device
        )
        trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))

    def read_model(self, checkpoint: Path) -> SentenceTransformer:
        """A checkpoint as a plain float32 model, with the base model's share mixed in."""
        config = self.config
        if config.adapter == "none":
            model = load_encoder(checkpoint, device="cpu")
            if config.base_share > 0:
                base = load_encoder(self.base_model, device="cpu", options=self.options)
                trained = [module for module in model if type(module) is not WordWeights]
                with torch.no_grad():
                    for module, before in zip(trained, base, strict=True):
                        for weight, start in zip(module.parameters(), before.parameters(), strict=True):
                            weight.lerp_(start, config.base_share)
            return model
        # Merged into the base model's own weights, since 4-bit weights in training were rounded.
        model = load_encoder(self.base_model, device="cpu", options=self.options)
        self._weight_tokens(model)
        # An adapter is a difference to the base model, so scaling it mixes the two.
        add_adapter(model, rank=config.lora_rank, seed=config.seed, share=1 - config.base_share)
        load_adapter(model, checkpoint)
        model[0].model = model[0].model.merge_and_unload()
        return model

    def _weight_tokens(self, model: SentenceTransformer) -> None:
        """Weight the model's pooling by the documents of the training pairs, negatives included."""
        texts = chain(self.data.documents, *self.data.negatives)
        weight_tokens(model, (text for text in texts if text != NO_NEGATIVE), self.config.idf_power)

    def _base_vectors(
        self, model: SentenceTransformer, rows: IntArray, bf16: bool, progress: Progress
    ) -> dict[str, Tensor]:
        """The fields of ``BaseVectors``, from the model before training."""

        def report(done: int, total: int, message: str = "") -> None:
            progress(0, self.config.max_steps, f"base vectors: {done} of {total}")

        questions, documents = ([texts[row] for row in rows] for texts in (self.data.questions, self.data.documents))
        return {
            "rows": torch.from_numpy(rows),
            "questions": torch.from_numpy(encode(model, questions, role="query", bf16=bf16)),
            "documents": torch.from_numpy(encode(model, documents, progress=report, bf16=bf16)),
        }


def _stop_reason(state: JsonObject, config: TrainingConfig, base_score: float) -> str:
    if state["global_step"] >= config.max_steps:
        return ""
    best = max(base_score, state["best_metric"])
    return (
        f"stopped early: {config.patience} consecutive validations at least {config.min_drop:g} below "
        f"{metric_name(config.metric)} {best:.4f}"
    )


def _history(state: JsonObject, metric: Metric) -> list[JsonObject]:
    """The Trainer's log, one entry per validation."""
    entries: dict[int, JsonObject] = {}
    names = {name: name for name in ("loss", "own_document", "base", "heal")} | {f"eval_{metric}": "score"}
    for logged in state["log_history"]:
        entry = entries.setdefault(logged["step"], {"step": logged["step"]})
        entry.update({name: logged[key] for key, name in names.items() if key in logged})
    return [entry for entry in entries.values() if "score" in entry]
