"""Step train: fine-tunes the base model with the HEAL and own-document losses, on the GPU queue."""

import shutil

from heal_tasks.core.ids import fingerprint
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.training_set import load
from heal_tasks.training.encoder import model_identity
from heal_tasks.training.trainer import TrainingConfig, train_encoder

# For all weights, and as published for adapters.
LEARNING_RATE, ADAPTER_LEARNING_RATE = 5e-5, 2e-5

LORA_SCALE = 2
"""An adapter's output is scaled by alpha / rank; a fixed ratio keeps the learning rate good for every rank."""

PEOPLES = {"idf_power": 0.0, "base_share": 0.0, "base_weight": 0.1}
WRITTEN = {"idf_power": 0.25, "base_share": 0.5, "base_weight": 1.0}
"""What is not set depends on whose questions train. Written ones only stand in for people's, so the corpus says which
words count, and what they teach is met half-way: weights averaged as in WiSE-FT (Wortsman et al. 2021, arXiv
2109.01903) and LM-Cocktail (Xiao et al. 2023, arXiv 2311.13534). Measured: "Training on written questions" in
bench/RESULTS.md."""


def training_config(settings: Settings, by_people: bool) -> TrainingConfig:
    """The training settings.

    Args:
        settings: all settings.
        by_people: whether people's questions train, as ``mine`` decided.

    Returns:
        What those that are not set depend on is filled in.
    """
    rate = LEARNING_RATE if settings.train_adapter == "none" else ADAPTER_LEARNING_RATE
    usual = PEOPLES if by_people else WRITTEN

    def given(name: str, value: float | None) -> float:
        return usual[name] if value is None else value

    return TrainingConfig(
        max_steps=settings.train_max_steps,
        batch_size=settings.train_batch_size,
        micro_batch_size=settings.train_micro_batch,
        learning_rate=settings.train_learning_rate or rate,
        max_tokens=settings.train_max_tokens,
        eval_steps=settings.train_eval_steps,
        idf_power=given("idf_power", settings.idf_power),
        base_share=given("base_share", settings.train_base_share),
        base_weight=given("base_weight", settings.base_weight),
        heal_weight=settings.heal_weight,
        paper=settings.heal_paper,
        label_smoothing=settings.label_smoothing,
        mask_same_leaf=settings.mask_same_leaf,
        dtype=settings.train_dtype,
        adapter=settings.train_adapter,
        lora_rank=settings.train_lora_rank,
        lora_alpha=LORA_SCALE * settings.train_lora_rank,
        seed=settings.seed,
        processes=settings.train_processes,
        device=settings.device,
    )


def _inputs(context: Context) -> object:
    settings = context.settings
    config = _config(context).identity()
    return [context.manifest.text("training_set_uri"), model_identity(resolve_model(settings.model))[0], config]


def _config(context: Context) -> TrainingConfig:
    return training_config(context.settings, by_people=bool(context.manifest.number("by_people")))


def train(context: Context) -> Outcome:
    """Train, or go on from the last checkpoint of a killed try, and publish the model.

    Args:
        context: of the step.

    Returns:
        Ref ``model_uri``, absent where there are too few questions to train on; counts of steps and metrics.
    """
    settings = context.settings
    data, validation = load(context.artifacts.local(context.manifest.text("training_set_uri")))
    if len(data.questions) < 2 * settings.train_batch_size or not validation.queries:
        return Outcome(
            refs={"model_uri": ""},
            note=f"not trained: {len(data.questions)} training and {len(validation.queries)} validation questions are "
            f"too few for batches of {settings.train_batch_size}; the base model stays a candidate",
        )
    key = fingerprint(_inputs(context))
    work_dir = settings.var_dir / "training" / key
    with context.artifacts.writing(f"models/{key}") as folder:
        result = train_encoder(
            resolve_model(settings.model),
            data,
            validation,
            _config(context),
            work_dir=work_dir,
            output_dir=folder,
            data_fingerprint=context.manifest.text("training_set_uri").rsplit("/", 1)[-1],
            progress=context.progress,
        )
    shutil.rmtree(work_dir, ignore_errors=True)
    return Outcome(
        refs={"model_uri": context.artifacts.uri(f"models/{key}")},
        counts={
            "steps": result.steps, "best_step": result.best_step, "resumed_from_step": result.resumed_from_step,
            "base_ndcg": round(result.base_ndcg, 4), "best_ndcg": round(result.best_ndcg, 4),
        },
        note=f"{result.steps} steps, validation nDCG@10 {result.base_ndcg:.3f} before, {result.best_ndcg:.3f} at best "
        f"(step {result.best_step})" + (f"; {result.stop_reason}" if result.stop_reason else ""),
    )  # fmt: skip


TRAIN = Step("train", train, _inputs)
