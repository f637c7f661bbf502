"""Documents and their chunks: new, changed and deleted documents, duplicates, source files.

A document is identified by (source, external id), its content by a hash of title and body. Of documents with equal
content only the oldest (the canonical one) has chunks. A chunk whose text is gone is *superseded*: it is served until
the vector of its successor is published, then deleted. A deletion takes effect at once and everywhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

from psycopg import sql
from psycopg.types.json import Jsonb

from heal_tasks.core.ids import document_id, sha256_hex
from heal_tasks.core.text import storable
from heal_tasks.core.types import Record
from heal_tasks.store.db import storable_json
from heal_tasks.store.documents.chunks import Chunker, replace_chunks
from heal_tasks.store.documents.erasing import lock_exclusive, purge_superseded
from heal_tasks.store.documents.language import text_language
from heal_tasks.store.documents.reading import DocumentReader


@dataclass(frozen=True)
class Changes:
    """Counts of an ingest, and ids of new and changed documents; ``+`` adds two of them.

    Args:
        new: documents that were unknown or deleted before.
        changed: documents with another title or body than before.
        deleted: deleted documents.
        unchanged: documents with the same content; their metadata may be new.
        duplicates: new or changed documents whose content an older document has.
        chunks_added: chunks that need a vector.
        chunks_superseded: chunks that are served until their successors are published.
    """

    new: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    duplicates: int = 0
    chunks_added: int = 0
    chunks_superseded: int = 0
    new_ids: tuple[int, ...] = ()
    changed_ids: tuple[int, ...] = ()

    def __add__(self, other: "Changes") -> "Changes":
        """Add the counts, and join the ids."""
        return Changes(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(Changes)})


class DocumentRepository(DocumentReader):
    """Documents, source files and chunks, over an autocommit connection or one whose transaction the caller ends."""

    def record_file(self, source: str, path: str, fingerprint: str, clean: bool) -> None:
        """Record a file as read with the fingerprint that it was listed with, and if every record of it was good."""
        self._conn.execute(
            "INSERT INTO heal.source_file (source, path, fingerprint, clean) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (source, path) DO UPDATE "
            "SET fingerprint = EXCLUDED.fingerprint, clean = EXCLUDED.clean, seen_at = now()",
            (source, path, fingerprint, clean),
        )

    def forget_files(self, source: str, paths: Collection[str]) -> None:
        """Delete the records of files, but not their documents."""
        self._conn.execute("DELETE FROM heal.source_file WHERE source = %s AND path = ANY(%s)", (source, list(paths)))

    def apply_records(
        self, source: str, records: Sequence[Record], chunker: Chunker, language: str = "english"
    ) -> Changes:
        """Store documents and update their chunks; deletes nothing.

        Args:
            source: the source.
            records: documents as read; of two with the same external id the last counts.
            chunker: splits (title, body) into texts that get one vector each.
            language: for documents whose metadata name none (``language`` or ``lang``).
        """
        by_id = {document_id(source, record.external_id): record for record in records}
        hashes = {key: sha256_hex(storable(record.title), storable(record.body)) for key, record in by_id.items()}
        with self._conn.transaction():
            lock_exclusive(self._conn)
            known = self._live_hashes(by_id)
            new = tuple(key for key in by_id if key not in known)
            changed = tuple(key for key, old in known.items() if old != hashes[key])
            self._write(source, {key: (record, hashes[key]) for key, record in by_id.items()}, language)
            touched = {*new, *changed}
            affected = {hashes[key] for key in touched} | {known[key] for key in changed}
            promoted, duplicates = self._settle_duplicates(affected)
            added, superseded = replace_chunks(self._conn, touched | promoted | duplicates, chunker)
        return Changes(
            new=len(new),
            changed=len(changed),
            unchanged=len(by_id) - len(touched),
            duplicates=len(duplicates & touched),
            chunks_added=added,
            chunks_superseded=superseded,
            new_ids=new,
            changed_ids=changed,
        )

    def delete(self, document_ids: Collection[int]) -> Changes:
        """Delete documents at once and everywhere: text, chunks, questions, labels, vectors.

        The row stays, without title, body and metadata, as a record of the deletion. A duplicate of a deleted document
        becomes canonical and gets chunks of its own. Unknown and deleted ids are skipped.
        """
        row = self._conn.execute(
            "SELECT * FROM heal.delete_document(VARIADIC %s::bigint[])", (list(document_ids),)
        ).fetchone()
        deleted, added = row or (0, 0)
        return Changes(deleted=deleted, chunks_added=added)

    def purge_superseded(self) -> int:
        """Delete superseded chunks whose documents are served without them, and return their number."""
        return purge_superseded(self._conn)

    def _live_hashes(self, document_ids: Collection[int]) -> dict[int, str]:
        rows = self._conn.execute(
            "SELECT document_id, content_hash FROM heal.document WHERE document_id = ANY(%s) AND deleted_at IS NULL",
            (list(document_ids),),
        )
        return dict(rows.fetchall())

    def _write(self, source: str, records: Mapping[int, tuple[Record, str]], language: str) -> None:
        rows = [
            (
                key, source, record.external_id, record.path, storable(record.title), storable(record.body),
                Jsonb(storable_json(record.metadata)), content_hash, text_language(record.metadata, language),
            )
            for key, (record, content_hash) in records.items()
        ]  # fmt: skip
        with self._conn.cursor() as cursor:
            cursor.executemany(_UPSERT, rows)

    def _settle_duplicates(self, hashes: Collection[str]) -> tuple[set[int], set[int]]:
        """Make the oldest live document of each content canonical; return the new canonical ones and new duplicates."""
        moved = self._conn.execute(_SETTLE, (list(hashes),)).fetchall()
        return {key for key, canonical in moved if canonical is None}, {key for key, canonical in moved if canonical}


# A document that comes back is a new one: age decides which document is canonical.
_UPSERT = sql.SQL("""
INSERT INTO heal.document (document_id, source, external_id, path, title, body, metadata, content_hash, language)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (document_id) DO UPDATE SET
    path = EXCLUDED.path, title = EXCLUDED.title, body = EXCLUDED.body, metadata = EXCLUDED.metadata,
    content_hash = EXCLUDED.content_hash, language = EXCLUDED.language, deleted_at = NULL,
    created_at = CASE WHEN document.deleted_at IS NULL THEN document.created_at ELSE now() END,
    changed_at = CASE WHEN document.deleted_at IS NULL AND document.content_hash = EXCLUDED.content_hash
                      THEN document.changed_at ELSE now() END
WHERE (document.path, document.metadata, document.content_hash, document.language) IS DISTINCT FROM
      (EXCLUDED.path, EXCLUDED.metadata, EXCLUDED.content_hash, EXCLUDED.language) OR document.deleted_at IS NOT NULL
""")

_SETTLE = sql.SQL("""
UPDATE heal.document d SET duplicate_of = nullif(ranked.canonical, d.document_id)
FROM (SELECT document_id, first_value(document_id)
          OVER (PARTITION BY content_hash ORDER BY created_at, document_id) AS canonical
      FROM heal.document WHERE deleted_at IS NULL AND content_hash = ANY(%s)) ranked
WHERE d.document_id = ranked.document_id AND d.duplicate_of IS DISTINCT FROM nullif(ranked.canonical, d.document_id)
RETURNING d.document_id, d.duplicate_of
""")
