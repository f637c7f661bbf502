"""Step maintain: unused generations, spaces and files dropped, served tables vacuumed and measured. Safe beside a run."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from heal_tasks.core.errors import StepError
from heal_tasks.core.ids import fingerprint
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.report import PAGE
from heal_tasks.steps.vectors.indexing import RECALL_QUESTIONS
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.indexing import reach_recall, vacuum
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.runs.garbage import LeftoverRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

IN_USE_BY_A_RUN = timedelta(days=2)
"""A space has no generation while its run trains, embeds and chooses."""
_QUOTING = re.compile(r'<tr data-document="(\d+)">.*?</tr>\n?', re.DOTALL)


def maintain(context: Context) -> Outcome:
    """Drop drained generations and unused files, erase what quotes deleted documents, vacuum, measure what is served.

    Args:
        context: of the step.

    Returns:
        Counts of what went, and per served generation rows, dead rows and recall.

    Raises:
        StepError: rows without a chunk are served, or an index misses the recall target whatever ef_search.
    """
    settings, generations = context.settings, GenerationRepository(context.conn)
    leftovers, served = LeftoverRepository(context.conn), ServedRepository(context.conn)
    counts: dict[str, int | float] = {"generations_dropped": len(generations.retire_old(settings.drain_hours))}
    counts["spaces_dropped"] = len(_drop_spaces(context))
    counts["pages_cleaned"] = clean_pages(context, leftovers)
    for name, uris in (
        ("models_deleted", leftovers.unused_models(settings.drain_hours)),
        ("training_sets_deleted", leftovers.unused_training_sets(settings.drain_hours)),
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
    """Drop the spaces that nothing uses any more, without the base model's and those that a run may be filling now."""
    spaces = SpaceRepository(context.conn)
    young = datetime.now(UTC) - IN_USE_BY_A_RUN
    return spaces.drop_unused(
        {item.space_id for item in spaces.list() if item.model_uri == context.settings.model or item.created_at > young}
    )


def clean_pages(context: Context, leftovers: LeftoverRepository) -> int:
    """Take the lines that quote documents deleted since the last maintenance out of the report pages.

    Args:
        context: of the step.
        leftovers: the pages.

    Returns:
        How many pages were written anew.
    """
    deleted = leftovers.deleted_since(leftovers.last_maintained())
    cleaned = 0
    for page in leftovers.pages_before(deleted):
        if not context.artifacts.exists(page.report_uri):
            continue
        text = (context.artifacts.local(page.report_uri) / PAGE).read_text(encoding="utf-8")
        kept = without_documents(text, set(deleted))
        if kept == text:
            continue
        # Another key, because a page that was fetched from S3 once is not fetched again.
        key = f"reports/{fingerprint([page.run_id, kept])}"
        with context.artifacts.writing(key) as folder:
            (folder / PAGE).write_text(kept, encoding="utf-8")
        leftovers.replace_page(page, context.artifacts.uri(key))
        context.artifacts.delete(page.report_uri)
        cleaned += 1
    return cleaned


def without_documents(page: str, documents: set[int]) -> str:
    """A report page without the lines that quote some documents."""
    return _QUOTING.sub(lambda line: "" if int(line[1]) in documents else line[0], page)


MAINTAIN = Step("maintain", maintain, None)
