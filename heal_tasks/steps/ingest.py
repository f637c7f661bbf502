"""Step ingest: pull new, changed and deleted documents from every source into the store.

One transaction per run: a killed ingest leaves nothing behind, and a dry run does the same work and rolls it back.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial

from heal_tasks.core.batches import batched
from heal_tasks.core.errors import SourceError
from heal_tasks.core.ids import document_id, stable_id
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record, Rejected, SourceFile
from heal_tasks.sources.base import Source, open_source
from heal_tasks.sources.chunking import chunk_text, token_counter
from heal_tasks.sources.parse import read_records
from heal_tasks.sources.parser_process import parser_process
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.route import decide
from heal_tasks.store.documents.chunks import Chunker
from heal_tasks.store.documents.documents import Changes, DocumentRepository
from heal_tasks.store.runs.runs import RunRepository

BATCH = 500
MAX_DOCUMENT_CHARS = 2_000_000
"""A longer text, of about a thousand pages, is a dump rather than a document; its records should be split."""
REJECTED_ALLOWED = 10
"""So few broken records never stop a run, whatever their share."""


@dataclass
class _Reading:
    """State of reading one source."""

    source: Source
    path_of: dict[int, str]  # file of each document that is in the source, by document id
    rejected: list[Rejected] = field(default_factory=list)
    clean: dict[str, bool] = field(default_factory=dict)  # by path of each file read: no record of it was rejected


@parser_process()
def read_sources(context: Context) -> tuple[Changes, int]:
    """Read every source; store and count changes and rejected records. The caller holds the transaction."""
    settings = context.settings
    count_tokens = token_counter(resolve_model(settings.model))
    chunker = partial(chunk_text, count_tokens=count_tokens, max_tokens=settings.chunk_tokens)
    total, rejected = Changes(), 0
    for spec in settings.sources:
        source = open_source(spec, s3_endpoint_url=settings.s3_endpoint_url)
        changes, refused = _read_source(context, source, chunker)
        RunRepository(context.conn).quarantine(context.run_id, spec, refused)
        total, rejected = total + changes, rejected + len(refused)
    return total, rejected


def ingest(context: Context) -> Outcome:
    """Read every source and store what changed; refs ``new``, ``changed`` and ``deleted`` count documents.

    A dry run also chooses the route before it rolls back, so that the sources are read once: ref ``dry_run``.
    """
    runs, dry_run = RunRepository(context.conn), context.settings.dry_run
    runs.open_run(context.run_id)
    with context.conn.transaction(force_rollback=dry_run):
        total, rejected = read_sources(context)
        documents = DocumentRepository(context.conn).live_count()
        foreseen = decide(context, total) if dry_run else None
    refs: dict[str, int | str] = {"new": total.new, "changed": total.changed, "deleted": total.deleted}
    note = (
        f"{documents} documents: {total.new} new, {total.changed} changed, {total.deleted} deleted, {rejected} rejected"
    )
    if foreseen:
        route, facts = foreseen
        refs["dry_run"] = reason = f"dry run; otherwise {route.name}: {route.reason}"
        runs.set_route(context.run_id, "nothing", reason, asdict(facts))
        note += " (dry run, undone)"
    return Outcome(refs=refs, counts={"documents": documents, **asdict(total), "rejected": rejected}, note=note)


def _read_source(context: Context, source: Source, chunker: Chunker) -> tuple[Changes, list[Rejected]]:
    settings, documents = context.settings, DocumentRepository(context.conn)
    files = {file.path: file for file in source.list_files()}
    known = documents.known_files(source.name)
    to_read = [file for path, file in files.items() if known.get(path, ("",))[0] != file.fingerprint]
    unread = files.keys() - {file.path for file in to_read}
    reading = _Reading(source, documents.documents_of_paths(source.name, unread))
    records: Iterable[Record]
    records = (record for file in context.track(to_read) for record in _records(reading, file, settings))
    if settings.sample_documents:
        records = heapq.nsmallest(settings.sample_documents, records, key=lambda item: stable_id(item.external_id))
    changes = Changes()
    for batch in batched(records, BATCH):
        changes += documents.apply_records(source.name, batch, chunker, settings.text_language)
    refused, seen = len(reading.rejected), len(reading.rejected) + len(reading.path_of)
    if refused > max(REJECTED_ALLOWED, settings.max_rejected_share * seen):
        first = reading.rejected[0]
        raise SourceError(
            f"{source.name}: {refused} of {seen} records were rejected, more than HEAL_MAX_REJECTED_SHARE="
            f"{settings.max_rejected_share}; first: {first.path} line {first.line}: {first.reason}; mend the files, or "
            "raise the setting for one run"
        )
    if settings.sample_documents:
        return changes, reading.rejected

    # A file with a rejected record may hold a document that cannot be recognised, so absence from it deletes nothing.
    vanished = known.keys() - files.keys()
    readable = vanished | {path for path, clean in reading.clean.items() if clean}
    gone = documents.documents_of_paths(source.name, readable).keys() - reading.path_of.keys()
    live = documents.live_count(source.name)
    if live and len(gone) / live > settings.max_deleted_share:
        raise SourceError(
            f"{source.name}: {len(gone)} of {live} documents are gone, more than HEAL_MAX_DELETED_SHARE="
            f"{settings.max_deleted_share}; check that the source is mounted and complete, or raise the setting for "
            "one run if they were deleted on purpose"
        )
    changes += documents.delete(gone)
    documents.forget_files(source.name, vanished)
    for file in to_read:
        documents.record_file(source.name, file.path, file.fingerprint, reading.clean[file.path])
    return changes, reading.rejected


def _records(reading: _Reading, file: SourceFile, settings: Settings) -> Iterator[Record]:
    """The accepted records of one file; the others are added to ``reading``."""
    max_bytes = int(settings.max_file_mb * 2**20)
    reading.clean[file.path] = True
    for item in read_records(reading.source, file, max_bytes=max_bytes, max_chars=MAX_DOCUMENT_CHARS):
        if isinstance(item, Record):
            key = document_id(reading.source.name, item.external_id)
            first = reading.path_of.get(key)
            if first is None:
                reading.path_of[key] = item.path
                yield item
                continue
            item = Rejected(item.path, item.line, f"id {item.external_id!r} is already in {first}; make ids unique")
        reading.rejected.append(item)
        reading.clean[file.path] = False


INGEST = Step("ingest", ingest, None)
