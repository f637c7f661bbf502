"""What the encoder is trained on: find the own document, stay near the base model, and HEAL's topic levels.

HEAL alone pulls topic-mates together until the right document is lost among them, so the own-document
term (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748) belongs to the default. Documents of the same
leaf are HEAL positives; as negatives of the own-document term they would make the two terms fight, so they
are masked there unless asked for. What the base model already knows about documents that nobody asks about is
kept by the base term. ``bench/RESULTS.md`` shows what each term is worth.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_world_size
from torch import Tensor, nn

from heal_tasks.core.errors import InputError
from heal_tasks.training.data import NO_NEGATIVE, UNKNOWN, IntArray, TrainingData
from heal_tasks.training.heal_loss import LevelWeights, heal_loss
from heal_tasks.training.ranking_losses import ABSENT, base_loss, own_document_loss


@dataclass(frozen=True)
class BaseVectors:
    """The base model's vectors of the pairs that a training meets.

    Args:
        rows: int64, shape (k,), ascending; rows of the data.
        questions: float32, shape (k, d).
        documents: float32, shape (k, d).
    """

    rows: Tensor
    questions: Tensor
    documents: Tensor

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Questions' and documents' vectors of some of the rows, on the device of ``rows``."""
        places = torch.searchsorted(self.rows, rows.cpu().contiguous())
        return self.questions[places].to(rows.device), self.documents[places].to(rows.device)


