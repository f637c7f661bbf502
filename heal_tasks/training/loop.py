"""The sentence-transformers Trainer with our batches and loss, on one device, without hub, pickles or printing."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from transformers import PrinterCallback

from heal_tasks.core.errors import StepError
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import TrainingData
from heal_tasks.training.encoder import supports_bf16
from heal_tasks.training.looks import NDCG, BaseAwareStopping, ProgressReport, RetrievalLook
from heal_tasks.training.objective import LabelLayout, Objective
from heal_tasks.training.sampler import LeafBatchSampler


@dataclass
class _Arguments(SentenceTransformerTrainingArguments):  # type: ignore[misc]
    """Arguments for one device: with several GPUs the parent would split each batch over all of them."""

    gpu: int = 0

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))

    @property
    def device(self) -> torch.device:
        device: torch.device = super().device
        if device.type == "cuda":
            torch.cuda.set_device(self.gpu)
            return torch.device("cuda", self.gpu)
        return device


class _Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """The Trainer with our batches, without model cards and pickles, and with an end at the first wrong loss."""

    def __init__(self, *args: Any, sampler: LeafBatchSampler, report: ProgressReport, **kwargs: Any) -> None:
        self._sampler, self._report = sampler, report
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)

    def get_batch_sampler(self, *_: Any, **__: Any) -> LeafBatchSampler:
        return self._sampler

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._report.loss = float(loss)
        if not math.isfinite(self._report.loss):
            raise StepError(
                f"the loss is {self._report.loss} in step {self.state.global_step + 1}, of which nothing was saved; "
                "lower the learning rate or raise the temperatures"
            )
        return loss

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: the parent's card asks the model hub about the base model."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


def make_trainer(
    model: SentenceTransformer,
    data: TrainingData,
    config: TrainingConfig,
    look: RetrievalLook,
    report: ProgressReport,
    work_dir: Path,
    device: str,
) -> SentenceTransformerTrainer:
    """A Trainer for one training, ready to ``train()``.

    Args:
        model: float32, on ``device``.
        data: training pairs.
        config: how to train.
        look: judges the model every ``eval_steps`` steps.
        report: told the loss of every step.
        work_dir: for checkpoints.
        device: from ``pick_device``.

    Returns:
        The Trainer; ``train`` takes the folder of a checkpoint to go on from.
    """
    mined = 0 if config.paper else data.negatives_per_question
    layout = LabelLayout(data.levels, mined)
    negatives = {f"negative_{column + 1}": [texts[column] for texts in data.negatives] for column in range(mined)}
    texts = {"anchor": data.questions, "positive": data.documents, **negatives}
    prompts = {name: model.prompts.get("query" if name == "anchor" else "document") for name in texts}
    sampler = LeafBatchSampler(data.document_ids, data.leaves, config.batch_size, seed=config.seed)
    arguments = _Arguments(
        output_dir=str(work_dir),
        max_steps=config.max_steps,
        per_device_train_batch_size=sampler.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_share,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=config.eval_steps,
        save_steps=config.eval_steps,
        logging_steps=config.eval_steps,
        save_total_limit=2,
        metric_for_best_model=NDCG,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_nan_inf_filter=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        seed=config.seed,
        use_cpu=device == "cpu",
        gpu=int(device.partition(":")[2] or 0),
        bf16=supports_bf16(device),
    )
    return _Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({**texts, "label": layout.pack(data).tolist()}),
        loss=Objective(
            model,
            layout,
            heal_weight=config.heal_weight,
            heal_temperature=config.heal_temperature,
            level_weights=config.level_weights,
            own_document_temperature=config.own_document_temperature,
            mask_same_leaf=config.mask_same_leaf,
            heal_only=config.paper,
        ),
        evaluator=look,
        data_collator=SentenceTransformerDataCollator(
            preprocess_fn=model.preprocess,
            prompts={name: prompt for name, prompt in prompts.items() if prompt},
            max_length=min(config.max_tokens, model.max_seq_length or config.max_tokens),
        ),
        callbacks=[report, BaseAwareStopping(config.patience, base_ndcg=report.base_ndcg)],
        sampler=sampler,
        report=report,
    )
