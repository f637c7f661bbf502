"""Reading of one source: the files that have to be read, their records, and the state that each file is left in.

A file is settled only by a result: one that was refused or read partly is read again as soon as what decided about it
has changed, one that could not be read in every run.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import psycopg

from heal_tasks.core.acl import acl_of, principals
from heal_tasks.core.batches import batched
from heal_tasks.core.errors import InputError, SourceError
from heal_tasks.core.ids import MAX_KEY_BYTES, stable_id
from heal_tasks.core.types import Record, Rejected, SourceFile, Unread
from heal_tasks.sources.base import OpenSource
from heal_tasks.sources.parse import PARSER_VERSION, PARSERS, kind_of, read_records
from heal_tasks.sources.records import reject
from heal_tasks.steps.engine.runner import Context
from heal_tasks.store.db import is_fault_of_values
from heal_tasks.store.documents.chunks import Chunker
from heal_tasks.store.documents.documents import Changes, DocumentRepository, text_language
from heal_tasks.store.documents.source_files import FileState, SourceFiles, State
from heal_tasks.store.runs.runs import RunRepository

BATCH = 500
MAX_DOCUMENT_CHARS = 2_000_000
"""A longer text, of about a thousand pages, is a dump rather than a document; its records should be split."""
REJECTED_ALLOWED = 10
"""So few broken records never stop a run, whatever their share."""
KINDS_NAMED = 5
REJECTIONS_NAMED = 3


class TooManyRejectedError(SourceError):
    """Too much of a source is broken."""

    def __init__(self, message: str, source: str, rejected: Sequence[Rejected]) -> None:
        super().__init__(message)
        self.source, self.rejected = source, rejected


class SourceReader:
    """Reads one source in the caller's transaction: ``find``, ``read``, and ``settle`` when all have been read."""

    def __init__(self, context: Context, source: OpenSource, chunker: Chunker, *, again: bool) -> None:
        self.name = source.name
        self.rejected: list[Rejected] = []
        self.skipped: Counter[str] = Counter()  # number of files that are not read, by kind
        self.gone: set[int] = set()  # documents whose names are in the source no more
        self._context, self._settings, self._again = context, context.settings, again
        self._source, self._chunker = source, chunker
        self._language = text_language({"language": source.rule.language}, context.settings.text_language)
        self._acl = None if source.rule.acl is None else principals(source.rule.acl)
        self._documents, self._files = DocumentRepository(context.conn), SourceFiles(context.conn)
        self._decided_by = (
            f"HEAL_MAX_FILE_MB={self._settings.max_file_mb:g} MAX_DOCUMENT_CHARS={MAX_DOCUMENT_CHARS} "
            f"PARSER_VERSION={PARSER_VERSION}"
        )
        self._known: dict[str, FileState] = {}  # files as an earlier run left them, by path
        self._states: dict[str, FileState] = {}  # every file that is listed now, by path
        self._to_read: list[SourceFile] = []
        self._path_of: dict[str, str] = {}  # file of each document that is in the source, by external id
        self._stored: Counter[str] = Counter()  # number of records that each file gave, by path
        self._faults: defaultdict[str, list[Rejected]] = defaultdict(list)  # by path
        self._disputed: set[str] = set()  # files with an id that another file has, too

    def find(self) -> None:
        """List the files, and choose those to read.

        Raises:
            SourceError: the source cannot be listed.
        """
        self._known = self._files.known(self.name)
        self._to_read = self._list()

    def read(self) -> Changes:
        """Store what is new or changed, and find the documents that are gone.

        Raises:
            SourceError: too many of its records were rejected.
        """
        to_read = self._to_read
        unread = self._states.keys() - {file.path for file in to_read}
        found = self._files.documents_of(self.name, unread)
        self._path_of = {name: path for name, (_, path) in found.items() if self._states[path].state != "skipped"}
        records: Iterable[Record] = (record for file in self._context.track(to_read) for record in self._records(file))
        sampled = self._settings.sample_documents
        if sampled:
            records = heapq.nsmallest(sampled, records, key=lambda item: stable_id(item.external_id))
        changes = Changes()
        for batch in batched(records, BATCH):
            changes += self._store(batch)
        changes += self._documents.apply_acl(self.name, self._acl, self._chunker)
        self._documents.apply_language(self.name, self._language)
        for file in to_read:
            self._states[file.path] = self._state(file)
        self._weigh()
        if not sampled:
            # A file with a rejected record may hold a document that cannot be recognised, so absence from it deletes
            # nothing.
            complete = {file.path for file in to_read if self._states[file.path].state == "read"}
            absent = {path for path in self._known if path not in self._states or self._states[path].state == "skipped"}
            places = self._files.documents_of(self.name, complete | absent)
            self.gone = {key for name, (key, _) in places.items() if name not in self._path_of}
        return changes

    def check_deleted(self, gone: Collection[int]) -> None:
        """Raise SourceError if so many documents of this source are gone that it may be incomplete."""
        gone, live, most = (
            self.gone & set(gone),
            self._documents.live_count(self.name),
            self._settings.max_deleted_share,
        )
        if live and len(gone) / live > most:
            raise SourceError(
                f"{self.name}: {len(gone)} of {live} documents are gone, more than HEAL_MAX_DELETED_SHARE="
                f"{most}; check that the source is mounted and complete, or raise the setting for one run if they were "
                "deleted on purpose"
            )

    def settle(self) -> None:
        """Record what became of every file, and the rejected records."""
        runs, run_id = RunRepository(self._context.conn), self._context.run_id
        if self._settings.sample_documents:
            runs.quarantine(run_id, self.name, self.rejected)
            return
        vanished = self._known.keys() - self._states.keys()
        seen = [item for path, item in self._states.items() if self._known.get(path) is not item]
        self._files.record(self.name, seen)
        self._files.forget(self.name, vanished)
        runs.quarantine(run_id, self.name, self.rejected, [*vanished, *(item.path for item in seen)])

    def warning(self) -> str:
        """Say that the source has no document, and why, once it is settled; empty if it has any."""
        if self._path_of or self._documents.live_count(self.name):
            return ""
        if not self._states:
            return f"{self.name} lists no file; check its spelling, and that documents have been put there"
        if self.skipped.total() == len(self._states):
            kinds, skipped = ", ".join(PARSERS), named(self.skipped)
            return f"{self.name} has no document: no file is of a kind that is read ({kinds}); skipped: {skipped}"
        first = next(item for item in self._states.values() if item.state != "skipped")
        return f"{self.name} has no document: every file was refused; first: {first.path}: {first.reason}"

    def _list(self) -> list[SourceFile]:
        """The files to read; the others get their state at once."""
        to_read: dict[str, SourceFile] = {}
        for file in self._source.list_files({path: state.fingerprint for path, state in self._known.items()}):
            kind = file.left_out or kind_of(file)
            if file.left_out or kind not in PARSERS:
                self.skipped[kind or "no suffix"] += 1
                cure = "put the file itself there" if file.left_out else f"supported are {', '.join(PARSERS)}"
                what = f"files of kind {kind!r}" if kind else "files without a suffix"
                reason = f"{kind}; {cure}" if file.left_out else f"{what} are not read; {cure}"
                self._set(FileState(file.path, file.fingerprint, "skipped", reason))
            elif file.path in self._states:
                self._refuse_twin(file)
            else:
                known = self._known.get(file.path)
                if known and known.is_settled(file.fingerprint, self._decided_by) and not self._again:
                    self._states[file.path] = known
                else:
                    self._states[file.path] = FileState(file.path, file.fingerprint, "failed")  # until it has been read
                    to_read[file.path] = file
        return list(to_read.values())

    def _set(self, state: FileState) -> None:
        known = self._known.get(state.path)
        self._states[state.path] = known if known == state else state

    def _refuse_twin(self, file: SourceFile) -> None:
        """Refuse a file whose name is only another Unicode spelling of one that has been listed."""
        path = file.real_path.encode("utf-8", "replace")[:MAX_KEY_BYTES].decode("utf-8", "ignore")
        reason = f"its name is another Unicode spelling of {file.path!r}, which is there as well; rename one of them"
        self._faults[path].append(reject(path, 0, reason))
        self._set(FileState(path, file.fingerprint, "refused", reason, self._decided_by))

    def _records(self, file: SourceFile) -> Iterator[Record]:
        """The accepted records of one file; the others are its faults."""
        max_bytes = int(self._settings.max_file_mb * 2**20)
        rule = self._source.rule
        for item in read_records(self._source, file, max_bytes=max_bytes, max_chars=MAX_DOCUMENT_CHARS, rule=rule):
            if isinstance(item, Record) and (fault := _acl_fault(item)):
                item = fault
            if isinstance(item, Record):
                first = self._path_of.setdefault(item.external_id, item.path)
                if first == item.path:
                    self._stored[file.path] += 1
                    yield item
                    continue
                self._disputed.add(file.path)
                item = Rejected(item.path, item.line, f"id {item.external_id!r} is already in {first}; make ids unique")
            self._faults[file.path].append(item)

    def _store(self, batch: Sequence[Record]) -> Changes:
        """Store records; where the database refuses one for its values, store the others and reject it."""
        try:
            return self._documents.apply_records(
                self.name, batch, self._chunker, self._language, self._acl, again=self._again
            )
        except psycopg.Error as error:
            if not is_fault_of_values(error):
                raise
            if len(batch) > 1:
                return sum((self._store([record]) for record in batch), Changes())
            (record,) = batch
            refusal = f"the database refused it ({str(error).partition(chr(10))[0]})"
            cure = "shorten its title or text, or correct the value"
            self._faults[record.path].append(reject(record.path, record.line, f"{refusal}; {cure}", record.body))
            self._stored[record.path] -= 1
            del self._path_of[record.external_id]
            return Changes()

    def _state(self, file: SourceFile) -> FileState:
        faults = self._faults.get(file.path)
        if not faults:
            return FileState(file.path, file.fingerprint, "read")
        first = faults[0]
        more = f"{len(faults)} records refused; first: line {first.line}: " if len(faults) > 1 else ""
        reason = more + first.reason
        if isinstance(first, Unread):
            return FileState(file.path, file.fingerprint, "failed", reason)
        decided_by = "" if file.path in self._disputed else self._decided_by
        state: State = "partly" if self._stored[file.path] else "refused"
        return FileState(file.path, file.fingerprint, state, reason, decided_by)

    def _weigh(self) -> None:
        """Collect the rejected records with their weights, and raise SourceError if they are too many.

        A file that is rejected as a whole weighs at least as much as the documents that it gave before.
        """
        whole = [path for path, faults in self._faults.items() if len(faults) == 1 and not self._stored[path]]
        before = self._files.sizes(self.name, whole)
        self.rejected = [
            replace(item, records=max(item.records, before.get(item.path, 0)))
            for faults in self._faults.values()
            for item in faults
        ]
        lost = sum(item.records for item in self.rejected)
        seen, most = lost + len(self._path_of), self._settings.max_rejected_share
        if lost > max(REJECTED_ALLOWED, most * seen):
            heaviest = sorted(self.rejected, key=lambda item: -item.records)[:REJECTIONS_NAMED]
            shown = "; ".join(f"{item.path} line {item.line}: {item.reason}" for item in heaviest)
            raise TooManyRejectedError(
                f"{self.name}: {lost} of {seen} records were rejected, more than HEAL_MAX_REJECTED_SHARE={most}; "
                f"nothing was stored. Mend the files, or raise the setting for one run; heal.quarantine lists "
                f"{len(self.rejected)} reasons, first: {shown}",
                self.name,
                self.rejected,
            )


def _acl_fault(record: Record) -> Rejected | None:
    try:
        acl_of(record.metadata)
    except InputError as error:
        return reject(record.path, record.line, str(error), record.body)
    return None


def named(kinds: Counter[str]) -> str:
    """Counts by kind as text, the most frequent first."""
    parts = [f"{kind} {number}" for kind, number in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(parts) - KINDS_NAMED} other kinds" if len(parts) > KINDS_NAMED else ""
    return ", ".join(parts[:KINDS_NAMED]) + more
