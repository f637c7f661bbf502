"""Looks at held-out retrieval during training, stops when they stop improving, and tells how far it has come."""

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from heal_tasks.core.types import Progress
from heal_tasks.training.data import ValidationSet
from heal_tasks.training.encoder import encode

NDCG = "ndcg@10"


class RetrievalLook(BaseEvaluator):  # type: ignore[misc]
    """nDCG@10 of the held-out questions against the held-out documents, by cosine.

    Args:
        validation: at least one query.
        max_steps: of the training that the looks interrupt.
        progress: told (step, max_steps, text) while documents are encoded.
    """

    def __init__(self, validation: ValidationSet, max_steps: int, progress: Progress) -> None:
        super().__init__()
        self._validation, self._max_steps, self._progress = validation, max_steps, progress
        self._gains = np.zeros((len(validation.queries), len(validation.documents)), dtype=np.int8)
        for row, found in enumerate(validation.positives):
            self._gains[row, found] = 1

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = 0, steps: int = 0
    ) -> dict[str, float]:
        """Mean over the queries, under the key ``NDCG``; the Trainer decides about the arguments."""
        del output_path, epoch

        def report(done: int, total: int, message: str = "") -> None:
            self._progress(steps, self._max_steps, f"held-out retrieval: {done} of {total} documents encoded")

        queries = encode(model, self._validation.queries, role="query")
        documents = encode(model, self._validation.documents, progress=report)
        if len(documents) == 1:
            return {NDCG: 1.0}
        return {NDCG: float(ndcg_score(self._gains, queries @ documents.T, k=10))}


class BaseAwareStopping(EarlyStoppingCallback):  # type: ignore[misc]
    """Stops at a sustained fall: looks in a row that lie clearly below an earlier look or the base model.

    Looks scatter, because they see some hundred questions: stopping at the first one that is no better stops by luck
    (bench/RESULTS.md).

    Args:
        early_stopping_patience: looks.
        early_stopping_threshold: of the parent; the Trainer hands it back when it restores a checkpoint.
        base_ndcg: nDCG@10 of the base model: training that only ever makes it worse stops as well.
        fall: how far below the best a look must lie to count; at 0 a look that is no better counts.
    """

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.0,
        base_ndcg: float = 0.0,
        fall: float = 0.0,
    ) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.early_stopping_patience_counter = 0
        self.base_ndcg, self.fall = base_ndcg, fall

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Count a fall, or start counting anew."""
        best = self.base_ndcg if state.best_metric is None else max(self.base_ndcg, state.best_metric)
        fallen = metric_value <= best - self.fall
        self.early_stopping_patience_counter = self.early_stopping_patience_counter + 1 if fallen else 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Nothing: the parent warns that the best model is not loaded at the end; ``train_encoder`` does that."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback."""
        kept: dict[str, Any] = super().state()
        kept["args"] |= {"base_ndcg": self.base_ndcg, "fall": self.fall}
        return kept


class ProgressReport(TrainerCallback):  # type: ignore[misc]
    """Tells a Progress after every step: loss of the step, last nDCG@10, the base model's.

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
            # The Trainer looks after the last step, but logs its losses only every ``look_steps`` steps.
            control.should_log = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Keep the metric of a look."""
        self._ndcg = metrics[f"eval_{NDCG}"]
