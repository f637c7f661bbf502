"""The closed-form solutions of NUDGE: the new vector of a document for a given theta.

Paper: NUDGE: Lightweight Non-Parametric Fine-Tuning of Embeddings for Retrieval, ICLR 2025, arXiv 2409.02343. Its body
was not available: the formulas are derived from its stated objective, max G.d' under a bound on the move. Both variants
move d towards a unit direction u:

    NUDGE-N  d' = cos(x) d + sin(x) u,  u = (G - (G.d) d) / ||G - (G.d) d||,  x = theta, at most the angle to G
    NUDGE-M  d' = d + x G/||G||,                                             x = theta, at most the row's limit, if any

so the score of a moved row is p(theta) q.d + r(theta) q.u, with no matrix product per theta. The residual G - (G.d) d
is computed as a vector, never as G.G - (G.d)^2: in float32 that cancels to a negative number when a question equals its
document, and NaN follows.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from heal_tasks.nudge.products import Float32Array, Float64Array, Int64Array, blocks

Variant = Literal["N", "M"]

MAX_THETA: dict[Variant, float] = {"N": np.pi / 2, "M": 8.0}
"""A quarter turn leaves nothing of a document's own meaning; a step of 8 is eight times its length."""

# Blocks that fit the cache: 57 ms for 10,000 rows in blocks of 8,192, 27 in these.
_ROWS_AT_ONCE = 1024
# Below this share of the gradient the residual is rounding error, and a turn towards it is a turn towards noise.
_SMALLEST_RESIDUAL = 1e-6


@dataclass(frozen=True, slots=True)
class Moves:
    """The direction in which each row may move, and how far.

    ``arrival`` is the theta at which a row stops: radians (N) or step length (M), infinite for M without a prior.
    """

    directions: Float32Array  # (a, d): unit vectors u, zero where a row does not move
    arrival: Float64Array  # (a,); 0 where a row does not move
    variant: Variant


def move_factors(arrival: Float64Array, theta: npt.ArrayLike, variant: Variant) -> tuple[Float64Array, Float64Array]:
    """The factors p and r of d' = p d + r u; ``theta`` and ``arrival`` are broadcast, see :class:`Moves`."""
    reached = np.minimum(arrival, theta)
    if variant == "N":
        return np.cos(reached), np.sin(reached)
    return np.ones_like(reached), reached


def gradients(
    question_vectors: Float32Array, pairs: Int64Array, weights: Float64Array, *, centre: Float32Array | None = None
) -> tuple[Int64Array, Float32Array]:
    """Sum the questions of each row: the gradient G of the total similarity with respect to that row.

    Args:
        question_vectors: shape (q, d), unit length.
        pairs: shape (p, 2): question index and the row that answers it.
        weights: shape (p,), positive: with 1/|answers of the question|, all questions weigh the same.
        centre: shape (d,): the mean question, to be subtracted from each question; None for nothing. Where all
            questions share a direction, rows otherwise move along it and rise against every question.

    Returns:
        The rows that are named, ascending, shape (a,), and G, shape (a, d), summed in float64; 0 where the questions of
        a row cancel each other.
    """
    rows, position = np.unique(pairs[:, 1], return_inverse=True)
    incidence = sparse.coo_array((weights, (position, pairs[:, 0])), shape=(len(rows), len(question_vectors))).tocsr()
    questions = question_vectors.astype(np.float64)
    if centre is not None:
        questions -= centre
    G = np.empty((len(rows), question_vectors.shape[1]), dtype=np.float32)
    for part in blocks(len(rows), _ROWS_AT_ONCE):
        G[part] = np.asarray(incidence[part] @ questions, dtype=np.float32)
    total = np.bincount(position, weights=weights, minlength=len(rows))
    G[np.linalg.norm(G, axis=1) <= _SMALLEST_RESIDUAL * total] = 0.0
    return rows, G


def plan_moves(base: Float32Array, G: Float32Array, variant: Variant, prior: float = 0.0) -> Moves:
    """Find each row's direction and where it stops.

    Args:
        base: shape (a, d), unit length.
        G: shape (a, d): gradients; a row with a zero gradient does not move.
        variant: N or M.
        prior: number of questions that the base vector counts as: a row stops at the direction of ``prior * base + G``
            (N) or after a step of ``||G|| / prior`` (M), so that few questions move it little.
    """
    directions = np.zeros(base.shape, dtype=np.float32)
    arrival = np.zeros(len(base))
    for part in blocks(len(base), _ROWS_AT_ONCE):
        g = G[part].astype(np.float64)
        length = np.linalg.norm(g, axis=1)
        if variant == "M":
            moves = length > 0
            directions[part][moves] = g[moves] / length[moves, None]
            arrival[part][moves] = length[moves] / prior if prior else np.inf
            continue
        d = base[part].astype(np.float64)
        v = np.einsum("ij,ij->i", g, d)
        R = g - v[:, None] * d
        t = np.linalg.norm(R, axis=1)
        moves = t > _SMALLEST_RESIDUAL * length
        directions[part][moves] = R[moves] / t[moves, None]
        arrival[part][moves] = np.arctan2(t[moves], v[moves] + prior)
    return Moves(directions, arrival, variant)


def apply_moves(base: Float32Array, moves: Moves, theta: float) -> Float32Array:
    """Move rows, shape (a, d), unit length, by theta: radians (N) or step length (M); 0 returns the base vectors.

    The result has unit length for NUDGE-N; search on NUDGE-M must use the inner product.
    """
    moved = np.empty(base.shape, dtype=np.float32)
    p, r = move_factors(moves.arrival, theta, moves.variant)
    for part in blocks(len(base), _ROWS_AT_ONCE):
        rows = p[part, None] * base[part] + r[part, None] * moves.directions[part]
        if moves.variant == "N":
            rows /= np.linalg.norm(rows, axis=1)[:, None]
        moved[part] = rows
    return moved
