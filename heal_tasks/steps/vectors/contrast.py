"""Pushes between NUDGE, which counts rows, and the store, which keeps them by the ids of chunks and questions."""

import numpy as np

from heal_tasks.nudge.contrast import Pushes, late_pushes
from heal_tasks.nudge.plan import Plan
from heal_tasks.nudge.solve import gradients
from heal_tasks.steps.vectors.spaces import Float32Array, Int64Array
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable
from heal_tasks.store.generations.contrast_state import KeptPushes, PushRepository
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.nudge_state import TouchedRows


def to_keep(pushes: Pushes, chunk_ids: Int64Array, question_ids: Int64Array) -> KeptPushes:
    """What a generation keeps of pushes that were computed with its budget.

    Args:
        pushes: with the levels of their questions.
        chunk_ids: int64, shape (n,): of the rows.
        question_ids: int64, shape (q,): of the questions that moved them.

    Returns:
        The same by id.
    """
    levels = pushes.levels
    return KeptPushes(
        chunk_ids[pushes.rows], pushes.vectors, question_ids[levels.questions], levels.levels, levels.weights
    )


def kept(pushes: KeptPushes, chunks: ChunkTable) -> Pushes:
    """What a generation keeps, by the rows of the chunks that there are."""
    rows = chunks.rows(pushes.chunk_ids)
    return Pushes(rows[rows >= 0], pushes.vectors[rows >= 0])


def with_late(
    conn: Connection, active: Generation, rows: TouchedRows, plan: Plan, centre: Float32Array | None
) -> Pushes:
    """The pushes of touched rows; those that came since the plan was chosen get theirs, and keep them from then on.

    Args:
        conn: an autocommit connection.
        active: the live generation.
        rows: what was touched.
        plan: of its budget.
        centre: float32, shape (d,): what the plan takes off the questions.

    Returns:
        Pushes by chunk id.
    """
    repository = PushRepository(conn)
    known = Pushes(*repository.of_chunks(active, rows.chunk_ids))
    asks = np.flatnonzero(~np.isin(rows.chunk_ids[rows.answers], known.rows))  # questions of rows without a push
    if not plan.contrast_steps or not len(asks):
        return known
    pairs = np.column_stack([asks, rows.answers[asks]])
    places, G = gradients(rows.questions, pairs, plan.weights(rows.shares[asks]), centre=centre)
    late = rows.chunk_ids[places]
    pushing = repository.pushing(active, late)
    found = late_pushes(*pushing[:3], rows.base[places], pushing.pairs, G, prior=plan.prior, steps=plan.contrast_steps)
    repository.add(active, late, found)
    return known.and_of(late, found)
