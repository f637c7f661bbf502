"""How to train: one frozen record, checked when it is made."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import JsonObject
from heal_tasks.training.encoder import Dtype
from heal_tasks.training.heal_loss import LevelWeights

Adapter = Literal["none", "lora", "qlora"]

# Where and in what portions the work is done changes the last digits, not the result that is asked for.
_HOW = frozenset({"device", "threads", "processes", "micro_batch_size", "activation_checkpointing"})


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Args:
        max_steps: most optimiser steps.
        batch_size: question-document pairs per step, over all processes.
        micro_batch_size: texts that pass through the encoder together, in each process; 0 for the whole batch.
        learning_rate: peak; rises over the first steps, then falls linearly to zero.
        max_tokens: longest text in training; the saved model keeps the base model's own limit.
        eval_steps: fewest steps between two looks at held-out retrieval, each with a checkpoint.
        eval_share: share of an epoch between two looks, see ``look_steps``.
        fall: how far nDCG@10 of a look must lie below the best so far, the base model's included, to count as a fall.
        patience: falls in a row after which training stops.
        idf_power: how much a token's rarity weighs in a text's mean, see ``pooling.idf_weights``; 0: not at all.
        base_share: share of the base model's weights in those that are handed over, in [0, 1).
        base_weight: weight of the base term, see ``ranking_losses.base_loss``.
        heal_weight: weight of the HEAL term beside the own-document term; above 0, batches are made of topic-mates.
        heal_temperature: tau of the HEAL term.
        level_weights: ``coarse``, ``fine``, or one number per level.
        paper: the published HEAL loss alone.
        own_document_temperature: temperature of the own-document term.
        label_smoothing: share of the own-document term's target that is spread over all texts, in [0, 1).
        mask_same_leaf: do not use documents of the same leaf as in-batch negatives.
        adapter: ``none`` trains all weights, ``lora`` small matrices beside them, ``qlora`` these beside 4-bit weights.
        lora_rank: inner dimension r of an adapter's matrices.
        lora_alpha: the adapter's output is scaled by alpha / r.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        seed: of every random choice.
        processes: on this machine, one per GPU, that share each batch.
        device: see ``core.devices.pick_device``.
        dtype: that the encoder computes in, its weights being float32; ``auto``: bfloat16 where the device has it.
        threads: for torch; None leaves them as they are.
        warmup_share: share of ``max_steps`` over which the learning rate rises.
    """

    max_steps: int = 60
    batch_size: int = 32
    micro_batch_size: int = 0
    learning_rate: float = 5e-5
    max_tokens: int = 128
    eval_steps: int = 20
    eval_share: float = 0.05
    fall: float = 0.01
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
    activation_checkpointing: bool = False
    seed: int = 13
    processes: int = 1
    device: str = "auto"
    dtype: Dtype = "auto"
    threads: int | None = None
    warmup_share: float = 0.1

    def __post_init__(self) -> None:
        counts = ("max_steps", "batch_size", "max_tokens", "eval_steps", "patience", "lora_rank", "lora_alpha")
        for name in (*counts, "processes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("learning_rate", "heal_temperature", "own_document_temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("eval_share", "fall"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("warmup_share", "label_smoothing", "base_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be from 0 up to, not including, 1")
        for name in ("heal_weight", "base_weight", "idf_power"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.micro_batch_size < 0 or self.batch_size % self.processes:
            raise InputError(
                f"micro_batch_size {self.micro_batch_size} must not be negative, and batch_size {self.batch_size} "
                f"must be a multiple of processes {self.processes}"
            )

    def look_steps(self, steps_per_epoch: int) -> int:
        """Steps between two looks: ``eval_share`` of the epoch, or of a training that is shorter than one.

        Args:
            steps_per_epoch: batches that hold every question once.

        Returns:
            ``eval_steps`` at least: where an epoch is short, a look costs more than the steps that it could save.
        """
        return max(self.eval_steps, math.ceil(self.eval_share * min(steps_per_epoch, self.max_steps)))

    def identity(self) -> JsonObject:
        """What decides the result; not the device, the number of processes, or how a batch is cut."""
        return {name: value for name, value in asdict(self).items() if name not in _HOW}
