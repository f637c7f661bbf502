"""Validation during training: nDCG@10 on held-out questions, early stopping, and progress reports."""

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from heal_tasks.core.types import Progress
from heal_tasks.training.data import FloatArray, ValidationSet
from heal_tasks.training.encoder import encode

NDCG = "ndcg@10"


class RetrievalValidation(BaseEvaluator):  # type: ignore[misc]
    """nDCG@10 of the held-out questions over the held-out documents, by cosine.

    Args:
        validation: at least one query.
        max_steps: of the training.
        progress: told (step, max_steps, text) while documents are encoded.
        bf16: compute in bfloat16, as the training step does.
    """

    def __init__(self, validation: ValidationSet, max_steps: int, progress: Progress, *, bf16: bool = False) -> None:
        super().__init__()
        self._set, self._max_steps, self._progress, self._bf16 = validation, max_steps, progress, bf16
        self._gains = np.zeros((len(validation.queries), len(validation.documents)), dtype=np.int8)
        for row, found in enumerate(validation.positives):
            self._gains[row, found] = 1

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = 0, steps: int = 0
    ) -> dict[str, float]:
        """Mean over the queries, under the key ``NDCG``; the Trainer defines the arguments."""
        del output_path, epoch

        def report(done: int, total: int, message: str = "") -> None:
            self._progress(steps, self._max_steps, f"validation: {done} of {total} documents encoded")

        queries = encode(model, self._set.queries, role="query", bf16=self._bf16)
        return {NDCG: self._score(queries, encode(model, self._set.documents, progress=report, bf16=self._bf16))}

    def of_base_model(self, model: SentenceTransformer) -> float:
        """nDCG@10 of the base model, from the validation set's base vectors if it has any."""
        return self(model)[NDCG] if self._set.base_vectors is None else self._score(*self._set.base_vectors)

    def _score(self, queries: FloatArray, documents: FloatArray) -> float:
        return 1.0 if len(documents) == 1 else float(ndcg_score(self._gains, queries @ documents.T, k=10))


class BaseAwareStopping(EarlyStoppingCallback):  # type: ignore[misc]
    """Early stopping after consecutive validations clearly below the best one or the base model.

    Validations scatter, because they use some hundred questions: to stop at the first one without a gain is luck
    (bench/RESULTS.md).

    Args:
        early_stopping_patience: validations.
        early_stopping_threshold: of the parent, which passes it when it restores a checkpoint.
        base_ndcg: nDCG@10 of the base model; training that only makes it worse stops as well.
        min_drop: how far below the best a validation must be to count; at 0 one without a gain counts.
    """

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.0,
        base_ndcg: float = 0.0,
        min_drop: float = 0.0,
    ) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.early_stopping_patience_counter = 0
        self.base_ndcg, self.min_drop = base_ndcg, min_drop

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Count a validation below the best, or reset the count."""
        best = self.base_ndcg if state.best_metric is None else max(self.base_ndcg, state.best_metric)
        below = metric_value <= best - self.min_drop
        self.early_stopping_patience_counter = self.early_stopping_patience_counter + 1 if below else 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Nothing: the parent warns that the best model is not loaded at the end; ``train_encoder`` does that."""

    def state(self) -> dict[str, Any]:
        """This callback's part of a checkpoint."""
        kept: dict[str, Any] = super().state()
        kept["args"] |= {"base_ndcg": self.base_ndcg, "min_drop": self.min_drop}
        return kept


class ProgressReport(TrainerCallback):  # type: ignore[misc]
    """Reports after every step: its loss, the last nDCG@10, and the base model's.

    Args:
        progress: told (step, last step, text).
        base_ndcg: nDCG@10 of the base model.
    """

    def __init__(self, progress: Progress, base_ndcg: float) -> None:
        self._progress, self.base_ndcg = progress, base_ndcg
        self.loss, self.note = float("nan"), ""
        self._ndcg: float | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report a step."""
        last = "" if self._ndcg is None else f"nDCG@10 {self._ndcg:.4f}, "
        text = f"loss {self.loss:.4f}, {self.note}{last}base {self.base_ndcg:.4f}"
        self._progress(state.global_step, state.max_steps, text)
        if state.global_step >= state.max_steps:
            # The Trainer validates after the last step, but logs its losses only every ``validation_steps`` steps.
            control.should_log = True

    def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
        """Keep the metric of a validation."""
        self._ndcg = metrics[f"eval_{NDCG}"]
