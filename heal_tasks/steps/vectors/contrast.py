"""Contrast state between NUDGE, which counts rows, and the store, which keeps it by the ids of chunks and questions."""

import numpy as np

from heal_tasks.nudge.contrast import Displacements, displace
from heal_tasks.nudge.plan import NudgeRecord
from heal_tasks.nudge.solve import gradients
from heal_tasks.steps.vectors.spaces import Int64Array
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.corpus import ChunkTable
from heal_tasks.store.generations.contrast_state import ContrastRepository, ContrastState
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.nudge_state import TouchedRows


def by_id(displacements: Displacements, chunk_ids: Int64Array, question_ids: Int64Array) -> ContrastState:
    """Displacements and question levels by the ids of rows, shape (n,), and of questions that moved them, (q,)."""
    levels = displacements.levels
    return ContrastState(
        chunk_ids[displacements.rows],
        displacements.vectors,
        question_ids[levels.questions],
        levels.log_sum_exp,
        levels.weights,
    )


def by_row(stored: ContrastState, chunks: ChunkTable) -> Displacements:
    """Stored displacements by the rows of the chunks that are still there."""
    rows = chunks.rows(stored.chunk_ids)
    return Displacements(rows[rows >= 0], stored.vectors[rows >= 0])


def with_late(conn: Connection, active: Generation, rows: TouchedRows, record: NudgeRecord) -> Displacements:
    """Displacements of touched rows by chunk id; rows that came after the record was chosen get theirs, and keep it."""
    repository, plan = ContrastRepository(conn), record.plan
    known = Displacements(*repository.of_chunks(active, rows.chunk_ids))
    asks = np.flatnonzero(~np.isin(rows.chunk_ids[rows.answers], known.rows))  # questions of rows without one
    if not plan.contrast_steps or not len(asks):
        return known
    pairs = np.column_stack([asks, rows.answers[asks]])
    places, G = gradients(rows.questions, pairs, plan.weights(rows.shares[asks]), centre=record.centre)
    late = rows.chunk_ids[places]
    pushing = repository.pushing(active, late)
    found, _ = displace(
        pushing.vectors, rows.base[places], pushing.pairs, pushing.weights, G, prior=plan.prior,
        steps=plan.contrast_steps, log_sum_exp=pushing.levels,
    )  # fmt: skip
    repository.add(active, late, found)
    return known.and_of(late, found)
