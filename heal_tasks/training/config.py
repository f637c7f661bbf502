"""Training configuration: one frozen record, checked when it is made."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import JsonObject
from heal_tasks.training.encoder import Dtype
from heal_tasks.training.heal_loss import LevelWeights

Adapter = Literal["none", "lora", "qlora"]

EVAL_SHARE = 0.05
"""Steps between two validations as a share of an epoch, or of a training that is shorter than an epoch."""

# These change the last digits of the weights only, so a checkpoint stays valid when they change.
_NOT_IDENTITY = frozenset({"device", "threads", "processes", "micro_batch_size"})

_AT_LEAST_1 = (
    "max_steps",
    "batch_size",
    "max_tokens",
    "eval_steps",
    "patience",
    "lora_rank",
    "lora_alpha",
    "processes",
)
_RULES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (_AT_LEAST_1, lambda value: value >= 1, "be 1 or more"),
    (("learning_rate", "heal_temperature", "own_document_temperature"), lambda value: value > 0, "be above 0"),
    (("min_drop",), lambda value: 0 <= value <= 1, "be from 0 to 1"),
    (("label_smoothing", "base_share"), lambda value: 0 <= value < 1, "be 0 or more and below 1"),
    (("heal_weight", "base_weight", "idf_power"), lambda value: value >= 0, "not be negative"),
)


@dataclass(frozen=True)
class TrainingConfig:
    """Training configuration.

    Args:
        max_steps: most optimiser steps.
        batch_size: question-document pairs per step, over all processes.
        micro_batch_size: texts per forward pass in each process; 0 for the whole batch.
        learning_rate: peak; linear warm-up, then linear decay to zero.
        max_tokens: longest text in training; the saved model keeps the base model's own limit.
        eval_steps: fewest steps between two validations, each with a checkpoint; see ``validation_steps``.
        min_drop: a validation counts towards ``patience`` if its nDCG@10 is at least this far below the best so far,
            the base model's included.
        patience: consecutive validations below the best before training stops.
        idf_power: exponent of the tokens' inverse document frequency in pooling, see ``pooling.idf_weights``; 0 for a
            plain mean.
        base_share: share of the base model's weights in the saved ones, in [0, 1).
        base_weight: weight of the base term, see ``ranking_losses.base_loss``.
        heal_weight: weight of the HEAL term beside the own-document term; above 0, batches are grouped by topic.
        heal_temperature: tau of the HEAL term.
        level_weights: ``coarse`` or ``fine``, see ``heal_loss.level_weights``.
        paper: the published HEAL loss alone.
        own_document_temperature: temperature of the own-document term.
        label_smoothing: share of the own-document term's target that is spread over all texts, in [0, 1).
        mask_same_leaf: exclude documents of the same leaf from the in-batch negatives.
        adapter: ``none`` trains all weights, ``lora`` an adapter, ``qlora`` an adapter beside 4-bit weights.
        lora_rank: inner dimension r of an adapter's matrices.
        lora_alpha: the adapter's output is scaled by alpha / r.
        seed: of every random choice.
        processes: on this machine, one per GPU, that share each batch.
        device: see ``core.devices.pick_device``.
        dtype: number format of the computation (weights are float32); ``auto``: bfloat16 where the device has it.
        threads: for torch; None for torch's default.
    """

    max_steps: int = 60
    batch_size: int = 32
    micro_batch_size: int = 0
    learning_rate: float = 5e-5
    max_tokens: int = 128
    eval_steps: int = 20
    min_drop: float = 0.01
    patience: int = 2
    idf_power: float = 0.0
    base_share: float = 0.0
    base_weight: float = 0.1
    heal_weight: float = 0.0
    heal_temperature: float = 0.07
    level_weights: LevelWeights = "coarse"
    paper: bool = False
    own_document_temperature: float = 0.05
    label_smoothing: float = 0.0
    mask_same_leaf: bool = True
    adapter: Adapter = "none"
    lora_rank: int = 8
    lora_alpha: int = 16
    seed: int = 13
    processes: int = 1
    device: str = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for names, holds, demand in _RULES:
            for name in names:
                if not holds(getattr(self, name)):
                    raise InputError(f"{name} is {getattr(self, name)}; it must {demand}")
        if self.micro_batch_size < 0 or self.batch_size % self.processes:
            raise InputError(
                f"micro_batch_size {self.micro_batch_size} must not be negative, and batch_size {self.batch_size} "
                f"must be a multiple of processes {self.processes}"
            )

    def validation_steps(self, steps_per_epoch: int) -> int:
        """Steps between two validations; at least ``eval_steps``, because in a short epoch a validation costs more.

        Args:
            steps_per_epoch: batches that hold every question once.
        """
        return max(self.eval_steps, math.ceil(EVAL_SHARE * min(steps_per_epoch, self.max_steps)))

    def identity(self) -> JsonObject:
        """The fields that decide the trained weights."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IDENTITY}
