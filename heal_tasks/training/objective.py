"""The training objective: own-document term, base term and HEAL term.

HEAL alone pulls documents of one topic together until the right one is lost among them, so the own-document term
(InfoNCE, van den Oord et al. 2018, arXiv 1807.03748) is the default. Documents of one leaf are HEAL positives, and as
negatives of the own-document term they would set the two terms against each other, so they are masked there by
default. The base term preserves the base model's ranking. ``bench/RESULTS.md`` gives the gain of each term.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_world_size
from torch import Tensor, nn

from heal_tasks.training.config import TrainingConfig
from heal_tasks.training.data import NO_NEGATIVE, IntArray, TrainingData, several_answers
from heal_tasks.training.heal_loss import heal_loss
from heal_tasks.training.ranking_losses import ABSENT, base_loss, own_document_loss


@dataclass(frozen=True)
class BaseVectors:
    """The base model's vectors of the pairs in a training's batches."""

    rows: Tensor  # int64, shape (k,), ascending; rows of the data
    questions: Tensor  # float32, shape (k, d)
    documents: Tensor  # float32, shape (k, d)

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The questions' and the documents' vectors of some rows, on the device of ``rows``."""
        places = torch.searchsorted(self.rows, rows.cpu().contiguous())
        return self.questions[places].to(rows.device), self.documents[places].to(rows.device)


