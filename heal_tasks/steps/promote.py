"""Steps index, promote and activate: the winner's index with its recall measured, then the switch."""

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.probes import restart_drift, start_probes
from heal_tasks.steps.vectors.spaces import candidates, in_order, overlay, served
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generation import NO_BUDGET, Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.indexing import IndexReport, build_indexes, reach_recall
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.vectors import VectorRepository


def index(context: Context) -> Outcome:
    """Finish the winner's served rows, index them, and measure the index on real questions.

    Args:
        context: of the step.

    Returns:
        Counts of rows, seconds, bytes, recall and ef_search; ref ``winner`` 0 if recall misses its target.
    """
    generations, vectors = GenerationRepository(context.conn), VectorRepository(context.conn)
    winner_id, rows = context.manifest.number("winner"), context.manifest.text("winner_rows")
    if not winner_id:
        return Outcome(note="the live generation stays as it is; nothing to index")
    winner, settings = generations.get(winner_id), context.settings
    if rows != "nudged":
        chunks = Corpus(context.conn).chunks(context.manifest.number("topic_run_id"))
        matrix = in_order(chunks.chunk_ids, *vectors.load_base(winner))
        live = generations.active()
        fields: dict[str, object] = {**NO_BUDGET, "metric": "cosine"}
        if rows == "live" and live is not None:
            matrix = overlay(chunks.chunk_ids, matrix, vectors.load_served(live))
            fields = {name: getattr(live, name) for name in fields}
        winner = generations.set_fields(winner_id, **fields)
        vectors.write_served(winner, served(chunks, matrix))
        if rows == "live" and live is not None:
            # New chunks stand here as the encoder made them; the next nudge moves them as their questions want.
            new = np.setdiff1d(chunks.chunk_ids, vectors.load_served(live).chunk_ids)
            NudgeState(context.conn, winner).touch(new)
    start_probes(context.conn, winner)
    built, measured, ef_search = index_served(context, winner)
    counts: dict[str, int | float] = {
        "rows": built.rows, "index_seconds": round(built.seconds, 2), "index_bytes": built.size_bytes,
        "recall": round(measured, 4), "ef_search": ef_search,
    }  # fmt: skip
    note = f"{built.rows} rows indexed in {built.seconds:.1f} s, recall@10 {measured:.3f} at ef_search {ef_search}"
    if built.spilled:
        note += "; the graph outgrew maintenance_work_mem, raise HEAL_INDEX_MEMORY_MB"
    if measured < settings.recall_target:
        verdict = (
            f"Not promoted: recall@10 {measured:.3f} of the index misses HEAL_RECALL_TARGET={settings.recall_target}."
        )
        return Outcome(refs={"winner": 0, "verdict": verdict}, counts=counts, note=f"{note}; {verdict}")
    generations.set_state(winner_id, "ready")
    return Outcome(counts=counts, note=note)


def index_served(context: Context, generation: Generation) -> tuple[IndexReport, float, int]:
    """Index a generation's served rows as the settings want, and measure the index.

    Args:
        context: of the step.
        generation: its served rows are final; gets what was measured and found.

    Returns:
        What building took; recall@10 and ef_search as of ``reach_recall``.
    """
    settings = context.settings
    built = build_indexes(
        context.conn, generation, memory_mb=settings.index_memory_mb, parallel=settings.index_workers,
        exact_rows=settings.exact_rows, halfvec_rows=settings.halfvec_rows,
    )  # fmt: skip
    return built, *reach_recall(context.conn, generation, settings.recall_questions, settings.recall_target)


def promote(context: Context) -> Outcome:
    """Switch to the winner and put the other candidates away, or keep the live generation.

    Args:
        context: of the step.

    Returns:
        Ref ``generation_id``, the generation that serves now.

    Raises:
        StepError: nothing was promoted and nothing is active.
    """
    generations = GenerationRepository(context.conn)
    winner_id = context.manifest.number("winner")
    if winner_id:
        # Deletions since the rows were written reach them before any reader can.
        orphans = VectorRepository(context.conn).orphans(generations.get(winner_id))
        if orphans:
            raise StepError(f"generation {winner_id} has {orphans} rows of deleted chunks; run the realign route again")
        generations.activate(winner_id, lock_timeout_ms=context.settings.lock_timeout_ms)
        DocumentRepository(context.conn).purge_superseded()
    for candidate in candidates(context):
        if candidate.generation_id != winner_id:
            generations.set_state(candidate.generation_id, "failed", note="not chosen by the gate")
            generations.drop_tables(candidate.generation_id)
    generations.retire_old(context.settings.drain_hours)
    active = generations.active()
    if active is None:
        raise StepError(f"no generation is active: {context.manifest.text('verdict')}")
    if not winner_id:
        # Or what the live generation has lost would call for the same realignment every night.
        restart_drift(context.conn, active)
    return Outcome(refs={"generation_id": active.generation_id}, note=context.manifest.text("verdict").split("\n")[0])


def activate(context: Context) -> Outcome:
    """Promote a ready generation or roll back, by hand.

    Args:
        context: of the step; ref ``generation_id`` names the generation, 0 the previous one.

    Returns:
        Ref ``generation_id``, the generation that serves now.

    Raises:
        StepError: there is no previous generation to roll back to.
    """
    generations = GenerationRepository(context.conn)
    wanted = context.manifest.number("generation_id")
    if not wanted:
        previous = generations.previous()
        if previous is None:
            raise StepError(
                "there is no previous generation to roll back to; heal.generation_status lists what there is"
            )
        wanted = previous.generation_id
    generations.activate(wanted, lock_timeout_ms=context.settings.lock_timeout_ms)
    return Outcome(refs={"generation_id": wanted}, note=f"generation {wanted} is active")


INDEX = Step("index", index, None)
PROMOTE = Step("promote", promote, None)
ACTIVATE = Step("activate", activate, None)
