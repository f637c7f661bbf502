"""Step train: fine-tune the base model on the training set, on the GPU queue."""

import shutil

from heal_tasks.core.ids import fingerprint
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.training_set import load
from heal_tasks.training.checkpoints import drop_checkpoints
from heal_tasks.training.encoder import model_sha256
from heal_tasks.training.trainer import TrainingConfig, train_encoder

LEARNING_RATE, ADAPTER_LEARNING_RATE = 5e-5, 2e-5
"""For all weights, and for an adapter (the rate of APEX-Embedding, arXiv 2410.18105)."""

PEOPLES = {"idf_power": 0.0, "base_share": 0.0, "base_weight": 0.1}
WRITTEN = {"idf_power": 0.25, "base_share": 0.5, "base_weight": 1.0}
"""Defaults for human and for generated questions. These are a substitute, so the corpus weights the tokens, and
half of the base model is kept: weights averaged as in WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903) and LM-Cocktail
(Xiao et al. 2023, arXiv 2311.13534). Measured: "Training on generated questions" in bench/RESULTS.md."""


def training_config(settings: Settings, by_people: bool) -> TrainingConfig:
    """The training configuration; the defaults for human or generated questions fill in settings that are not set."""
    rate = LEARNING_RATE if settings.train_adapter == "none" else ADAPTER_LEARNING_RATE
    defaults = PEOPLES if by_people else WRITTEN

    def given(name: str, value: float | None) -> float:
        return defaults[name] if value is None else value

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
        seed=settings.seed,
        processes=settings.train_processes,
        device=settings.device,
    )


def _config(context: Context) -> TrainingConfig:
    return training_config(context.settings, by_people=bool(context.manifest.number("by_people")))


def _inputs(context: Context) -> object:
    model = model_sha256(resolve_model(context.settings.model))
    return [context.manifest.text("training_set_uri"), model, _config(context).identity()]


def train(context: Context) -> Outcome:
    """Train, or resume from the last checkpoint of a killed try, and store the model; with too few questions, none."""
    settings = context.settings
    if not context.manifest.text("training_set_uri"):  # step mine has said why
        return Outcome(refs={"model_uri": ""}, note="no training set was made")
    data, validation = load(context.artifacts.local(context.manifest.text("training_set_uri")))
    if len(data.questions) < 2 * settings.train_batch_size or not validation.queries:
        least = 2 * settings.train_batch_size
        undone = (
            f"No model was trained: there are {len(data.questions)} training questions, and {least} are needed with "
            f"HEAL_TRAIN_BATCH_SIZE={settings.train_batch_size}; of {len(validation.queries)} validation questions "
            "at least 1 is needed"
        )
        return Outcome(refs={"model_uri": ""}, note=f"not trained; {undone}", undone=undone)
    key = fingerprint(_inputs(context))
    work_dir = settings.var_dir / "training" / key
    try:
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
    except Exception:
        drop_checkpoints(work_dir, complete=False)  # half a checkpoint would keep a full disk full
        raise
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
