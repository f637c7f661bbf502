"""Step publish: the chosen generation written, indexed and measured; then one transaction switches to it."""

import numpy as np

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.quality.probes import choose_probes, restart_drift
from heal_tasks.steps.vectors.indexing import index_served
from heal_tasks.steps.vectors.spaces import served
from heal_tasks.steps.vectors.systems import LIVE, Systems, moved_copy
from heal_tasks.store.documents.chunks import purge_superseded
from heal_tasks.store.generations.contrast_state import ContrastRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.nudge_state import NudgeState
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.spaces.spaces import SpaceRepository


def publish(context: Context) -> Outcome:
    """Write, index and measure the generation of ref ``generation_id``, then switch to it; 0 keeps the live one."""
    generations = GenerationRepository(context.conn)
    chosen, verdict = context.manifest.number("generation_id"), context.manifest.text("verdict")
    counts, notes = dict[str, int | float](), list[str]()
    if chosen and generations.get(chosen).state != "active":  # active: an earlier attempt was killed after the switch
        made = generations.get(chosen)
        rows = _write(context, made)
        indexed = index_served(context, made)
        built = indexed.built
        counts = {
            "rows": rows, "index_seconds": round(built.seconds, 2), "index_bytes": built.size_bytes,
            "recall": round(indexed.recall, 4), "ef_search": indexed.ef_search,
        }  # fmt: skip
        spilled = "; the graph outgrew maintenance_work_mem, raise HEAL_INDEX_MEMORY_MB" if built.spilled else ""
        notes.append(
            f"{built.rows} rows indexed in {built.seconds:.1f} s, recall@10 {indexed.recall:.3f} at ef_search "
            f"{indexed.ef_search}{spilled}"
        )
        if indexed.fault:
            verdict = f"Not published: {indexed.fault}."
            generations.set_state(chosen, "failed", note=verdict)
            generations.drop_tables(chosen)
            chosen = 0
        elif orphans := ServedRepository(context.conn).health(made)["orphans"]:
            # Deletions since the rows were written reach them before any reader can.
            raise StepError(f"generation {chosen} has {orphans} rows of deleted chunks; run the realign route again")
        else:
            generations.set_state(chosen, "ready")
            generations.activate(chosen)
            purge_superseded(context.conn)
    generations.retire_old(context.settings.drain_hours)
    active = generations.active()
    if active is None:
        raise StepError(f"no generation is active: {verdict}")
    if not chosen:
        # Otherwise the drift of the live generation would call for the same realignment every night.
        restart_drift(context.conn, active)
    refs: dict[str, int | str] = {"generation_id": active.generation_id, "verdict": verdict}
    return Outcome(refs=refs, counts=counts, note="; ".join([verdict.split("\n")[0], *notes]))


def _write(context: Context, generation: Generation) -> int:
    """Write the lexicon, the served rows, the contrast state and the probes; the number of rows."""
    state = NudgeState(context.conn, generation)
    touched = state.touched()  # read before the corpus: later changes stay noted for the next nudge
    systems = Systems(context.conn, context.settings, generation.topic_run_id)
    generations, contrast = GenerationRepository(context.conn), ContrastRepository(context.conn)
    generations.create_tables(generation)
    plain = systems.plain(LIVE, SpaceRepository(context.conn).get(generation.space_id))
    new = np.empty(0, dtype=np.int64)
    if context.manifest.number("keep_rows"):
        assert systems.active is not None
        vectors = systems.live().chunks
        contrast.write(generation, contrast.load(systems.active))
        live_ids = ServedRepository(context.conn).served_ids(systems.active)
        new = np.setdiff1d(systems.chunks.chunk_ids, live_ids)
    else:
        moved = systems.moves_of(generation, plain)
        vectors = moved_copy(plain.chunks, moved)
        if moved:
            contrast.write(generation, moved.contrast)
    systems.write_lexicon(generation, plain, vectors)
    rows = ServedRepository(context.conn).write_served(generation, served(systems.chunks, vectors))
    state.settle(touched)
    state.touch(new)  # they have their base vectors; the next nudge moves them by their questions
    state.write_probes(choose_probes(systems.questions, plain.questions, systems.chunks, vectors))
    return rows


PUBLISH = Step("publish", publish, None)
