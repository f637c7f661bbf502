"""Displacements, the contrastive part of a gradient: they move rows away from questions that they do not answer.

NUDGE maximises the similarity of questions to their answers and ignores side effects on other rows. A softmax over the
rows accounts for them, which matters where documents share questions and questions have many answers. Its gradient at
the base vectors is not enough, since rows that have moved compete too, so it is summed over a few steps
(cross-validation on NFCorpus, nDCG@10: .388 with one step, .394 with five, no more with 8, 12 or 24).

Displacements are computed once, when theta is chosen, and stored as one vector per row. Afterwards a row depends on its
own questions and its own displacement alone, so the cost of a nudge depends on the number of new documents, not on the
size of the store. A row that arrives later is displaced by the questions present at the choice, normalised by a stored
log-sum-exp per question. Without it, a tenth of NFCorpus arriving later ended at .396, worse than unmoved (.420); with
it at .431, where a new choice gives .432 (bench/nudge_nights.py).
"""

from dataclasses import dataclass

import numpy as np
import torch

from heal_tasks.nudge.products import Float32Array, Int64Array, block_size, blocks

# Cross-validated: .04 and .07 gained less on NFCorpus, .02 and .1 on three collections.
_TEMPERATURE = 0.05
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class QuestionLevels:
    """The normaliser of each question's softmax, for rows that arrive later."""

    questions: Int64Array  # (q,): index of each question in the set as it was given
    log_sum_exp: Float32Array  # (q,): log of the sum of exp(similarity / .05) over the rows at the last step
    weights: Float32Array  # (q,): weight of the question over all of its answers


NO_LEVELS = QuestionLevels(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Displacements:
    """Vectors that are added to the gradients of rows."""

    rows: Int64Array  # (p,), ascending
    vectors: Float32Array  # (p, d)
    levels: QuestionLevels = NO_LEVELS  # of the questions that displace rows; none where they are not needed

    @classmethod
    def none(cls, dims: int) -> "Displacements":
        """Displacements of no row."""
        return cls(np.empty(0, dtype=np.int64), np.empty((0, dims), dtype=np.float32))

    def and_of(self, rows: Int64Array, vectors: Float32Array) -> "Displacements":
        """Add other rows, shape (m,), with their vectors, shape (m, d)."""
        everything = np.concatenate([self.rows, rows])
        order = np.argsort(everything)
        return Displacements(everything[order], np.concatenate([self.vectors, vectors])[order])

    def of(self, rows: Int64Array) -> Float32Array:
        """Vectors of some rows, ascending, shape (a,): shape (a, d), 0 for a row without one."""
        found = np.zeros((len(rows), self.vectors.shape[1]), dtype=np.float32)
        _, here, there = np.intersect1d(rows, self.rows, assume_unique=True, return_indices=True)
        found[here] = self.vectors[there]
        return found


def displace(
    question_vectors: Float32Array,
    base: Float32Array,
    pairs: Int64Array,
    weights: Float32Array,
    G: Float32Array,
    *,
    prior: float,
    steps: int,
    log_sum_exp: Float32Array | None = None,
    device: str = "cpu",
    block_scores: int | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Compute the displacements of rows by the questions that they do not answer.

    In each step, a question displaces each row that does not answer it by the row's share of exp(similarity / .05) over
    all rows. Then the rows take the next part of the way to ``prior * base + G + displacement``.

    Args:
        question_vectors: shape (q, d), unit length.
        base: shape (a, d), unit length: the rows that have questions.
        pairs: shape (p, 2): question index, ascending, and the index in ``base`` of a row that answers it.
        weights: shape (q,): of each question over all of its answers.
        G: shape (a, d): gradients of the rows' own questions.
        prior: number of questions that a base vector counts as, above 0.
        steps: number of steps, 1 or more.
        log_sum_exp: shape (q,): from an earlier call, if ``base`` has only rows that arrived later. Each of them is
            computed as if it were the only one, and the displacement of the earlier rows does not change.
        device: ``cpu`` or a GPU.
        block_scores: most scores in a block; None for what suits the device.

    Returns:
        The mean over the steps, shape (a, d), and the log-sum-exp of each question at the last step, shape (q,).
    """
    questions, start, answering, attraction, weight = (
        torch.from_numpy(array).to(device) for array in (question_vectors, base, pairs, G, weights)
    )
    late = log_sum_exp is not None
    levels = torch.empty(len(questions)) if log_sum_exp is None else torch.from_numpy(log_sum_exp)
    levels = levels.to(device)
    total, rows = torch.zeros_like(start), start
    parts = [*blocks(len(questions), block_size(len(base), device, block_scores))]
    for step in range(1, steps + 1):
        for part in parts:
            shares = (questions[part] @ rows.T).div_(_TEMPERATURE)  # (b, a)
            if late:
                # exp(score) / (exp(level) + exp(score)): the row joins those in the stored sum.
                shares.sub_(levels[part, None]).sigmoid_()
            else:
                highest = shares.amax(dim=1, keepdim=True)
                sums = shares.sub_(highest).exp_().sum(dim=1, keepdim=True)
                levels[part] = (highest + sums.log())[:, 0]
                shares.div_(sums)
            shares *= weight[part, None]
            # Included, a question's share at its own answers would displace these once the question is deleted.
            own = answering[slice(*np.searchsorted(pairs[:, 0], [part.start, part.stop]))]
            shares[own[:, 0] - part.start, own[:, 1]] = 0.0
            total.addmm_(shares.T, questions[part], alpha=-1)
        rows = torch.nn.functional.normalize(start + (step * attraction + total) / (prior * steps), eps=_TINY)
    return total.div_(steps).cpu().numpy(), levels.cpu().numpy()
