"""Fine-tunes an encoder on questions and topic paths; survives a kill; hands over the best look it had.

The loop is the sentence-transformers Trainer, in this process or in several that share each batch. Its checkpoints
(weights, optimiser, random state, patience) make a killed run continue instead of starting over; the saved model is
read back from the best checkpoint, because the Trainer's own way of loading it logs a failure and goes on with the
last weights.
"""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.models import CARD
from heal_tasks.core.types import JsonObject, Progress, silent
from heal_tasks.training.adapters import add_adapter, load_adapter, merge_adapter
from heal_tasks.training.checkpoints import (
    BASE_VECTORS,
    checkpoint_folder,
    is_finished,
    last_checkpoint,
    open_work_dir,
    remember,
)
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import NO_NEGATIVE, IntArray, TrainingData, ValidationSet
from heal_tasks.training.encoder import (
    encode,
    in_bf16,
    limited_threads,
    load_encoder,
    model_sha256,
    without_bars,
)
from heal_tasks.training.loop import make_sampler, make_trainer
from heal_tasks.training.memory import freed_memory_kept
from heal_tasks.training.objective import BaseVectors
from heal_tasks.training.parallel import run_processes
from heal_tasks.training.pooling import weigh_tokens
from heal_tasks.training.validation import NDCG, ProgressReport, RetrievalLook

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
        best_ndcg: nDCG@10 of the look whose weights were kept, the base model's share not yet mixed in; may be below
            the base model's.
        improved: whether that look beats the base model on the validation set.
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

    Every few steps (``TrainingConfig.look_steps``) the model is judged by nDCG@10 on the validation set, always on
    plain text, and saved to ``work_dir``. The first sustained fall, ``patience`` looks in a row at least ``fall`` below
    the best so far, ends the training: APEX-Embedding (Aviss 2024, arXiv 2410.18105) interrupts it before it converges.
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
    run: JsonObject = {
        "base_sha256": model_sha256(base_model),
        "data_fingerprint": data_fingerprint,
        "config": config.identity(),
    }
    open_work_dir(work_dir, run)
    found = last_checkpoint(work_dir)
    if found is None or not is_finished(found[1]):
        fit = partial(_fit, Path(base_model), data, validation, config, work_dir, run, device)
        if config.processes > 1:
            gpus = torch.cuda.device_count()
            # On processors too: Accelerate's barrier names the GPU with the number of the process, if there are any.
            if 0 < gpus < config.processes:
                raise InputError(
                    f"processes is {config.processes}, and torch sees {gpus} GPUs; set HEAL_TRAIN_PROCESSES to {gpus} "
                    "at most, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on processors"
                )
            run_processes(fit, config.processes, progress)
        else:
            fit(progress)
    last = last_checkpoint(work_dir)
    if last is None:
        raise StepError(f"no checkpoint was left in {work_dir}; check the space there and run the step again")
    state, base_ndcg = last[1], float(open_work_dir(work_dir, run)["base_ndcg"])
    best = _read_model(checkpoint_folder(work_dir, state["best_global_step"]), base_model, data, config)
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
        "bf16": in_bf16(config.dtype, device),
        "model_sha256": result.model_sha256,
        "metrics": {key: getattr(result, key) for key in ("base_ndcg", "best_ndcg", "improved", "best_step", "steps")},
        "stop_reason": result.stop_reason,
        "history": result.history,
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }
    (output_dir / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return result


def _fit(
    base_model: Path,
    data: TrainingData,
    validation: ValidationSet,
    config: TrainingConfig,
    work_dir: Path,
    run: JsonObject,
    device: str,
    progress: Progress,
) -> None:
    """Train until the last checkpoint is in the working folder; in every process that takes part."""
    with limited_threads(config.threads), without_bars(), freed_memory_kept(device):
        processes = PartialState(cpu=device == "cpu")
        if processes.num_processes > 1:
            device = device if device == "cpu" else str(processes.device)
            progress = progress if processes.is_main_process else silent
        model = load_encoder(base_model, device=device, quantised=config.adapter == "qlora")
        look = RetrievalLook(validation, config.max_steps, progress)
        sampler, base_vectors = make_sampler(data, config), None
        with processes.main_process_first():
            facts = open_work_dir(work_dir, run)
            if "base_ndcg" not in facts:
                facts = {"base_ndcg": look(model)[NDCG]}
                remember(work_dir, run, facts)
            weigh_tokens(model, _corpus(data), config.idf_power)
            if config.base_weight > 0 and not config.paper:
                rows = sampler.first(config.max_steps)
                base_vectors = _base_vectors(model, data, rows, work_dir / BASE_VECTORS, config, progress)
        found = last_checkpoint(work_dir)
        if config.adapter != "none":
            add_adapter(model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        report = ProgressReport(progress, facts["base_ndcg"])
        trainer = make_trainer(model, data, config, sampler, base_vectors, look, report, work_dir, device)
        trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))


