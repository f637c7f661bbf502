"""Losses on the rankings within a batch: the own-document term and the base term."""

import torch
from torch import Tensor
from torch.nn import functional

from heal_tasks.training.data import UNKNOWN

ABSENT = -2
"""Document id of a negative that only fills the row."""


def own_document_loss(
    questions: Tensor,
    documents: Tensor,
    negatives: Tensor,
    *,
    document_ids: Tensor,
    leaves: Tensor,
    negative_document_ids: Tensor,
    negative_leaves: Tensor,
    known_answers: Tensor,
    copies: Tensor,
    temperature: float,
    mask_same_leaf: bool,
) -> Tensor:
    """InfoNCE from each question to its document, against the batch and the mined negatives.

    A question's own document is always a candidate, and so are its own negatives but for those of its document's leaf
    (if ``mask_same_leaf``). Any other text is one unless it belongs to the same document, to another that is known to
    answer the question, to the same leaf (as before) or to an unknown document, or is a copy of a candidate.

    Args:
        questions: floating point, shape (B, d).
        documents: floating point, shape (B, d); the right answer of each question.
        negatives: floating point, shape (B, m, d); m may be 0.
        document_ids: int64, shape (B,).
        leaves: int64, shape (B,); -1 for none.
        negative_document_ids: int64, shape (B, m); UNKNOWN or ABSENT where there is none.
        negative_leaves: int64, shape (B, m); -1 for none.
        known_answers: bool, shape (B, B + B m): documents, then negatives row by row, known to answer a question.
        copies: bool, shape (B + B m,): texts that equal an earlier one.
        temperature: divides the cosines.
        mask_same_leaf: exclude other documents of the question's leaf.

    Returns:
        Scalar, float32 (float64 for float64 input).
    """
    size, mined, dims = negatives.shape
    with torch.autocast(questions.device.type, enabled=False):
        candidates = torch.cat([documents, negatives.reshape(size * mined, dims)])  # (C, d), C = B + B m
        wide = torch.float64 if questions.dtype == torch.float64 else torch.float32
        q = functional.normalize(questions.to(wide), dim=1)
        c = functional.normalize(candidates.to(wide), dim=1)
        logits = q @ c.T / temperature  # (B, C)
        rows = torch.arange(size, device=q.device)
        own = rows[:, None] == torch.cat([rows, rows.repeat_interleave(mined)])  # (B, C)
        candidate_ids = torch.cat([document_ids, negative_document_ids.reshape(-1)])  # (C,)
        blocked = (candidate_ids == document_ids[:, None]) | (candidate_ids == UNKNOWN) | known_answers | copies
        blocked = (blocked & ~own) | (candidate_ids == ABSENT)
        if mask_same_leaf:
            candidate_leaves = torch.cat([leaves, negative_leaves.reshape(-1)])  # (C,)
            same_leaf = (candidate_leaves == leaves[:, None]) & (leaves >= 0)[:, None]
            same_leaf[rows, rows] = False
            blocked = blocked | same_leaf
        return functional.cross_entropy(logits.masked_fill(blocked, torch.finfo(wide).min), rows)


def base_loss(
    questions: Tensor, documents: Tensor, base_questions: Tensor, base_documents: Tensor, *, temperature: float
) -> Tensor:
    """Distillation (Hinton et al. 2015, arXiv 1503.02531) from the base model over the batch's documents.

    Mean over the questions of KL(p || q), where p and q are the softmax over the documents of the base model's and the
    encoder's cosines divided by the temperature.

    Args:
        questions: floating point, shape (B, d).
        documents: floating point, shape (C, d).
        base_questions: float32, shape (B, d); the base model's vectors of the same questions.
        base_documents: float32, shape (C, d).
        temperature: in both.

    Returns:
        Scalar, float32 (float64 for float64 input).
    """
    with torch.autocast(questions.device.type, enabled=False):
        wide = torch.float64 if questions.dtype == torch.float64 else torch.float32

        def log_shares(left: Tensor, right: Tensor) -> Tensor:
            unit_left, unit_right = (functional.normalize(vectors.to(wide), dim=1) for vectors in (left, right))
            return functional.log_softmax(unit_left @ unit_right.T / temperature, dim=1)  # (B, C)

        moved, base = log_shares(questions, documents), log_shares(base_questions, base_documents)
        return functional.kl_div(moved, base, log_target=True, reduction="batchmean")
