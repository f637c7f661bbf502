"""Step train: fine-tune the base model on the training set, once per objective, on the GPU queue."""

import shutil
import time
from typing import Any

import numpy as np

from heal_tasks.core.devices import pick_device
from heal_tasks.core.ids import fingerprint
from heal_tasks.core.metrics import metric_name
from heal_tasks.core.models import api_model, resolve_model
from heal_tasks.core.setting_groups import Objective
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.spaces import model_ref, sha256_ref
from heal_tasks.steps.vectors.training_set import load
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.training.checkpoints import drop_checkpoints
from heal_tasks.training.data import TrainingData, ValidationSet
from heal_tasks.training.encoder import model_sha256
from heal_tasks.training.trainer import TrainingConfig, train_encoder

LEARNING_RATE, ADAPTER_LEARNING_RATE = 5e-5, 2e-5
"""For all weights, and for an adapter (the rate of APEX-Embedding, arXiv 2410.18105)."""

PEOPLES = {"idf_power": 0.0, "base_share": 0.0, "base_weight": 0.1}
WRITTEN = {"idf_power": 0.25, "base_share": 0.5, "base_weight": 1.0}
"""Defaults for human and for generated questions. These are a substitute, so the corpus weights the tokens, and
half of the base model is kept: weights averaged as in WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903) and LM-Cocktail
(Xiao et al. 2023, arXiv 2311.13534). Measured: "Training on generated questions" in bench/RESULTS.md."""

TERMS: dict[Objective, dict[str, Any]] = {
    "answers": {"mask_same_leaf": False},
    "topics": {"heal_weight": 0.3},
    "paper": {"paper": True, "base_share": 0.0},
}
"""Fields of an objective. Documents of a leaf are HEAL positives, so with HEAL they are no negatives; without it they
are as good negatives as others. At .3 HEAL costs the questions nothing (ATT&CK, encoder: own document +.020 with its
topics, +.025 without HEAL), at 3 it costs them .030 (arXiv): "HEAL's own measures" in bench/RESULTS.md."""


def training_config(settings: Settings, by_people: bool, objective: Objective = "answers") -> TrainingConfig:
    """The configuration of an objective; the defaults for human or generated questions fill in what is not set."""
    rate = LEARNING_RATE if settings.train_adapter == "none" else ADAPTER_LEARNING_RATE
    terms = (PEOPLES if by_people else WRITTEN) | TERMS[objective]
    given = {
        "idf_power": settings.idf_power, "base_share": settings.train_base_share, "base_weight": settings.base_weight,
    }  # fmt: skip
    terms |= {name: value for name, value in given.items() if value is not None}
    return TrainingConfig(
        max_steps=settings.train_max_steps,
        batch_size=settings.train_batch_size,
        micro_batch_size=settings.train_micro_batch,
        learning_rate=settings.train_learning_rate or rate,
        max_tokens=settings.train_max_tokens,
        eval_steps=settings.train_eval_steps,
        dtype=settings.train_dtype,
        adapter=settings.train_adapter,
        lora_rank=settings.train_lora_rank,
        seed=settings.seed,
        processes=settings.train_processes,
        device=settings.device,
        **terms,
    )


def _configs(context: Context) -> dict[Objective, TrainingConfig]:
    by_people = bool(context.manifest.number("by_people"))
    return {name: training_config(context.settings, by_people, name) for name in context.settings.objectives}


def _inputs(context: Context) -> object:
    # Of all shards alike: a run's steps are those with the same inputs.
    configs = {name: config.identity() for name, config in _configs(context).items()}
    limit = context.settings.extra_training_minutes
    return [context.manifest.text("training_set_uri"), _base_sha256(context), configs, limit]


def _base_sha256(context: Context) -> str:
    settings = context.settings
    if api_model(settings.model):
        return settings.model_uri
    return settings.model_options.identity(model_sha256(resolve_model(settings.model)))


