"""The sentence-transformers Trainer with our batches and loss, without hub, pickles or printing."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
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
from heal_tasks.training.adapters import load_adapter, save_adapter
from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import TrainingData
from heal_tasks.training.encoder import in_bf16
from heal_tasks.training.objective import BaseVectors, LabelLayout, Objective
from heal_tasks.training.sampler import QuestionBatchSampler
from heal_tasks.training.validation import NDCG, BaseAwareStopping, ProgressReport, RetrievalLook

BAD_BATCH = "bad_batch.json"
"""File in the working folder with the texts of a batch that gave no finite loss or gradient."""


@dataclass
class _Arguments(SentenceTransformerTrainingArguments):  # type: ignore[misc]
    """Arguments for one device per process: one process with several GPUs would split each batch over all of them."""

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
    """The Trainer with our batches, without model cards and pickles.

    A step that runs out of memory is repeated with half the micro-batch, and a wrong loss ends the training.
    """

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
            # Only here, with the exception gone, is nothing of the failed step referred to any more.
            self._halve_micro_batch(len(inputs["label"]), message)
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self._report.loss = float(loss)
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        for name, value in (("loss", self._report.loss), ("gradient's length", float(norm))):
            if not math.isfinite(value):
                self._refuse(inputs, name, value)
        return loss

    def _halve_micro_batch(self, batch: int, message: str) -> None:
        before = self.loss.mini_batch_size or batch
        # Processes that repeat a step while others go on would wait for each other for ever.
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
        file = Path(self.args.output_dir) / BAD_BATCH
        batch = {"step": step, name: str(value), "texts": texts, "labels": inputs["label"].tolist()}
        file.write_text(json.dumps(batch, indent=1, ensure_ascii=False), encoding="utf-8")
        raise StepError(
            f"the {name} is {value} in step {step}, of which nothing was saved; its texts are in {file}. "
            "Lower the learning rate or raise the temperatures"
        )

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: the parent's card asks the model hub about the base model."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = output_dir or self.args.output_dir
        if self._adapter:
            save_adapter(self.model, Path(folder))
        else:
            self.model.save_pretrained(folder, create_model_card=False)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        if self._adapter:
            load_adapter(self.model, Path(checkpoint_path))
        else:
            super()._load_from_checkpoint(checkpoint_path)


def make_sampler(data: TrainingData, config: TrainingConfig) -> QuestionBatchSampler:
    """Batches of topic-mates where the HEAL term has to find positives, random ones elsewhere."""
    question_ids = np.arange(len(data.questions)) if data.question_ids is None else data.question_ids
    # Every process takes its share of the same batch.
    batch_size = min(config.batch_size, len(np.unique(question_ids))) // get_world_size() * get_world_size()
    grouped = config.paper or config.heal_weight > 0
    return QuestionBatchSampler(question_ids, data.leaves if grouped else None, batch_size, seed=config.seed)


def make_trainer(
    model: SentenceTransformer,
    data: TrainingData,
    config: TrainingConfig,
    sampler: QuestionBatchSampler,
    base_vectors: BaseVectors | None,
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
        sampler: from ``make_sampler``.
        base_vectors: see ``Objective``.
        look: judges the model every ``look_steps`` steps.
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
    look_steps = config.look_steps(len(sampler))
    arguments = _Arguments(
        output_dir=str(work_dir),
        max_steps=config.max_steps,
        per_device_train_batch_size=sampler.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_share,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=look_steps,
        save_steps=look_steps,
        logging_steps=look_steps,
        save_total_limit=2,
        metric_for_best_model=NDCG,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_nan_inf_filter=False,
        accelerator_config={"split_batches": True},
        activation_checkpointing=config.activation_checkpointing,
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
        train_dataset=Dataset.from_dict({**texts, "label": layout.pack(data).tolist()}),
        loss=Objective(
            model,
            layout,
            heal_weight=config.heal_weight,
            heal_temperature=config.heal_temperature,
            level_weights=config.level_weights,
            own_document_temperature=config.own_document_temperature,
            label_smoothing=config.label_smoothing,
            mask_same_leaf=config.mask_same_leaf,
            base_weight=config.base_weight,
            base_vectors=base_vectors,
            answers=data.answers,
            text_ids=data.text_ids(mined),
            heal_only=config.paper,
            mini_batch_size=config.micro_batch_size,
        ),
        evaluator=look,
        data_collator=SentenceTransformerDataCollator(
            preprocess_fn=model.preprocess,
            prompts={name: prompt for name, prompt in prompts.items() if prompt},
            max_length=min(config.max_tokens, model.max_seq_length or config.max_tokens),
        ),
        callbacks=[report, BaseAwareStopping(config.patience, base_ndcg=report.base_ndcg, fall=config.fall)],
        sampler=sampler,
        report=report,
        adapter=config.adapter != "none",
    )
