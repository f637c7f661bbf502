"""Losses on the rankings of a batch: find the own document, and stay near the base model's ranking."""

import torch
from torch import Tensor
from torch.nn import functional

from heal_tasks.training.data import UNKNOWN

ABSENT = -2
"""Document id of a negative that is only there to fill the row."""


def own_document_loss(
    questions: Tensor,
    documents: Tensor,
    negatives: Tensor,
    *,
    document_ids: Tensor,
    leaves: Tensor,
    negative_document_ids: Tensor,
    negative_leaves: Tensor,
    temperature: float,
    mask_same_leaf: bool,
    label_smoothing: float = 0.0,
    known_answers: Tensor | None = None,
    copies: Tensor | None = None,
) -> Tensor:
    """InfoNCE from each question to its document, against the batch and the mined negatives.

    A share of the target is spread evenly over all texts that count (label smoothing, Szegedy et al. 2016, arXiv
    1512.00567): a question need not drive everything else as far away as it can, which leaves NUDGE more to move.

    A question's own document and its own negatives always count. Any other text counts as a negative unless it
    comes from the same document, from another one that is known to answer the question, from the same leaf (if
    ``mask_same_leaf``), or from nobody knows where, or is the copy of one that counts already.

    Args:
        questions: floating point, shape (B, d).
        documents: floating point, shape (B, d); the right answer of each question.
        negatives: floating point, shape (B, m, d); m may be 0.
        document_ids: int64, shape (B,).
        leaves: int64, shape (B,); -1 for none.
        negative_document_ids: int64, shape (B, m); UNKNOWN or ABSENT where there is none.
        negative_leaves: int64, shape (B, m); -1 for none.
        temperature: divides the cosines.
        mask_same_leaf: leave documents of the question's leaf out, mined negatives of its own excepted.
        label_smoothing: that share, in [0, 1).
        known_answers: bool, shape (B, B + B m): whether a document, or a negative in the order of the rows, is known to
            answer a question; None where no question has a second answer.
        copies: bool, shape (B + B m,): texts that stand further ahead already; None where all differ.

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
        blocked = (candidate_ids == document_ids[:, None]) | (candidate_ids == UNKNOWN)
        if known_answers is not None:
            blocked = blocked | known_answers
        if copies is not None:
            blocked = blocked | copies
        if mask_same_leaf:
            candidate_leaves = torch.cat([leaves, negative_leaves.reshape(-1)])  # (C,)
            blocked = blocked | ((candidate_leaves == leaves[:, None]) & (leaves >= 0)[:, None])
        blocked = (blocked & ~own) | (candidate_ids == ABSENT)
        # Not cross_entropy's own smoothing, which counts what is blocked.
        losses = -logits.masked_fill(blocked, torch.finfo(wide).min).log_softmax(dim=1)  # (B, C)
        even = losses.masked_fill(blocked, 0).sum(dim=1) / (~blocked).sum(dim=1)
        return ((1 - label_smoothing) * losses[rows, rows] + label_smoothing * even).mean()


def base_loss(
    questions: Tensor, documents: Tensor, base_questions: Tensor, base_documents: Tensor, *, temperature: float
) -> Tensor:
    """How far the ranking of the batch's documents has moved from the base model's.

    Mean over the questions of KL(p || q), p and q the softmax over the documents of the base model's and of the
    encoder's cosines: distillation (Hinton et al. 2015, arXiv 1503.02531) from the model one starts from.

    Args:
        questions: floating point, shape (B, d).
        documents: floating point, shape (B, d).
        base_questions: float32, shape (B, d); the base model's vectors of the same questions.
        base_documents: float32, shape (B, d).
        temperature: divides the cosines.

    Returns:
        Scalar, float32 (float64 for float64 input).
    """
    with torch.autocast(questions.device.type, enabled=False):
        wide = torch.float64 if questions.dtype == torch.float64 else torch.float32

        def log_shares(left: Tensor, right: Tensor) -> Tensor:
            unit_left, unit_right = (functional.normalize(vectors.to(wide), dim=1) for vectors in (left, right))
            return functional.log_softmax(unit_left @ unit_right.T / temperature, dim=1)  # (B, B)

        moved, base = log_shares(questions, documents), log_shares(base_questions, base_documents)
        return functional.kl_div(moved, base, log_target=True, reduction="batchmean")