def _base_vectors(
    model: SentenceTransformer,
    data: TrainingData,
    rows: IntArray,
    file: Path,
    config: TrainingConfig,
    progress: Progress,
) -> BaseVectors:
    """The base model's vectors of these rows, computed once per training."""
    if not file.is_file():

        def report(done: int, total: int, message: str = "") -> None:
            progress(0, config.max_steps, f"base vectors: {done} of {total}")

        questions, documents = ([texts[row] for row in rows] for texts in (data.questions, data.documents))
        found = {
            "rows": torch.from_numpy(rows),
            "questions": torch.from_numpy(encode(model, questions, role="query")),
            "documents": torch.from_numpy(encode(model, documents, progress=report)),
        }
        fresh = file.with_suffix(".new")
        save_file(found, fresh)
        fresh.replace(file)
    return BaseVectors(**load_file(file))


def _corpus(data: TrainingData) -> Iterator[str]:
    """The document texts of the training pairs, negatives included."""
    return (text for text in chain(data.documents, *data.negatives) if text != NO_NEGATIVE)


def _read_model(
    checkpoint: Path, base_model: str | Path, data: TrainingData, config: TrainingConfig
) -> SentenceTransformer:
    """The model to hand over: a checkpoint's plain float32 weights, with the base model's share mixed in."""
    if config.adapter == "none":
        model = load_encoder(checkpoint, device="cpu")
        if config.base_share > 0:
            base = load_encoder(base_model, device="cpu")
            with torch.no_grad():
                for weight, start in zip(model[0].parameters(), base[0].parameters(), strict=True):
                    weight.lerp_(start, config.base_share)
        return model
    # Into the base model's own weights: those that training held in 4 bits were rounded.
    model = load_encoder(base_model, device="cpu")
    weigh_tokens(model, _corpus(data), config.idf_power)
    # An adapter is a difference to the base model, so that a part of it is the mixture.
    alpha = config.lora_alpha * (1 - config.base_share)
    add_adapter(model, rank=config.lora_rank, alpha=alpha, seed=config.seed)
    load_adapter(model, checkpoint)
    merge_adapter(model)
    return model


def _stop_reason(state: JsonObject, config: TrainingConfig, base_ndcg: float) -> str:
    if state["global_step"] >= config.max_steps:
        return ""
    best = max(base_ndcg, state["best_metric"])
    return f"stopped early: {config.patience} looks in a row at least {config.fall:g} below nDCG@10 {best:.4f}"


def _history(state: JsonObject) -> list[JsonObject]:
    """The Trainer's log, one entry per look."""
    entries: dict[int, JsonObject] = {}
    names = {"loss": "loss", "own_document": "own_document", "base": "base", "heal": "heal", f"eval_{NDCG}": "ndcg"}
    for logged in state["log_history"]:
        entry = entries.setdefault(logged["step"], {"step": logged["step"]})
        entry.update({name: logged[key] for key, name in names.items() if key in logged})
    return [entry for entry in entries.values() if "ndcg" in entry]
