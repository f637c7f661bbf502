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
from scipy.special import expit

Float32Array = npt.NDArray[np.float32]

_SCORES_AT_ONCE = 1 << 22
# Cross-validated: .04 and .07 gained less on NFCorpus, .02 and .1 on three collections.
_TEMPERATURE = 0.05


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

    Returns:
        The mean over the steps, float32, shape (a, d), and the levels of the last step, float32, shape (q,).
    """
    levels = np.empty(len(question_vectors), dtype=np.float32)

    def share(scores: Float32Array, part: slice) -> None:
        highest = scores.max(axis=1, keepdims=True)
        scores -= highest
        np.exp(scores, out=scores)
        total = scores.sum(axis=1, keepdims=True)
        scores /= total
        levels[part] = (highest + np.log(total))[:, 0]

    return _along(question_vectors, base, pairs, weights, G, share, prior=prior, steps=steps), levels


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

    def share(scores: Float32Array, part: slice) -> None:
        # exp(score) / (exp(level) + exp(score)): the row is one more of those that the level sums.
        scores -= levels[part, None]
        expit(scores, out=scores)

    return _along(question_vectors, base, pairs, weights, G, share, prior=prior, steps=steps)


def _along(
    question_vectors: Float32Array,
    base: Float32Array,
    pairs: npt.NDArray[np.int64],
    weights: Float32Array,
    G: Float32Array,
    share: Callable[[Float32Array, slice], None],
    *,
    prior: float,
    steps: int,
) -> Float32Array:
    """Take rows along their way in steps; ``share`` turns scores, shape (b, a), of some questions into shares."""
    so_far = np.zeros(base.shape, dtype=np.float32)
    rows = base
    size = max(1, _SCORES_AT_ONCE // max(1, len(base)))
    for step in range(1, steps + 1):
        for start in range(0, len(question_vectors), size):
            part = slice(start, start + size)
            questions = question_vectors[part]
            shares = questions @ rows.T  # (b, a)
            shares /= np.float32(_TEMPERATURE)
            share(shares, part)
            shares *= weights[part, None]
            # Left in, a question's share at its own answers would push these off it once it is deleted.
            own = pairs[slice(*np.searchsorted(pairs[:, 0], [start, start + len(questions)]))]
            shares[own[:, 0] - start, own[:, 1]] = 0.0
            so_far -= shares.T @ questions
        rows = base + (np.float32(step) * G + so_far) / np.float32(prior * steps)
        rows /= np.maximum(np.linalg.norm(rows, axis=1), np.finfo(np.float32).tiny)[:, None]
    return so_far / np.float32(steps)
