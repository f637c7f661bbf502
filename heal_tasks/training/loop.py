"""The sentence-transformers Trainer with our batches and loss, without hub, pickles or printing."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.util.distributed import get_world_size
from torch import nn
from transformers import PrinterCallback

from heal_tasks.core.errors import StepError
from heal_tasks.training.checkpoints import load_adapter, save_weights, write_bad_batch
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import TrainingData
from heal_tasks.training.encoder import in_bf16
from heal_tasks.training.objective import Objective, mined_columns
from heal_tasks.training.sampler import QuestionBatchSampler
from heal_tasks.training.validation import BaseAwareStopping, ProgressReport, Validation

WARMUP_SHARE = 0.1
"""Share of the steps in which the learning rate rises."""


@dataclass
class _Arguments(SentenceTransformerTrainingArguments):  # type: ignore[misc]
    """Arguments for one device per process; otherwise a process with several GPUs splits each batch over all."""

    gpu: int = 0

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))

    @property
    def device(self) -> torch.device:
        device: torch.device = super().device
        if device.type == "cuda" and get_world_size() == 1:
            torch.cuda.set_device(self.gpu)
            return torch.device("cuda", self.gpu)
        return device


class _Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """A Trainer that repeats a step without memory with half the micro-batch, and ends at a loss that is not finite."""

    def __init__(
        self, *args: Any, sampler: QuestionBatchSampler, report: ProgressReport, adapter: bool, **kwargs: Any
    ) -> None:
        self._sampler, self._report, self._adapter = sampler, report, adapter
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)

    def get_batch_sampler(self, *_: Any, **__: Any) -> QuestionBatchSampler:
        return self._sampler

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        while True:
            try:
                loss: torch.Tensor = super().training_step(model, dict(inputs), *args, **kwargs)
                break
            except torch.OutOfMemoryError as error:
                message = str(error)
            # Outside the except block, whose exception holds references to the failed step's tensors.
            self._halve_micro_batch(len(inputs["label"]), message)
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self._report.loss = float(loss)
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        for name, value in (("loss", self._report.loss), ("gradient norm", float(norm))):
            if not math.isfinite(value):
                self._refuse(inputs, name, value)
        return loss

    def _halve_micro_batch(self, batch: int, message: str) -> None:
        before = self.loss.mini_batch_size or batch
        # A process that repeats a step while others go on would wait for them for ever.
        if before == 1 or get_world_size() > 1:
            raise StepError(
                f"out of memory with {before} texts at a time ({message}); lower HEAL_TRAIN_MICRO_BATCH or "
                "HEAL_TRAIN_MAX_TOKENS, or train an adapter"
            )
        self.loss.mini_batch_size = before // 2
        self._report.note = f"out of memory, {self.loss.mini_batch_size} texts at a time, "

    def _refuse(self, inputs: dict[str, Any], name: str, value: float) -> None:
        step, decode = self.state.global_step + 1, self.processing_class.batch_decode
        texts = {
            key.removesuffix("_input_ids"): decode(ids, skip_special_tokens=True)
            for key, ids in inputs.items()
            if key.endswith("_input_ids")
        }
        batch = {"step": step, name: str(value), "texts": texts, "rows": inputs["label"].tolist()}
        file = write_bad_batch(self.args.output_dir, batch)
        raise StepError(
            f"the {name} is {value} in step {step}; that step was not saved, and its texts are in {file}. "
            "Lower the learning rate or raise the temperatures"
        )

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: the parent's card asks the model hub about the base model."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_weights(self.model, output_dir or self.args.output_dir, adapter=self._adapter)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if self._adapter:
            load_adapter(self.model, checkpoint_path)
        else:
            super()._load_from_checkpoint(checkpoint_path)


def make_sampler(data: TrainingData, config: TrainingConfig) -> QuestionBatchSampler:
    """Batches grouped by topic where the HEAL term needs positives, random batches elsewhere."""
    # All processes share a batch equally.
    batch_size = min(config.batch_size, len(np.unique(data.question_ids))) // get_world_size() * get_world_size()
    grouped = config.paper or config.heal_weight > 0
    return QuestionBatchSampler(data.question_ids, data.leaves if grouped else None, batch_size, seed=config.seed)


def make_trainer(
    model: SentenceTransformer,
    objective: Objective,
    data: TrainingData,
    config: TrainingConfig,
    sampler: QuestionBatchSampler,
    validation: Validation,
    report: ProgressReport,
    work_dir: str,
    device: str,
) -> SentenceTransformerTrainer:
    """A Trainer whose ``train`` takes the folder of a checkpoint to resume from; checkpoints go to ``work_dir``."""
    columns = range(mined_columns(data, config))
    negatives = {f"negative_{column + 1}": [texts[column] for texts in data.negatives] for column in columns}
    texts = {"anchor": data.questions, "positive": data.documents, **negatives}
    prompts = {name: model.prompts.get("query" if name == "anchor" else "document") for name in texts}
    every = config.validation_steps(len(sampler))
    arguments = _Arguments(
        output_dir=work_dir,
        max_steps=config.max_steps,
        per_device_train_batch_size=sampler.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=WARMUP_SHARE,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=every,
        save_steps=every,
        logging_steps=every,
        save_total_limit=2,
        metric_for_best_model=config.metric,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_nan_inf_filter=False,
        accelerator_config={"split_batches": True},
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
        seed=config.seed,
        use_cpu=device == "cpu",
        gpu=int(device.partition(":")[2] or 0),
        bf16=in_bf16(config.dtype, device),
    )
    return _Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({**texts, "label": list(range(len(data.questions)))}),
        loss=objective,
        evaluator=validation,
        data_collator=SentenceTransformerDataCollator(
            preprocess_fn=model.preprocess,
            prompts={name: prompt for name, prompt in prompts.items() if prompt},
            max_length=min(config.max_tokens, model.max_seq_length or config.max_tokens),
        ),
        callbacks=[report, BaseAwareStopping(config.patience, base_score=report.base_score, min_drop=config.min_drop)],
        sampler=sampler,
        report=report,
        adapter=config.adapter != "none",
    )
