"""The contrastive part of a gradient: rows are pushed off the questions that they do not answer.

NUDGE maximises the similarity of a question to its answers and does not mind who else rises with them. Where documents
share questions and questions have many answers, that is what limits it; a softmax over the rows minds. Its gradient at
the base vectors is not enough: rows that have moved are in other rows' way, so a few steps are taken
(cross-validation on NFCorpus, nDCG@10: .388 with one step, .394 with five, no more with 8, 12 or 24).

Computed once, with the budget, and kept as one vector per row. From then on a row depends on its own questions and its
own push alone, so that a night still costs what arrives and not what is stored. A row that comes later is pushed by
the questions of then, each weighed against what the rows of then were to it: one number per question. Without that, a
tenth of NFCorpus arriving later ended at .406 instead of the .428 of a new choice, worse than if it had not moved at
all; with it, at .430 (bench/nudge_nights.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from heal_tasks.nudge.products import blocks, scores_at_once

Float32Array = npt.NDArray[np.float32]

# Cross-validated: .04 and .07 gained less on NFCorpus, .02 and .1 on three collections.
_TEMPERATURE = 0.05
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Levels:
    """What the rows are to each question, for rows that come later to be weighed against.

    Args:
        questions: int64, shape (q,): which question of the set as it was given.
        levels: float32, shape (q,): log of the sum of exp(similarity / .05) over the rows, near where they end.
        weights: float32, shape (q,): weight of the question over all of its answers.
    """

    questions: npt.NDArray[np.int64]
    levels: Float32Array
    weights: Float32Array


NO_LEVELS = Levels(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Pushes:
    """What is added to the gradients of some rows, whatever their questions.

    Args:
        rows: ascending int64, shape (p,).
        vectors: float32, shape (p, d).
        levels: of the questions that pushed; none where the pushes are not of this computation.
    """

    rows: npt.NDArray[np.int64]
    vectors: Float32Array
    levels: Levels = NO_LEVELS

    @classmethod
    def none(cls, dims: int) -> "Pushes":
        """No row is pushed."""
        return cls(np.empty(0, dtype=np.int64), np.empty((0, dims), dtype=np.float32))

    def and_of(self, rows: npt.NDArray[np.int64], vectors: Float32Array) -> "Pushes":
        """These pushes, and those of other rows; int64, shape (m,), and float32, shape (m, d)."""
        everything = np.concatenate([self.rows, rows])
        order = np.argsort(everything)
        return Pushes(everything[order], np.concatenate([self.vectors, vectors])[order])

    def of(self, rows: npt.NDArray[np.int64]) -> Float32Array:
        """Pushes of some rows, ascending int64, shape (a,): float32, shape (a, d), 0 for a row without one."""
        found = np.zeros((len(rows), self.vectors.shape[1]), dtype=np.float32)
        _, here, there = np.intersect1d(rows, self.rows, assume_unique=True, return_indices=True)
        found[here] = self.vectors[there]
        return found


def pushes(
    question_vectors: Float32Array,
    base: Float32Array,
    pairs: npt.NDArray[np.int64],
    weights: Float32Array,
    G: Float32Array,
    *,
    prior: float,
    steps: int,
    device: str = "cpu",
) -> tuple[Float32Array, Float32Array]:
    """Sum the questions that take each row for their answer and should not, along the way that the rows take.

    Each of the steps counts a question at each row that does not answer it with its share of exp(similarity / .05) over
    the rows, and takes the rows the next part of the way to ``prior * base + G + push``.

    Args:
        question_vectors: float32, shape (q, d), unit length.
        base: float32, shape (a, d), unit length: the rows that have questions.
        pairs: int64, shape (p, 2): question index, ascending, and the place in ``base`` of a row that answers it.
        weights: float32, shape (q,): of each question over all of its answers.
        G: float32, shape (a, d): gradients of the rows' own questions.
        prior: how many questions a base vector counts as, above 0.
        steps: how many, 1 or more.
        device: ``cpu`` or a GPU.

    Returns:
        The mean over the steps, float32, shape (a, d), and the levels of the last step, float32, shape (q,).
    """
    levels = torch.empty(len(question_vectors), device=device)

    def share(scores: torch.Tensor, part: slice) -> torch.Tensor:
        highest = scores.amax(dim=1, keepdim=True)
        total = scores.sub_(highest).exp_().sum(dim=1, keepdim=True)
        levels[part] = (highest + total.log())[:, 0]
        return scores.div_(total)

    found = _along(question_vectors, base, pairs, weights, G, share, prior=prior, steps=steps, device=device)
    return found, levels.cpu().numpy()


def late_pushes(
    question_vectors: Float32Array,
    levels: Float32Array,
    weights: Float32Array,
    base: Float32Array,
    pairs: npt.NDArray[np.int64],
    G: Float32Array,
    *,
    prior: float,
    steps: int,
) -> Float32Array:
    """Pushes of rows that were not there when those of the others were computed; the others stay as they are.

    Args:
        question_vectors: float32, shape (q, d), unit length: those of then.
        levels: float32, shape (q,): from :func:`pushes`.
        weights: float32, shape (q,): as there.
        base: float32, shape (a, d), unit length: the late rows. Each is computed as if it were the only one.
        pairs: int64, shape (p, 2): question index, ascending, and the place in ``base`` of a row that answers it.
        G: float32, shape (a, d): gradients of the late rows' own questions.
        prior: as there.
        steps: as there.

    Returns:
        float32, shape (a, d).
    """
    sums = torch.from_numpy(levels)

    def share(scores: torch.Tensor, part: slice) -> torch.Tensor:
        # exp(score) / (exp(level) + exp(score)): the row is one more of those that the level sums.
        return scores.sub_(sums[part, None]).sigmoid_()

    return _along(question_vectors, base, pairs, weights, G, share, prior=prior, steps=steps, device="cpu")


def _along(
    question_vectors: Float32Array,
    base: Float32Array,
    pairs: npt.NDArray[np.int64],
    weights: Float32Array,
    G: Float32Array,
    share: Callable[[torch.Tensor, slice], torch.Tensor],
    *,
    prior: float,
    steps: int,
    device: str,
) -> Float32Array:
    """Take rows along their way in steps; ``share`` turns scores, shape (b, a), of some questions into shares."""
    questions, start, own, pull, heavy = (
        torch.from_numpy(array).to(device) for array in (question_vectors, base, pairs, G, weights)
    )
    so_far, rows = torch.zeros_like(start), start
    parts = [*blocks(len(questions), max(1, scores_at_once(device) // max(1, len(base))))]
    for step in range(1, steps + 1):
        for part in parts:
            shares = share((questions[part] @ rows.T).div_(_TEMPERATURE), part)  # (b, a)
            shares *= heavy[part, None]
            # Left in, a question's share at its own answers would push these off it once it is deleted.
            answers = own[slice(*np.searchsorted(pairs[:, 0], [part.start, part.stop]))]
            shares[answers[:, 0] - part.start, answers[:, 1]] = 0.0
            so_far.addmm_(shares.T, questions[part], alpha=-1)
        rows = torch.nn.functional.normalize(start + (step * pull + so_far) / (prior * steps), eps=_TINY)
    return so_far.div_(steps).cpu().numpy()
