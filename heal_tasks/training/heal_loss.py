"""The HEAL loss: supervised contrastive learning at each level of the topic tree.

Objective, level weights and tau = 0.07 follow a published summary of HEAL (Bhattarai et al. 2024, arXiv 2412.04661).
The form of a level's loss is our reading: supervised contrastive learning (Khosla et al. 2020, arXiv 2004.11362, the
form with the sum outside the logarithm), with masks for paths that end early. ``paper_compat`` switches off our
addition, the renormalisation over the levels at which an anchor has positives.
"""

import torch
from torch import Tensor
from torch.nn import functional


def level_weights(levels: int) -> Tensor:
    """The published weights lambda_l = 2^(L-l-1) / (2^L - 1) of L levels, the shallowest first, float64, shape (L,)."""
    return 2.0 ** torch.arange(levels, dtype=torch.float64).flip(0) / (2.0**levels - 1)


def heal_loss(embeddings: Tensor, labels: Tensor, *, temperature: float = 0.07, paper_compat: bool = False) -> Tensor:
    """Weighted sum over levels of supervised contrastive losses.

    At level l the positives of an anchor are the other items with its label there. The denominator has all other items
    except those with an unknown relation: pairs whose paths agree until one of them ends. An anchor without positives
    at a level is skipped there.

    Args:
        embeddings: floating point, shape (N, d); normalised here. Half precision is computed in float32.
        labels: integer, shape (N, L), L at least 1; label path from the root, -1 after its end. Labels are unique in
            the whole tree: nodes with different parents never share one.
        temperature: tau.
        paper_compat: divide each level by N instead of by its anchors, and do not renormalise an anchor's weights over
            the levels at which it has positives.

    Returns:
        Scalar, float32 (float64 for float64 embeddings). Zero, with zero gradients, where no item has a positive.
    """
    n, levels = labels.shape
    # A matrix product in half precision costs three digits of the cosine, which tau multiplies by 14.
    with torch.autocast(embeddings.device.type, enabled=False):
        z = functional.normalize(embeddings if embeddings.dtype == torch.float64 else embeddings.float(), dim=1)
        scores = z @ z.T / temperature  # (N, N)
        losses, used = [], []
        others = ~torch.eye(n, dtype=torch.bool, device=z.device)  # (N, N)
        parted = torch.zeros_like(others)  # the two paths differ at this level or above
        for level in range(levels):
            label = labels[:, level]  # (N,)
            known = (label >= 0)[:, None] & (label >= 0)[None, :]  # (N, N)
            same = label[:, None] == label[None, :]
            parted = parted | (known & ~same)
            positives = others & known & same
            denominator = others & (known | parted)
            losses.append(_anchor_losses(scores, positives, denominator))
            used.append(positives.any(dim=1))
        per_anchor = torch.stack(losses)  # (L, N)
        has_positives = torch.stack(used).to(z.dtype)  # (L, N)
        lambdas = level_weights(levels).to(z)[:, None]  # (L, 1)
        if paper_compat:
            return (lambdas * per_anchor).sum() / max(n, 1)
        share = lambdas * has_positives
        share = share / share.sum(dim=0).clamp(min=torch.finfo(z.dtype).tiny)
        return ((share * per_anchor).sum(dim=1) / has_positives.sum(dim=1).clamp(min=1)).sum()


def _anchor_losses(scores: Tensor, positives: Tensor, denominator: Tensor) -> Tensor:
    """SupCon loss of every anchor, shape (N,); 0 for an anchor without positives."""
    # The lowest finite number instead of -inf, which gives NaN gradients in a row where all is masked.
    masked = scores.masked_fill(~denominator, torch.finfo(scores.dtype).min)
    log_share = scores - masked.logsumexp(dim=1, keepdim=True)  # (N, N)
    summed = torch.where(positives, log_share, torch.zeros_like(log_share)).sum(dim=1)
    return -summed / positives.sum(dim=1).clamp(min=1)
