"""Step maintain: unused generations, spaces and files dropped, served tables vacuumed and measured. Safe beside a run."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from heal_tasks.core.errors import StepError
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.indexing import RECALL_QUESTIONS
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.indexing import reach_recall, vacuum
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.runs.garbage import GarbageRepository
from heal_tasks.store.spaces.spaces import SpaceRepository


def maintain(context: Context) -> Outcome:
    """Drop drained generations, unused spaces and unused files, vacuum and measure what is served.

    Returns:
        Counts of what went, and per served generation rows, dead rows and recall.

    Raises:
        StepError: rows without a chunk are served, or an index misses the recall target whatever ef_search.
    """
    settings, generations = context.settings, GenerationRepository(context.conn)
    garbage, served = GarbageRepository(context.conn), ServedRepository(context.conn)
    counts: dict[str, int | float] = {"generations_dropped": len(generations.retire_old(settings.drain_hours))}
    counts["spaces_dropped"] = len(_drop_spaces(context))
    for name, uris in (
        ("models_deleted", garbage.unused_models(settings.drain_hours)),
        ("training_sets_deleted", garbage.unused_training_sets(settings.drain_hours)),
    ):
        found = [uri for uri in uris if context.artifacts.exists(uri)]
        for uri in found:
            context.artifacts.delete(uri)
        counts[name] = len(found)
    notes = [", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())]
    faults = []
    vacuum(context.conn, "chunk")
    for generation in context.track(generations.list("active", "previous")):
        dead = vacuum(context.conn, f"vec_g{generation.generation_id:06d}")
        health = served.health(generation)
        measured, ef_search = reach_recall(context.conn, generation, RECALL_QUESTIONS, settings.recall_target)
        counts |= {
            f"{name}_{generation.state}": value
            for name, value in {**health, "dead_rows": dead, "recall": round(measured, 4)}.items()
        }
        notes.append(
            f"generation {generation.generation_id} ({generation.state}): {health['served']} rows, {dead} dead ones "
            f"vacuumed, recall@10 {measured:.3f} at ef_search {ef_search}"
        )
        if health["orphans"]:
            faults.append(f"generation {generation.generation_id} has {health['orphans']} rows of deleted chunks")
        if measured < settings.recall_target:
            faults.append(
                f"recall@10 of generation {generation.generation_id} is {measured:.3f} at ef_search {ef_search}, below "
                f"HEAL_RECALL_TARGET={settings.recall_target}: REINDEX INDEX CONCURRENTLY heal.vec_g"
                f"{generation.generation_id:06d}_hnsw, or realign"
            )
    if faults:
        raise StepError("; ".join(faults))
    return Outcome(counts=counts, note="; ".join(notes))


def _drop_spaces(context: Context) -> Sequence[int]:
    """Drop the spaces that nothing uses, except the base model's and those that a run may be filling now."""
    spaces = SpaceRepository(context.conn)
    drained = datetime.now(UTC) - timedelta(hours=context.settings.drain_hours)
    return spaces.drop_unused(
        {item.space_id for item in spaces.list() if item.model_uri == context.settings.model or item.used_at > drained}
    )


MAINTAIN = Step("maintain", maintain, None)
