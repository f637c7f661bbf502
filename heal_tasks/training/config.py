"""Training configuration: one frozen record."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from heal_tasks.core.errors import InputError
from heal_tasks.core.metrics import NDCG, TOPIC_AGREEMENT, Metric
from heal_tasks.core.types import JsonObject
from heal_tasks.training.encoder import Dtype

Adapter = Literal["none", "lora", "qlora"]

EVAL_SHARE = 0.05
"""Steps between two validations as a share of an epoch, or of a training that is shorter than an epoch."""

# These change the last digits of the weights only, so a checkpoint stays valid when they change.
_NOT_IDENTITY = frozenset({"device", "processes", "micro_batch_size"})


@dataclass(frozen=True)
class TrainingConfig:
    """Training configuration; ``core.settings`` checks the range of each value that a user sets."""

    max_steps: int = 60  # most optimiser steps
    batch_size: int = 32  # question-document pairs per step, over all processes
    micro_batch_size: int = 0  # texts per forward pass in each process; 0 for the whole batch
    learning_rate: float = 5e-5  # peak; linear warm-up, then linear decay to zero
    max_tokens: int = 128  # longest text in training; the saved model keeps the base model's own limit
    eval_steps: int = 20  # fewest steps between two validations, each with a checkpoint; see validation_steps
    min_drop: float = 0.01  # of the score below the best one, the base model's included, that counts towards patience
    patience: int = 2  # consecutive validations below the best before training stops
    idf_power: float = 0.0  # of the tokens' inverse document frequency in pooling; 0 for a plain mean
    base_share: float = 0.0  # share of the base model's weights in the saved ones, in [0, 1)
    base_weight: float = 0.1  # weight of the base term, see ranking_losses.base_loss
    heal_weight: float = 0.0  # weight of the HEAL term; above 0, batches are grouped by topic
    paper: bool = False  # the published HEAL loss alone
    own_document_temperature: float = 0.05
    mask_same_leaf: bool = True  # exclude documents of the same leaf from the in-batch negatives
    adapter: Adapter = "none"  # train all weights, an adapter, or an adapter beside 4-bit weights
    lora_rank: int = 8  # inner dimension r of an adapter's matrices
    seed: int = 13  # of every random choice
    processes: int = 1  # on this machine, one per GPU, that share each batch
    device: str = "auto"  # see core.devices.pick_device
    dtype: Dtype = "auto"  # of the computation (weights are float32); auto: bfloat16 where the device has it

    def __post_init__(self) -> None:
        if self.batch_size % self.processes:
            raise InputError(f"batch_size {self.batch_size} must be a multiple of processes {self.processes}")

    @property
    def metric(self) -> Metric:
        """The validation's metric: topics with HEAL, which costs retrieval from the first step on."""
        return TOPIC_AGREEMENT if self.paper or self.heal_weight > 0 else NDCG

    def validation_steps(self, steps_per_epoch: int) -> int:
        """Steps between two validations; at least ``eval_steps``, because in a short epoch a validation costs more.

        ``steps_per_epoch`` is the number of batches that hold every question once.
        """
        return max(self.eval_steps, math.ceil(EVAL_SHARE * min(steps_per_epoch, self.max_steps)))

    def identity(self) -> JsonObject:
        """The fields that decide the trained weights."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IDENTITY}
