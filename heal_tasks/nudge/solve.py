"""The closed-form NUDGE solutions: where a document vector goes for a given budget.

Paper: NUDGE: Lightweight Non-Parametric Fine-Tuning of Embeddings for Retrieval, ICLR 2025, arXiv 2409.02343
(the body was not at hand: the formulas are derived from its stated objective, max G.d' under a bound on the
move). Both variants are written as a move from d towards a unit direction u,

    NUDGE-N  d' = cos(x) d + sin(x) u,  u = (G - (G.d) d) / ||G - (G.d) d||,  x clipped where d' reaches G's direction
    NUDGE-M  d' = d + x G/||G||,                                             x clipped at its row's limit, if it has one

so that a query's score of a moved row is p(x) q.d + r(x) q.u for every budget x, with no matrix product per x.
The residual G - (G.d) d is formed as a vector, never as G.G - (G.d)^2: that cancels to a negative number in
float32 when a question equals its document, and NaN follows.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

Variant = Literal["N", "M"]

# Small enough for the cache: 57 ms for 10,000 rows in blocks of 8,192, 27 in these.
_ROWS_AT_ONCE = 1024
# Below this share of the gradient the residual is rounding error, and a turn towards it is a turn towards noise.
_SMALLEST_RESIDUAL = 1e-6


@dataclass(frozen=True, slots=True)
class Moves:
    """Which way each row may move.

    Args:
        directions: float32, shape (a, d): unit vectors u, zero where a row does not move.
        arrival: float64, shape (a,): budget at which the row has arrived and stops: radians for NUDGE-N; for NUDGE-M
            infinite unless there is a prior; 0 where it does not move.
        variant: N or M.
    """

    directions: npt.NDArray[np.float32]
    arrival: npt.NDArray[np.float64]
    variant: Variant

    def factors(self, budget: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The factors p and r of d' = p d + r u at a budget.

        Returns:
            Two arrays, float64, shape (a,).
        """
        return move_factors(self.arrival, budget, self.variant)


def move_factors(
    arrival: npt.NDArray[np.float64], budget: npt.ArrayLike, variant: Variant
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The factors p and r of d' = p d + r u.

    Args:
        arrival: float64, any shape: budget at which each row stops.
        budget: radians (N) or step length (M); broadcast against ``arrival``.
        variant: N or M.

    Returns:
        p and r, float64, of the broadcast shape.
    """
    reached = np.minimum(arrival, budget)
    if variant == "N":
        return np.cos(reached), np.sin(reached)
    return np.ones_like(reached), reached


def gradients(
    question_vectors: npt.NDArray[np.float32],
    pairs: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    centre: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Sum the questions of each row: the gradient G of the total similarity with respect to that row.

    Args:
        question_vectors: float32, shape (q, d), unit length.
        pairs: int64, shape (p, 2): question index and the row that answers it.
        weights: float64, shape (p,), positive: by default 1/|positives of the question|, so that a question with many
            answers pulls as much in total as one with a single answer.
        centre: float32, shape (d,): the mean question, to be taken off each question first. Where all questions share
            a direction, rows otherwise move along it and rise against every question.

    Returns:
        The rows that are named, ascending int64, shape (a,), and G, float32, shape (a, d), summed in float64; 0 where
        the questions of a row cancel each other.
    """
    rows, position = np.unique(pairs[:, 1], return_inverse=True)
    shape = (len(rows), len(question_vectors))
    incidence = sparse.coo_array((weights, (position, pairs[:, 0])), shape=shape).tocsr()
    G = np.empty((len(rows), question_vectors.shape[1]), dtype=np.float32)
    wide = question_vectors.astype(np.float64)
    if centre is not None:
        wide -= centre
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        G[part] = np.asarray(incidence[part] @ wide, dtype=np.float32)
    total = np.bincount(position, weights=weights, minlength=len(rows))
    G[np.linalg.norm(G, axis=1) <= _SMALLEST_RESIDUAL * total] = 0.0
    return rows, G


def plan_moves(
    base: npt.NDArray[np.float32], G: npt.NDArray[np.float32], variant: Variant, prior: float = 0.0
) -> Moves:
    """Find each row's direction and where it arrives.

    Args:
        base: float32, shape (a, d), unit length.
        G: float32, shape (a, d): gradients; a row without one does not move.
        variant: N or M.
        prior: how many questions the base vector itself counts as: a row goes no further than the direction of
            ``prior * base + G`` (N) or a step of ``||G|| / prior`` (M), so that little evidence moves it little.

    Returns:
        The moves.
    """
    directions = np.zeros(base.shape, dtype=np.float32)
    arrival = np.zeros(len(base))
    for start in range(0, len(base), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        g = G[part].astype(np.float64)
        length = np.linalg.norm(g, axis=1)
        if variant == "M":
            steps = length > 0
            directions[part][steps] = g[steps] / length[steps, None]
            arrival[part][steps] = length[steps] / prior if prior else np.inf
            continue
        d = base[part].astype(np.float64)
        v = np.einsum("ij,ij->i", g, d)
        R = g - v[:, None] * d
        t = np.linalg.norm(R, axis=1)
        turns = t > _SMALLEST_RESIDUAL * length
        directions[part][turns] = R[turns] / t[turns, None]
        arrival[part][turns] = np.arctan2(t[turns], v[turns] + prior)
    return Moves(directions, arrival, variant)


def apply_moves(base: npt.NDArray[np.float32], moves: Moves, budget: float) -> npt.NDArray[np.float32]:
    """Move rows by a budget.

    Args:
        base: float32, shape (a, d), unit length.
        moves: their moves.
        budget: radians for NUDGE-N, step length for NUDGE-M; 0 returns the base vectors.

    Returns:
        float32, shape (a, d): of unit length for NUDGE-N.
    """
    moved = np.empty(base.shape, dtype=np.float32)
    p, r = moves.factors(budget)
    for start in range(0, len(base), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        rows = p[part, None] * base[part] + r[part, None] * moves.directions[part]
        if moves.variant == "N":
            rows /= np.linalg.norm(rows, axis=1)[:, None]
        moved[part] = rows
    return moved


def turn(base: npt.NDArray[np.float32], G: npt.NDArray[np.float32], theta: float) -> npt.NDArray[np.float32]:
    """NUDGE-N: turn unit rows by an angle towards their questions, stopping on arrival.

    Args:
        base: float32, shape (a, d), unit length.
        G: float32, shape (a, d).
        theta: largest angle, radians.

    Returns:
        float32, shape (a, d), unit length. A row whose question equals it stays.
    """
    return apply_moves(base, plan_moves(base, G, "N"), theta)


def shift(base: npt.NDArray[np.float32], G: npt.NDArray[np.float32], gamma: float) -> npt.NDArray[np.float32]:
    """NUDGE-M: move rows by a step towards their questions; lengths change, so search must use the inner product.

    Args:
        base: float32, shape (a, d), unit length.
        G: float32, shape (a, d).
        gamma: step length.

    Returns:
        float32, shape (a, d).
    """
    return apply_moves(base, plan_moves(base, G, "M"), gamma)
