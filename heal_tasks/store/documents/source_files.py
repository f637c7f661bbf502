"""The state of every file of every source: what it was read with, and what would have it read again."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from heal_tasks.store.db import Repository, insert, select

State = Literal["read", "partly", "refused", "failed", "skipped"]


@dataclass(frozen=True)
class FileState:
    """A file as last seen: a row of ``heal.source_file``, whose comments describe the columns."""

    path: str
    fingerprint: str
    state: State
    reason: str = ""
    decided_by: str = ""

    def is_settled(self, fingerprint: str, decided_by: str) -> bool:
        """True if a file with this fingerprint, under these limits, need not be read again."""
        if self.fingerprint != fingerprint:
            return False
        return self.state == "read" or (self.state in ("partly", "refused") and self.decided_by == decided_by)


class SourceFiles(Repository):
    """Source files and the documents that came from them."""

    def known(self, source: str) -> dict[str, FileState]:
        """Every recorded file of a source, by path."""
        rows = select(self._conn, FileState, "FROM heal.source_file WHERE source = %s", (source,))
        return {item.path: item for item in rows}

    def record(self, source: str, states: Sequence[FileState]) -> None:
        """Record files as seen now."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            insert(cursor, "source_file", states, _REPLACE, source=source)

    def forget(self, source: str, paths: Collection[str]) -> None:
        """Delete the records of files, but not their documents."""
        self._conn.execute("DELETE FROM heal.source_file WHERE source = %s AND path = ANY(%s)", (source, list(paths)))

    def documents_of(self, source: str, paths: Collection[str]) -> dict[str, tuple[int, str]]:
        """Document id and path of each live document that came from these files, by external id."""
        rows = self._conn.execute(
            "SELECT external_id, document_id, path FROM heal.document "
            "WHERE source = %s AND path = ANY(%s) AND deleted_at IS NULL",
            (source, list(paths)),
        )
        return {external_id: (document, path) for external_id, document, path in rows}

    def sizes(self, source: str, paths: Collection[str]) -> dict[str, int]:
        """Number of live documents that came from each of these files, by path; files without any are left out."""
        rows = self._conn.execute(
            "SELECT path, count(*) FROM heal.document WHERE source = %s AND path = ANY(%s) AND deleted_at IS NULL "
            "GROUP BY path",
            (source, list(paths)),
        )
        return dict(rows.fetchall())


_REPLACE = (
    "ON CONFLICT (source, path) DO UPDATE SET fingerprint = EXCLUDED.fingerprint, state = EXCLUDED.state, "
    "reason = EXCLUDED.reason, decided_by = EXCLUDED.decided_by, seen_at = now()"
)