def train(context: Context) -> Outcome:
    """Train a model per objective, or resume from the last checkpoint of a killed try; with too few questions, none.

    Ref ``<objective>_model_uri`` is its model; empty where none was trained. ``<objective>_model_sha256`` is the hash
    of its files, where this try has written them.
    """
    settings, shard = context.settings, context.settings.objectives[context.shard :: context.shards]
    configs = {name: config for name, config in _configs(context).items() if name in shard}
    nothing: dict[str, int | str] = {model_ref(objective): "" for objective in configs}
    if not context.manifest.text("training_set_uri"):  # step mine has said why
        return Outcome(refs=nothing, note="no training set was made")
    data, validation = load(context.artifacts.local(context.manifest.text("training_set_uri")))
    if len(data.questions) < 2 * settings.train_batch_size or not validation.queries:
        least = 2 * settings.train_batch_size
        undone = (
            f"No model was trained: there are {len(data.questions)} training questions, and {least} are needed with "
            f"HEAL_TRAIN_BATCH_SIZE={settings.train_batch_size}; of {len(validation.queries)} validation questions "
            "at least 1 is needed"
        )
        return Outcome(refs=nothing, note=f"not trained; {undone}", undone=undone)
    outcomes, first_minutes = list[Outcome](), _first_minutes(context)
    for objective, config in configs.items():
        if why := _why_skipped(settings, objective, data, first_minutes):
            outcomes.append(Outcome(refs={model_ref(objective): ""}, note=f"{objective}: skipped, because {why}"))
            continue
        began = time.monotonic()
        outcomes.append(_train(context, objective, config, data, validation))
        first_minutes = first_minutes or (time.monotonic() - began) / 60
    return Outcome(
        refs={name: value for outcome in outcomes for name, value in outcome.refs.items()},
        counts={name: value for outcome in outcomes for name, value in outcome.counts.items()},
        note="; ".join(outcome.note for outcome in outcomes),
    )


def _train(
    context: Context, objective: Objective, config: TrainingConfig, data: TrainingData, validation: ValidationSet
) -> Outcome:
    settings, training_set = context.settings, context.manifest.text("training_set_uri")
    key = fingerprint([training_set, _base_sha256(context), config.identity()])
    refs: dict[str, int | str] = {model_ref(objective): context.artifacts.uri(f"models/{key}")}
    if context.artifacts.exists(context.artifacts.uri(f"models/{key}")):
        return Outcome(refs=refs, note=f"{objective}: trained before with the same inputs")
    work_dir = settings.var_dir / "training" / key
    try:
        with context.artifacts.writing(f"models/{key}") as folder:
            result = train_encoder(
                resolve_model(settings.model),
                data,
                validation,
                config,
                options=settings.model_options,
                work_dir=work_dir,
                output_dir=folder,
                data_fingerprint=training_set.rsplit("/", 1)[-1],
                progress=context.progress,
            )
            refs[sha256_ref(objective)] = model_sha256(folder)
    except Exception:
        drop_checkpoints(work_dir, complete=False)  # half a checkpoint would keep a full disk full
        raise
    shutil.rmtree(work_dir, ignore_errors=True)
    counts = {
        "steps": result.steps, "best_step": result.best_step, "resumed_from_step": result.resumed_from_step,
        "base": round(result.base_score, 4), "best": round(result.best_score, 4),
    }  # fmt: skip
    return Outcome(
        refs=refs,
        counts={f"{objective}_{name}": value for name, value in counts.items()},
        note=f"{objective}: {result.steps} steps, validation {metric_name(config.metric)} {result.base_score:.3f} "
        f"before, {result.best_score:.3f} at best (step {result.best_step})"
        + (f"; {result.stop_reason}" if result.stop_reason else ""),
    )


def _first_minutes(context: Context) -> float:
    """Minutes that another task of this run has taken to train the first objective; 0 where none has."""
    rows = RunRepository(context.conn).steps_of(context.run_id) if context.shard else []
    ended = (row for row in rows if (row.step, row.shard) == ("train", 0) and row.finished_at)
    return next(((row.finished_at - row.started_at).total_seconds() / 60 for row in ended if row.finished_at), 0.0)


def _why_skipped(settings: Settings, objective: Objective, data: TrainingData, first_minutes: float) -> str:
    """The reason not to train an objective; empty for the first one, on a GPU, and within the limit.

    All objectives take as many steps, so the first one's time is the time of the others.
    """
    if objective == "topics" and len(np.unique(data.leaves[data.leaves >= 0])) < 2:
        return "the training documents have no two topics"
    limit, first = settings.extra_training_minutes, settings.objectives[0]
    if objective == first or 0 < limit >= first_minutes or pick_device(settings.device) != "cpu":
        return ""
    return (
        f"the {first} model took {first_minutes:.1f} minutes, and HEAL_EXTRA_TRAINING_MINUTES={limit:g} without a GPU"
    )


TRAIN = Step("train", train, _inputs)
