"""Step nudge_live: new documents published, and the rows that their questions move, in the active generation.

Where the generation has a budget, a row is a function of its own base vector and its own questions, so the rows
that something touched are computed and nothing else is looked at. Where it has none, validation looks for one
among all rows. Both judge before they write, so a drop in quality has nothing to restore.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.nudge.nudge import recompute
from heal_tasks.nudge.probe import KEPT
from heal_tasks.nudge.solve import Variant
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.nudge import budget_of, centre_of, move, plan_of
from heal_tasks.steps.promote import index_served
from heal_tasks.steps.quality.probes import (
    DISPLACEMENT,
    changed_places,
    choose_probes,
    followed,
    probe_scores,
    rank_anew,
    take,
)
from heal_tasks.steps.quality.scoring import Scores, System, compare_for_drop, evaluation_rows, score
from heal_tasks.steps.vectors.contrast import with_late
from heal_tasks.steps.vectors.spaces import Float32Array, Int64Array, candidates, overlay, served
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.contrast_state import KeptPushes, PushRepository
from heal_tasks.store.generations.generation import NO_BUDGET, Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState, Probes
from heal_tasks.store.generations.vectors import SAME_VECTOR, Served, Upserted, VectorRepository
from heal_tasks.store.questions.questions import QuestionRepository
from heal_tasks.store.runs.runs import RunRepository

FEW_ROWS = 1000
"""Up to so many differing rows are written where they are, whatever their share: it takes less than a new index."""


@dataclass(frozen=True)
class _Published:
    """What one night did: rows written, rows looked at, superseded chunks purged, and what fell, as a phrase."""

    written: Upserted
    looked_at: int
    purged: int
    worse: str
    theta: float


def nudge_live(context: Context) -> Outcome:
    """Publish new documents and move the rows that their questions touch, in the active generation.

    Args:
        context: of the step.

    Returns:
        Ref ``generation_id``; counts of rows added, changed and removed.

    Raises:
        StepError: no generation is active.
    """
    generations = GenerationRepository(context.conn)
    active = generations.active()
    if active is None:
        raise StepError("no generation is active, so there is nothing to nudge; take the realign route")
    state = NudgeState(context.conn, active)
    QuestionRepository(context.conn).place_judgments(active, state.touched())
    touched, probes = state.touched(), state.probes(KEPT)
    if active.nudge_theta and len(probes.question_ids):
        done = _touched_rows(context, active, state, touched, probes)
    else:
        done = _all_rows(context, active, state, touched, probes)
    written = done.written
    verdict = (
        f"{written.added} rows added, {written.changed} changed, {written.removed} removed; {done.looked_at} looked at"
    )
    now = generations.active() or active
    if now.generation_id != active.generation_id:
        verdict += f"; so many that generation {now.generation_id} was loaded with them and switched to"
    if done.worse:
        verdict += (
            f"; the moved rows were worse ({done.worse}), so new documents are served un-nudged and the rest as before"
        )
    return Outcome(
        refs={"generation_id": now.generation_id, "verdict": verdict},
        counts={
            "rows_added": written.added, "rows_changed": written.changed, "rows_removed": written.removed,
            "rows_looked_at": done.looked_at, "superseded_removed": done.purged, "theta": round(done.theta, 4),
        },
        note=verdict,
    )  # fmt: skip


def _touched_rows(
    context: Context, active: Generation, state: NudgeState, touched: Int64Array, probes: Probes
) -> _Published:
    """Compute what was touched with the budget that there is; judge by the probes."""
    vectors, rows = VectorRepository(context.conn), state.rows(touched)
    plan, centre = plan_of(active), centre_of(active)
    moved = recompute(
        rows.base, rows.questions, rows.answers, plan.weights(rows.shares),
        variant=_variant(active), theta=active.nudge_theta, prior=plan.prior, centre=centre,
        pushes=with_late(context.conn, active, rows, plan, centre).of(rows.chunk_ids),
    )  # fmt: skip
    unmoved = overlay(rows.chunk_ids, rows.base, vectors.load_served(active, touched))
    before, short_before = followed(probes, touched, rows.chunk_ids, unmoved)
    after, short_after = followed(probes, touched, rows.chunk_ids, moved)
    sure = np.setdiff1d(np.arange(len(probes.question_ids)), np.union1d(short_before, short_after))
    old = probe_scores(take(before, sure), "live before", active.generation_id)
    new = probe_scores(take(after, sure), "live after", active.generation_id)
    worse = _judge(context, old, new)
    kept, short, final = (before, short_before, unmoved) if worse else (after, short_after, moved)
    wanted = Served(rows.chunk_ids, rows.document_ids, rows.leaves, final)
    with context.conn.transaction():
        written = vectors.upsert_served(active, wanted, touched)
        if len(short):
            everything = vectors.load_served(active)
            rank_anew(kept, short, everything.chunk_ids, everything.vectors)
        state.update_probes(take(kept, changed_places(probes, kept)))
        state.settle(np.setdiff1d(touched, rows.chunk_ids) if worse else touched)
        _count_displacement(context, unmoved, final)
    purged = DocumentRepository(context.conn).purge_superseded()
    return _Published(written, len(touched), purged, worse, active.nudge_theta)


def _variant(generation: Generation) -> Variant:
    return "M" if generation.nudge_variant == "M" else "N"


def _all_rows(
    context: Context, active: Generation, state: NudgeState, touched: Int64Array, probes: Probes
) -> _Published:
    """Compute every row, with a budget if validation finds one."""
    generations, corpus = GenerationRepository(context.conn), Corpus(context.conn)
    vectors = VectorRepository(context.conn)
    chunks, questions = corpus.chunks(active.topic_run_id), corpus.questions()
    # A live budget belongs to the variant it was chosen for.
    variant = _variant(active) if active.nudge_theta else context.settings.nudge_variant
    moved = move(active, context, chunks, questions, variant=variant, theta=active.nudge_theta or None)
    result, asked = moved.result, moved.questions
    live = vectors.load_served(active)
    before = overlay(chunks.chunk_ids, moved.base, live)
    old = score(System("live before", active.generation_id, asked, before), questions, chunks)
    new = score(System("live after", active.generation_id, asked, moved.vectors), questions, chunks)
    worse = _judge(context, old, new)
    final = before if worse else moved.vectors
    wanted = served(chunks, final)
    if len(probes.question_ids):
        rank_anew(probes, np.arange(len(probes.question_ids)), chunks.chunk_ids, final)
    else:
        probes = choose_probes(questions, asked, chunks, final)
    kept = {name: getattr(active, name) for name in NO_BUDGET}
    budget = budget_of(moved) if not worse and result.adopted else kept
    if _is_rewrite(context, active, live, wanted, budget):
        written = _switch(context, active, live, wanted, probes, budget, moved.pushes)
    else:
        with context.conn.transaction():
            written = vectors.upsert_served(active, wanted)
            state.write_probes(probes)
            state.settle(touched)
            # With a budget it has them.
            if budget["nudge_contrast"] and not active.nudge_theta:
                PushRepository(context.conn).write(active, moved.pushes)
            generations.set_fields(active.generation_id, **budget)
    _count_displacement(context, before, final)
    purged = DocumentRepository(context.conn).purge_superseded()
    return _Published(written, len(chunks.chunk_ids), purged, worse, result.theta)


def _is_rewrite(context: Context, active: Generation, live: Served, wanted: Served, budget: dict[str, Any]) -> bool:
    """Whether a new table is cheaper than rewriting rows where they are, or the only way."""
    if budget["nudge_variant"] == "M" and active.metric == "cosine":
        return True
    _, here, there = np.intersect1d(wanted.chunk_ids, live.chunk_ids, return_indices=True)
    same = np.abs(wanted.vectors[here] - live.vectors[there]).max(axis=1, initial=0) <= SAME_VECTOR
    differing = len(wanted.chunk_ids) - int(same.sum())
    return differing > max(context.settings.nudge_rewrite_share * len(wanted.chunk_ids), FEW_ROWS)


def _switch(
    context: Context,
    active: Generation,
    live: Served,
    wanted: Served,
    probes: Probes,
    budget: dict[str, Any],
    pushes: KeptPushes,
) -> Upserted:
    """Load a generation of the same model, index it, and switch to it: readers never see a table half written.

    Raises:
        StepError: its index misses the recall target; what is live stays.
    """
    generations, settings = GenerationRepository(context.conn), context.settings
    made = candidates(context)[0]
    metric = "inner_product" if budget["nudge_variant"] == "M" else "cosine"
    made = generations.set_fields(made.generation_id, metric=metric, metrics=active.metrics, **budget)
    if made.nudge_contrast:
        PushRepository(context.conn).write(made, pushes)
    VectorRepository(context.conn).write_served(made, wanted)
    _, measured, _ = index_served(context, made)
    if measured < settings.recall_target:
        raise StepError(
            f"recall@10 {measured:.3f} of generation {made.generation_id}'s index misses HEAL_RECALL_TARGET="
            f"{settings.recall_target}; generation {active.generation_id} stays live"
        )
    NudgeState(context.conn, made).write_probes(probes)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=settings.lock_timeout_ms)
    kept = len(np.intersect1d(wanted.chunk_ids, live.chunk_ids))
    return Upserted(len(wanted.chunk_ids) - kept, kept, len(live.chunk_ids) - kept, 0)


def _count_displacement(context: Context, before: Float32Array, after: Float32Array) -> None:
    """Add what rows have moved to what the live generation's rows have moved before."""
    generations = GenerationRepository(context.conn)
    live = generations.active()
    assert live is not None
    dot = np.einsum("ij,ij->i", before, after, dtype=np.float64)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    moved = float(np.arccos(np.clip(dot / lengths, -1, 1)).sum())
    total = live.metrics.get(DISPLACEMENT, 0.0) + moved / max(VectorRepository(context.conn).estimated_rows(live), 1)
    generations.set_fields(live.generation_id, metrics={**live.metrics, DISPLACEMENT: total})


def _judge(context: Context, old: Scores, new: Scores) -> str:
    """Record both, and tell where quality fell beyond its interval; empty where it did not."""
    settings = context.settings
    RunRepository(context.conn).record_evaluations(
        context.run_id, evaluation_rows(old, None, settings) + evaluation_rows(new, old, settings)
    )
    return compare_for_drop(new, old, settings)


NUDGE_LIVE = Step("nudge_live", nudge_live, None)