class Objective(CachedLossMixin, nn.Module):  # type: ignore[misc]
    """The loss that the sentence-transformers Trainer calls: the sum of the terms.

    The Trainer's label of a pair is its row in the data. Micro-batches use gradient caching (Gao et al. 2021, arXiv
    2101.06983): a pass without graph gives the embeddings, the loss of the whole batch gives their gradients, and a
    second pass carries these to the weights, one micro-batch at a time. Loss and gradient are the same, except for
    dropout's draws, at the cost of a second forward pass. A text that several rows share is encoded once. With several
    processes the loss is that of their joint batch.

    Args:
        model: the encoder; the Trainer may replace it by a wrapper, so nothing else refers to it.
        data: of the training; its first ``mined`` columns of negatives are used.
        config: weights, temperatures, masks, and the size of a micro-batch; with ``paper`` the HEAL term is alone.
        base_vectors: of every row that a batch may hold; None omits the base term.
    """

    def __init__(
        self, model: nn.Module, data: TrainingData, config: TrainingConfig, base_vectors: BaseVectors | None
    ) -> None:
        super().__init__()
        # CachedLossMixin reads mini_batch_size.
        self.model, self.mini_batch_size = model, config.micro_batch_size
        self._config, self._base_vectors = config, base_vectors
        self._answers = several_answers(data.question_ids, data.document_ids)
        mined = mined_columns(data, config)
        self._text_ids = data.text_ids(mined)  # (n, 2 + m)
        self._document_ids, self._leaves, self._paths = map(_int64, (data.document_ids, data.leaves, data.labels))
        absent = np.array([[text == NO_NEGATIVE for text in texts[:mined]] for texts in data.negatives], dtype=np.bool_)
        self._negative_ids = _int64(np.where(absent, ABSENT, data.negative_document_ids[:, :mined]))  # (n, m)
        self._negative_leaves = _int64(data.negative_leaves[:, :mined])
        self._places: list[Tensor] = []
        self._terms: dict[str, Tensor] = {}

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            sentence_features: tokenised columns: questions, documents, then the m columns of negatives.
            labels: int64, shape (B,); rows of the data.

        Returns:
            Named scalars that the Trainer adds: ``own_document``, ``base`` and ``heal``, already weighted.
        """
        features, self._places = [], []
        for column, texts in zip(sentence_features, self._text_ids[labels.cpu().numpy()].T, strict=True):
            firsts, places = (torch.from_numpy(found).to(labels.device) for found in _distinct(texts))
            features.append({name: _rows_of(value, firsts, len(texts)) for name, value in column.items()})
            self._places.append(places)
        if not 0 < self.mini_batch_size < len(labels):
            columns = [self.model(column)["sentence_embedding"] for column in features]
            return self.loss_of_embeddings(self._spread(columns), labels)
        total: Tensor = CachedLossMixin.forward_cached(self, features, labels)
        first, *others = self._terms
        # The total carries the gradient, so one of the named terms must contain it.
        return {**self._terms, first: total - sum(self._terms[name] for name in others)}

    def calculate_loss(self, reps: list[list[Tensor]], labels: Tensor, *, with_backward: bool = False) -> Tensor:
        """The whole batch's loss from the embeddings of its micro-batches, for ``CachedLossMixin``."""
        terms = self.loss_of_embeddings(self._spread([torch.cat(column) for column in reps]), labels)
        total = torch.stack(list(terms.values())).sum()
        if with_backward:
            torch.autograd.backward(total)
        self._terms = {name: term.detach() for name, term in terms.items()}
        return total.detach() if with_backward else total

    def _spread(self, distinct: list[Tensor]) -> list[Tensor]:
        """Each column's embeddings, one per row of the batch, from one per text."""
        return [column[places] for column, places in zip(distinct, self._places, strict=True)]

    def loss_of_embeddings(self, columns: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Terms of a batch from its embeddings, each floating point of shape (B, d); see ``forward``."""
        if get_world_size() > 1:
            columns, labels = [all_gather_with_grad(column) for column in columns], all_gather(labels)
        config, rows, device = self._config, labels.cpu(), labels.device
        questions, documents, *mined = columns
        document_ids, negative_ids = self._document_ids[rows], self._negative_ids[rows]  # (B,), (B, m)
        candidates = self._text_ids[rows.numpy()][:, 1:]  # (B, 1 + m)
        firsts, places = _distinct(np.concatenate([candidates[:, 0], candidates[:, 1:].ravel()]))
        copies = torch.from_numpy(firsts[places] != np.arange(len(places))).to(device)  # (B + B m,)
        terms = {}
        if not config.paper:
            terms["own_document"] = own_document_loss(
                questions,
                documents,
                torch.stack(mined, dim=1) if mined else documents.new_empty(len(documents), 0, documents.shape[1]),
                document_ids=document_ids.to(device),
                leaves=self._leaves[rows].to(device),
                negative_document_ids=negative_ids.to(device),
                negative_leaves=self._negative_leaves[rows].to(device),
                temperature=config.own_document_temperature,
                mask_same_leaf=config.mask_same_leaf,
                known_answers=self._known_answers(rows, document_ids, negative_ids).to(device),
                copies=copies,
            )
        if self._base_vectors is not None and not config.paper:
            base_questions, base_documents = self._base_vectors.of(labels)
            single = ~copies[: len(rows)]
            terms["base"] = config.base_weight * base_loss(
                questions,
                documents[single],
                base_questions,
                base_documents[single],
                temperature=config.own_document_temperature,
            )
        if config.paper or config.heal_weight > 0:
            # A question inherits its document's labels, so both are aligned in one space.
            heal = heal_loss(
                torch.cat([questions, documents]),
                self._paths[rows].repeat(2, 1).to(device),
                paper_compat=config.paper,
            )
            terms["heal"] = heal if config.paper else config.heal_weight * heal
        return terms

    def _known_answers(self, rows: Tensor, document_ids: Tensor, negative_ids: Tensor) -> Tensor:
        """True where a candidate is known to answer a question, bool, shape (B, B + B m)."""
        candidates = torch.cat([document_ids, negative_ids.reshape(-1)]).numpy()
        known = np.zeros((len(rows), len(candidates)), dtype=np.bool_)
        for place, row in enumerate(rows.tolist()):
            if row in self._answers:
                known[place] = np.isin(candidates, self._answers[row])
        return torch.from_numpy(known)


def mined_columns(data: TrainingData, config: TrainingConfig) -> int:
    """Number m of columns of negatives that a training uses; the published loss has none."""
    return 0 if config.paper else data.negatives_per_question


def _int64(values: Any) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _distinct(texts: IntArray) -> tuple[IntArray, IntArray]:
    """First places of the distinct texts, int64, shape (u,), ascending, and each text's index in these, shape (b,)."""
    _, first, number = np.unique(texts, return_index=True, return_inverse=True)
    firsts, which = np.unique(first[number], return_inverse=True)
    return firsts, which


def _rows_of(value: Any, rows: Tensor, size: int) -> Any:
    """Some rows of a feature that has one per text; a feature of the whole batch unchanged."""
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
