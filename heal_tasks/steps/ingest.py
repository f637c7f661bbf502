"""Step ingest: pull new, changed and deleted documents from every source into the store.

One transaction per run: a killed ingest leaves nothing behind, and a dry run does the same work and rolls it back.
"""

from dataclasses import asdict

from heal_tasks.core.ids import stable_id
from heal_tasks.core.manifest import READ_AGAIN
from heal_tasks.core.types import Split
from heal_tasks.questions.splits import judgment_split, purpose_of
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.reading.source_reader import TooManyRejectedError, named
from heal_tasks.steps.reading.sources import read_sources
from heal_tasks.steps.route import decide
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.questions.feedback import FeedbackRepository
from heal_tasks.store.runs.clock import mend_times
from heal_tasks.store.runs.runs import RunRepository


def ingest(context: Context) -> Outcome:
    """Read every source and store what changed; refs ``new``, ``changed`` and ``deleted`` count documents.

    A dry run also chooses the route before it rolls back, so that the sources are read once: ref ``dry_run``.
    """
    runs, dry_run = RunRepository(context.conn), context.settings.dry_run
    if ahead := mend_times(context.conn):
        context.log.warning("%s", ahead)
    runs.open_run(context.run_id)
    try:
        with context.conn.transaction(force_rollback=dry_run):
            reading = read_sources(context, again=bool(context.manifest.refs.get(READ_AGAIN)))
            total, skipped = reading.changes, reading.skipped.total()
            agreed, left = FeedbackRepository(context.conn).settle(context.settings.feedback_people, _split_of)
            documents = DocumentRepository(context.conn).live_count()
            foreseen = decide(context, total) if dry_run else None
    except TooManyRejectedError as error:
        if not dry_run:  # nothing else of this reading is kept
            runs.quarantine(context.run_id, error.source, error.rejected)
        raise
    refs: dict[str, int | str] = {"new": total.new, "changed": total.changed, "deleted": total.deleted}
    undone = " (dry run, undone)" if dry_run else ""
    note = f"{documents} documents: {total}, {reading.rejected} rejected{undone}"
    if skipped:
        note += f"; {skipped} files skipped: {named(reading.skipped)}"
    if agreed or left:
        note += f"; {agreed} judgments made of feedback, {left} taken back"
    if reading.warnings:
        note += f"; {'; '.join(reading.warnings)}"
    for warning in reading.warnings:
        context.log.warning("%s", warning)
    if foreseen:
        route, facts = foreseen
        refs["dry_run"] = reason = f"dry run; otherwise {route.name}: {route.reason}"
        runs.set_route(context.run_id, "nothing", reason, asdict(facts))
    counts = {"documents": documents, **asdict(total), "rejected": reading.rejected, "skipped": skipped}
    return Outcome(refs=refs, counts=counts, note=note)


def _split_of(document_id: int, question: str, asked: Split | None) -> Split:
    return judgment_split(document_id, stable_id(question), purpose_of(asked) if asked else None)


INGEST = Step("ingest", ingest, None)