@dataclass(frozen=True)
class LabelLayout:
    """How ids, leaves and label paths travel through the Trainer's one label column.

    A row is [row of the data, document id, leaf, path (L), negatives' document ids (m), negatives' leaves (m)].

    Args:
        levels: L.
        negatives: m.
    """

    levels: int
    negatives: int

    def pack(self, data: TrainingData) -> IntArray:
        """The label column of the data, int64, shape (n, 3 + L + 2 m)."""
        n, m = len(data.questions), self.negatives
        ids = np.full((n, m), UNKNOWN, dtype=np.int64)
        leaves = np.full((n, m), UNKNOWN, dtype=np.int64)
        if m and data.negative_document_ids is not None and data.negative_leaves is not None:
            ids[:], leaves[:] = data.negative_document_ids, data.negative_leaves
        if m:
            ids[np.array([[text == NO_NEGATIVE for text in texts] for texts in data.negatives])] = ABSENT
        own = np.stack([np.arange(n), data.document_ids, data.leaves.astype(np.int64)], axis=1)
        return np.concatenate([own, data.labels, ids, leaves], axis=1)

    def unpack(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rows (B,), document ids (B,), leaves (B,), paths (B, L), negatives' ids (B, m) and leaves (B, m); all int64.

        Raises:
            InputError: the column has another width.
        """
        widths = [1, 1, 1, self.levels, self.negatives, self.negatives]
        if labels.ndim != 2 or labels.shape[1] != sum(widths):
            raise InputError(f"label column has shape {tuple(labels.shape)}, expected (B, {sum(widths)})")
        row, document, leaf, path, ids, leaves = torch.split(labels, widths, dim=1)
        return row[:, 0], document[:, 0], leaf[:, 0], path, ids, leaves


class Objective(CachedLossMixin, nn.Module):  # type: ignore[misc]
    """The loss that the sentence-transformers Trainer calls: own-document term plus weighted HEAL.

    With a micro-batch it works by gradient caching (Gao et al. 2021, arXiv 2101.06983): one pass without graph gives
    the embeddings, the loss of the whole batch their gradients, and a second pass carries these to the weights,
    one micro-batch at a time. Same loss, same gradient, at the cost of one more forward pass; only dropout draws
    differently. A text that several rows share is encoded once. With several processes the batch is what all of them
    hold together.

    Args:
        model: the encoder; the Trainer may swap it for a wrapper, so nothing else refers to it.
        layout: how to read the label column.
        heal_weight: factor of the HEAL term; 0 leaves it out.
        heal_temperature: tau of the HEAL term.
        level_weights: see ``heal_loss.level_weights``.
        own_document_temperature: temperature of the own-document term.
        label_smoothing: of the own-document term.
        mask_same_leaf: see ``own_document_loss``.
        base_weight: factor of the base term.
        base_vectors: of every row that a batch may hold; None leaves the base term out.
        answers: see ``TrainingData.answers``.
        text_ids: see ``TrainingData.text_ids``.
        heal_only: the published loss alone: no own-document term, no weight, no renormalisation.
        mini_batch_size: texts of a column that pass through the encoder together; 0 for all of them, without cache.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: LabelLayout,
        *,
        heal_weight: float,
        heal_temperature: float,
        level_weights: LevelWeights,
        own_document_temperature: float,
        label_smoothing: float,
        mask_same_leaf: bool,
        base_weight: float,
        base_vectors: BaseVectors | None,
        answers: Mapping[int, IntArray],
        text_ids: IntArray,
        heal_only: bool,
        mini_batch_size: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.mini_batch_size = model, mini_batch_size
        self._layout, self._heal_weight, self._heal_temperature = layout, heal_weight, heal_temperature
        self._level_weights, self._heal_only = level_weights, heal_only
        self._own_temperature, self._label_smoothing = own_document_temperature, label_smoothing
        self._mask_same_leaf = mask_same_leaf
        self._base_weight, self._base_vectors = base_weight, base_vectors
        self._answers, self._text_ids = answers, text_ids
        self._places: list[Tensor] = []
        self._terms: dict[str, Tensor] = {}

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            sentence_features: tokenised columns: questions, documents, then the m columns of negatives.
            labels: int64, shape (B, 3 + L + 2 m), see ``LabelLayout``.

        Returns:
            Named scalars that the Trainer adds up: ``own_document``, ``base`` and ``heal`` (already weighted).
        """
        features, self._places = [], []
        for column, texts in zip(sentence_features, self._texts(labels).T, strict=True):
            firsts, places = (torch.from_numpy(found).to(labels.device) for found in _distinct(texts))
            features.append({name: _rows_of(value, firsts, len(texts)) for name, value in column.items()})
            self._places.append(places)
        if not 0 < self.mini_batch_size < len(labels):
            columns = [self.model(column)["sentence_embedding"] for column in features]
            return self.loss_of_embeddings(self._spread(columns), labels)
        total: Tensor = CachedLossMixin.forward_cached(self, features, labels)
        first, *others = self._terms
        # The gradient hangs on the total, so one of the named terms has to carry it.
        return {**self._terms, first: total - sum(self._terms[name] for name in others)}

    def calculate_loss(self, reps: list[list[Tensor]], labels: Tensor, *, with_backward: bool = False) -> Tensor:
        """The whole batch's loss from the embeddings of its micro-batches, for ``CachedLossMixin``."""
        terms = self.loss_of_embeddings(self._spread([torch.cat(column) for column in reps]), labels)
        total = torch.stack(list(terms.values())).sum()
        if with_backward:
            torch.autograd.backward(total)
        self._terms = {name: term.detach() for name, term in terms.items()}
        return total.detach() if with_backward else total

    def _texts(self, labels: Tensor) -> IntArray:
        """Text ids of a batch, int64, shape (B, 2 + m)."""
        texts: IntArray = self._text_ids[labels[:, 0].cpu().numpy()]
        return texts

    def _spread(self, distinct: list[Tensor]) -> list[Tensor]:
        """Each column's embeddings, one per row of the batch, from one per text."""
        return [column[places] for column, places in zip(distinct, self._places, strict=True)]

    def loss_of_embeddings(self, columns: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The same from embeddings, each floating point of shape (B, d)."""
        if get_world_size() > 1:
            columns, labels = [all_gather_with_grad(column) for column in columns], all_gather(labels)
        rows, document_ids, leaves, paths, negative_ids, negative_leaves = self._layout.unpack(labels)
        questions, documents, *mined = columns
        candidates = self._texts(labels)[:, 1:]  # (B, 1 + m)
        firsts, places = _distinct(np.concatenate([candidates[:, 0], candidates[:, 1:].ravel()]))
        copies = torch.from_numpy(firsts[places] != np.arange(len(places))).to(labels.device)  # (B + B m,)
        terms = {}
        if not self._heal_only:
            terms["own_document"] = own_document_loss(
                questions,
                documents,
                torch.stack(mined, dim=1) if mined else documents.new_empty(len(documents), 0, documents.shape[1]),
                document_ids=document_ids,
                leaves=leaves,
                negative_document_ids=negative_ids,
                negative_leaves=negative_leaves,
                temperature=self._own_temperature,
                mask_same_leaf=self._mask_same_leaf,
                label_smoothing=self._label_smoothing,
                known_answers=self._known_answers(rows, document_ids, negative_ids) if self._answers else None,
                copies=copies,
            )
        if self._base_vectors is not None and not self._heal_only:
            base_questions, base_documents = self._base_vectors.of(rows)
            single = ~copies[: len(rows)]
            kept = base_loss(
                questions, documents[single], base_questions, base_documents[single], temperature=self._own_temperature
            )
            terms["base"] = self._base_weight * kept
        if self._heal_only or self._heal_weight > 0:
            # A question inherits its document's labels, so both are aligned in one space.
            heal = heal_loss(
                torch.cat([questions, documents]),
                torch.cat([paths, paths]),
                temperature=self._heal_temperature,
                weights=self._level_weights,
                paper_compat=self._heal_only,
            )
            terms["heal"] = heal if self._heal_only else self._heal_weight * heal
        return terms

    def _known_answers(self, rows: Tensor, document_ids: Tensor, negative_ids: Tensor) -> Tensor:
        candidates = torch.cat([document_ids, negative_ids.reshape(-1)]).cpu().numpy()
        known = np.zeros((len(rows), len(candidates)), dtype=np.bool_)
        for place, row in enumerate(rows.tolist()):
            if row in self._answers:
                known[place] = np.isin(candidates, self._answers[row])
        return torch.from_numpy(known).to(rows.device)


def _distinct(texts: IntArray) -> tuple[IntArray, IntArray]:
    """Places at which texts first stand, int64, shape (u,), ascending; which of these each is, int64, shape (b,)."""
    _, first, number = np.unique(texts, return_index=True, return_inverse=True)
    firsts, which = np.unique(first[number], return_inverse=True)
    return firsts, which


def _rows_of(value: Any, rows: Tensor, size: int) -> Any:
    """Those rows of a feature that has one per text; a feature of the whole batch as it is."""
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
