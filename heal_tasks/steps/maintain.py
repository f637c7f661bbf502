"""Step maintain: drop unused generations, spaces and files, vacuum and measure served tables; safe beside a run."""

import psycopg

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.indexing import RECALL_QUESTIONS
from heal_tasks.store.generations.bridges import BridgeRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import reach_recall, vacuum
from heal_tasks.store.generations.lexicon import LexiconRepository
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.runs.clock import mend_times
from heal_tasks.store.runs.garbage import unused_files
from heal_tasks.store.runs.runs import RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

ABANDONED_HOURS = 24.0
"""Age from which an unpublished generation is dropped if its run neither works nor is the last one."""


def maintain(context: Context) -> Outcome:
    """Drop drained generations, unused spaces and unused files, vacuum and measure what is served."""
    settings, generations = context.settings, GenerationRepository(context.conn)
    if ahead := mend_times(context.conn):
        context.log.warning("%s", ahead)
    living = RunRepository(context.conn).living_runs()
    counts: dict[str, int | float] = {
        "generations_dropped": len(generations.retire_old(settings.drain_hours)),
        "abandoned_generations_dropped": len(generations.discard_abandoned(ABANDONED_HOURS, living)),
    }
    bridges = BridgeRepository(context.conn)
    bridges.set_min_share(settings.bridge_min_recall)
    counts["bridges_dropped"] = bridges.drop_unused()
    spaces = SpaceRepository(context.conn)
    # The base model's space stays, and so do those that a run may be filling now.
    base = {item.space_id for item in spaces.list() if item.model_uri == settings.model_uri}
    kept = base | spaces.in_use(settings.drain_hours, living)
    counts["spaces_dropped"] = len(spaces.drop_unused(kept))
    for kind, uris in unused_files(context.conn, settings.drain_hours).items():
        there = [uri for uri in uris if context.artifacts.exists(uri)]
        for uri in there:
            context.artifacts.delete(uri)
        counts[f"{kind}_deleted"] = len(there)
    notes, faults = [", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())], list[str]()
    undone = ""
    vacuum(context.conn, "chunk")
    for generation in context.track(generations.list("active", "previous")):
        try:
            of_it, note, wrong = _measure(context, generation)
        except psycopg.errors.UndefinedTable:
            if generations.get(generation.generation_id).state in ("active", "previous"):
                raise
            notes.append(f"generation {generation.generation_id} was dropped meanwhile by a run that published another")
            continue
        counts |= {f"{name}_{generation.state}": value for name, value in of_it.items()}
        notes.append(note)
        faults += wrong
    if faults:
        raise StepError("; ".join(faults))
    if "recall_active" not in counts:
        why = "it has no stored questions or rows" if generations.active() else "no generation is live"
        undone = f"The recall of what is served was not measured: {why}"
        notes.append(undone)
    return Outcome(counts=counts, note="; ".join(notes), undone=undone)


def _measure(context: Context, generation: Generation) -> tuple[dict[str, int | float], str, list[str]]:
    """Vacuum and measure a generation: figures, a sentence with them, and what is wrong with it."""
    settings, number = context.settings, generation.generation_id
    dead = vacuum(context.conn, f"vec_g{number:06d}")
    if generation.lexicon:  # a document that was stemmed in another language has left stems of the old one
        LexiconRepository(context.conn).delete_unused(generation)
    health = ServedRepository(context.conn).health(generation)
    now = reach_recall(context.conn, generation, RECALL_QUESTIONS, settings.recall_target)
    measured, faults = now.recall, list[str]()
    found: dict[str, int | float] = {**health, "dead_rows": dead}
    said = "not measured, for want of questions"
    if measured is not None:
        found["recall"], said = round(measured, 4), f"{measured:.3f} at {now.effort}"
        if generation.index_kind == "none":
            said = f"{measured:.3f}, without an index"
    if health["orphans"]:
        faults.append(
            f"generation {number} has {health['orphans']} rows of deleted chunks; "
            "run the realign route, and report a bug"
        )
    if measured is not None and measured < settings.recall_target:
        faults.append(
            f"recall@10 of generation {number} is {measured:.3f} at {now.effort}, below "
            f"HEAL_RECALL_TARGET={settings.recall_target}: REINDEX INDEX CONCURRENTLY heal.vec_g{number:06d}_hnsw, "
            "or realign" + (" with HEAL_INDEX=halfvec" if now.index_kind == "bit" else "")
        )
    note = (
        f"generation {number} ({generation.state}): {health['served']} rows, {dead} dead ones vacuumed, "
        f"recall@10 {said}"
    )
    return found, note, faults


MAINTAIN = Step("maintain", maintain, None)
