"""Steps nudge and nudge_live: the stored vectors moved by the questions.

nudge fills the served vectors of this run's candidates. nudge_live is the short path: the active
generation's rows recomputed from its base vectors with its own budget, checked, and only the rows that
differ written. It checks before it writes, so a drop in quality has nothing to restore.
"""

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.errors import StepError
from heal_tasks.nudge.nudge import NudgeResult, nudge
from heal_tasks.nudge.solve import Variant
from heal_tasks.steps.runner import Context, Outcome, Step
from heal_tasks.steps.scoring import System, compare_for_drop, evaluation_rows, question_set, score
from heal_tasks.steps.spaces import candidates, in_order, overlay
from heal_tasks.store.corpus import ChunkTable, Corpus, QuestionTable
from heal_tasks.store.documents import DocumentRepository
from heal_tasks.store.generation import Generation
from heal_tasks.store.generations import GenerationRepository
from heal_tasks.store.runs import RunRepository
from heal_tasks.store.vectors import Served, VectorRepository

Float32Array = NDArray[np.float32]


def served(chunks: ChunkTable, vectors: Float32Array) -> Served:
    """Rows of a served table: every live chunk with its document, leaf and vector."""
    return Served(chunks.chunk_ids, chunks.document_ids, chunks.leaves, vectors)


def move(
    generation: Generation,
    context: Context,
    chunks: ChunkTable,
    questions: QuestionTable,
    *,
    variant: Variant,
    theta: float | None,
) -> tuple[NudgeResult, Float32Array, Float32Array, Float32Array]:
    """NUDGE one generation's base vectors.

    Args:
        generation: whose base and question vectors.
        context: of the step.
        chunks: all live chunks.
        questions: all questions of live chunks.
        variant: N or M.
        theta: the budget; None lets validation choose it.

    Returns:
        The result; base vectors, moved vectors, float32, shape (n, d); question vectors, float32, shape (q, d).
    """
    vectors = VectorRepository(context.conn)
    base = in_order(chunks.chunk_ids, *vectors.load_base(generation))
    asked = in_order(questions.question_ids, *vectors.load_questions(generation))
    result = nudge(
        base,
        question_set(questions, asked, chunks, "train"),
        question_set(questions, asked, chunks, "seen_validation", "unseen_validation"),
        variant=variant,
        theta=theta,
        min_gain=context.settings.gate_epsilon,
    )
    moved = base.copy()
    moved[result.rows] = result.vectors
    return result, base, moved, asked


def nudge_candidates(context: Context) -> Outcome:
    """Fill the served vectors of every candidate, moved where validation gains more than one standard error.

    Args:
        context: of the step.

    Returns:
        Counts of moved rows and the budget by candidate.
    """
    corpus, generations = Corpus(context.conn), GenerationRepository(context.conn)
    chunks, questions = corpus.chunks(context.manifest.number("topic_run_id")), corpus.questions()
    counts: dict[str, int | float] = {}
    notes = []
    for generation in context.track(candidates(context)):
        result, _, moved, _ = move(
            generation, context, chunks, questions, variant=context.settings.nudge_variant, theta=None
        )
        adopted = result.adopted and len(result.rows) > 0
        generation = generations.set_fields(
            generation.generation_id,
            topic_run_id=context.manifest.number("topic_run_id"),
            metric="inner_product" if adopted and result.variant == "M" else "cosine",
            nudge_variant=result.variant if adopted else "none",
            nudge_theta=result.theta if adopted else 0.0,
        )
        VectorRepository(context.conn).write_served(generation, served(chunks, moved))
        counts[f"moved_{generation.kind}"] = len(result.rows)
        counts[f"theta_{generation.kind}"] = round(result.theta, 4)
        notes.append(
            f"{generation.kind}: {len(result.rows)} of {len(moved)} rows by theta {result.theta:.2f}, validation "
            f"{result.validation_before:.3f} to {result.validation_after:.3f}"
            if adopted
            else f"{generation.kind}: not moved, validation gains too little"
        )
    return Outcome(counts=counts, note="; ".join(notes))


def nudge_live(context: Context) -> Outcome:
    """Publish new documents and move the rows that their questions touch, in the active generation.

    Args:
        context: of the step.

    Returns:
        Ref ``generation_id``; counts of rows added, changed and removed.

    Raises:
        StepError: no generation is active.
    """
    generations, vectors = GenerationRepository(context.conn), VectorRepository(context.conn)
    active = generations.active()
    if active is None:
        raise StepError("no generation is active, so there is nothing to nudge; take the realign route")
    corpus, settings = Corpus(context.conn), context.settings
    chunks, questions = corpus.chunks(active.topic_run_id), corpus.questions()
    # A live budget belongs to the variant it was chosen for; without one, validation looks for a budget anew.
    variant: Variant = settings.nudge_variant
    if active.nudge_theta:
        variant = "M" if active.nudge_variant == "M" else "N"
    result, base, moved, asked = move(
        active, context, chunks, questions, variant=variant, theta=active.nudge_theta or None
    )

    before = overlay(chunks, base, vectors.load_served(active))
    old = score(System("live before", active.generation_id, asked, before), questions, chunks)
    new = score(System("live after", active.generation_id, asked, moved), questions, chunks)
    worse = compare_for_drop(new, old, questions, settings)
    RunRepository(context.conn).record_evaluations(
        context.run_id,
        evaluation_rows(old, None, questions, settings) + evaluation_rows(new, old, questions, settings),
    )
    written = vectors.upsert_served(active, served(chunks, before if worse else moved))
    purged = DocumentRepository(context.conn).purge_superseded()
    if not worse and result.adopted and not active.nudge_theta:
        generations.set_fields(active.generation_id, nudge_variant=result.variant, nudge_theta=result.theta)
    verdict = (
        f"{written.added} rows added, {written.changed} changed, {written.removed} removed, "
        f"{written.unchanged} untouched"
    )
    if worse:
        verdict += (
            f"; the moved rows were worse ({worse}), so new documents are served un-nudged and the rest as before"
        )
    return Outcome(
        refs={"generation_id": active.generation_id, "verdict": verdict},
        counts={
            "rows_added": written.added, "rows_changed": written.changed, "rows_removed": written.removed,
            "rows_unchanged": written.unchanged, "superseded_removed": purged, "theta": round(result.theta, 4),
        },
        note=verdict,
    )  # fmt: skip


NUDGE = Step("nudge", nudge_candidates, None)
NUDGE_LIVE = Step("nudge_live", nudge_live, None)
