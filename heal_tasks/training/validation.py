"""Validation during training: retrieval or topic agreement of held-out texts, early stopping, and progress reports."""

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from heal_tasks.core.metrics import TOP_K, TOPIC_AGREEMENT, Metric, metric_name, topic_agreement
from heal_tasks.core.types import Progress
from heal_tasks.training.data import FloatArray, ValidationSet
from heal_tasks.training.encoder import encode


class Validation(BaseEvaluator):  # type: ignore[misc]
    """Score of an encoder on held-out texts, by cosine.

    ``ndcg@10`` is of the questions over the documents. ``topic_agreement@10`` is of the documents that answer a
    question with the ten nearest texts of other documents.

    Args:
        validation: at least one query.
        metric: one of these two.
        max_steps: of the training.
        progress: told (step, max_steps, text) while documents are encoded.
        bf16: compute in bfloat16, as the training step does.
    """

    def __init__(
        self, validation: ValidationSet, metric: Metric, max_steps: int, progress: Progress, *, bf16: bool = False
    ) -> None:
        super().__init__()
        self._set, self._metric, self._max_steps = validation, metric, max_steps
        self._progress, self._bf16 = progress, bf16
        self._gains = np.zeros((len(validation.queries), len(validation.documents)), dtype=np.int8)
        for row, found in enumerate(validation.positives):
            self._gains[row, found] = 1

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = 0, steps: int = 0
    ) -> dict[str, float]:
        """The score, by the name of the metric; the Trainer defines the arguments."""
        del output_path, epoch

        def report(done: int, total: int, message: str = "") -> None:
            self._progress(steps, self._max_steps, f"validation: {done} of {total} documents encoded")

        queries = encode(model, self._set.queries, role="query", bf16=self._bf16)
        return {
            self._metric: self._score(queries, encode(model, self._set.documents, progress=report, bf16=self._bf16))
        }

    def of_base_model(self, model: SentenceTransformer) -> float:
        """The score of the base model, from the validation set's base vectors if it has any."""
        return self(model)[self._metric] if self._set.base_vectors is None else self._score(*self._set.base_vectors)

    def _score(self, queries: FloatArray, documents: FloatArray) -> float:
        if self._metric == TOPIC_AGREEMENT:
            return self._topic_agreement(documents)
        return 1.0 if len(documents) == 1 else float(ndcg_score(self._gains, queries @ documents.T, k=TOP_K))

    def _topic_agreement(self, documents: FloatArray) -> float:
        paths, ids = self._set.paths, self._set.document_ids
        asked = np.flatnonzero(self._gains.any(axis=0) & (paths >= 0).any(axis=1))
        cosines = documents[asked] @ documents.T
        cosines[ids[asked, None] == ids] = -np.inf
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :TOP_K]
        others = ids[nearest] != ids[asked, None]  # (a, 10); False where there are too few others
        found = np.where(others[:, :, None], paths[nearest], -1)
        return float(topic_agreement(found, paths[asked]).mean()) if len(asked) else 0.0


class BaseAwareStopping(EarlyStoppingCallback):  # type: ignore[misc]
    """Early stopping after consecutive validations clearly below the best one or the base model.

    Validations scatter, because they use some hundred questions: to stop at the first one without a gain is luck
    (bench/RESULTS.md).

    Args:
        early_stopping_patience: validations.
        early_stopping_threshold: of the parent, which passes it when it restores a checkpoint.
        base_score: of the base model; training that only makes it worse stops as well.
        min_drop: how far below the best a validation must be to count; at 0 one without a gain counts.
    """

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.0,
        base_score: float = 0.0,
        min_drop: float = 0.0,
    ) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.early_stopping_patience_counter = 0
        self.base_score, self.min_drop = base_score, min_drop

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Count a validation below the best, or reset the count."""
        best = self.base_score if state.best_metric is None else max(self.base_score, state.best_metric)
        below = metric_value <= best - self.min_drop
        self.early_stopping_patience_counter = self.early_stopping_patience_counter + 1 if below else 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Nothing: the parent warns that the best model is not loaded at the end; ``train_encoder`` does that."""

    def state(self) -> dict[str, Any]:
        """This callback's part of a checkpoint."""
        kept: dict[str, Any] = super().state()
        kept["args"] |= {"base_score": self.base_score, "min_drop": self.min_drop}
        return kept


class ProgressReport(TrainerCallback):  # type: ignore[misc]
    """Reports after every step: its loss, the last validation's score, and the base model's.

    Args:
        progress: told (step, last step, text).
        metric: of the validation.
        base_score: of the base model.
    """

    def __init__(self, progress: Progress, metric: Metric, base_score: float) -> None:
        self._progress, self._metric, self.base_score = progress, metric, base_score
        self.loss, self.note = float("nan"), ""
        self._score: float | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report a step."""
        last = "" if self._score is None else f"{metric_name(self._metric)} {self._score:.4f}, "
        text = f"loss {self.loss:.4f}, {self.note}{last}base {self.base_score:.4f}"
        self._progress(state.global_step, state.max_steps, text)
        if state.global_step >= state.max_steps:
            # The Trainer validates after the last step, but logs its losses only every ``validation_steps`` steps.
            control.should_log = True

    def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
        """Keep the score of a validation."""
        self._score = metrics[f"eval_{self._metric}"]
