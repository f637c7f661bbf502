"""Documents and their chunks: what arrived, what changed, what is gone, and which texts stand for duplicates.

A document is known by (source, external id), its content by a hash of title and body. Of documents with
equal content only the oldest has chunks. A chunk's text that vanishes is *superseded*: still served, until
the publishing step has put its successor's vector in place and purges it. A deletion is carried out at
once and everywhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields

from psycopg import sql
from psycopg.types.json import Jsonb

from heal_tasks.core.ids import document_id, sha256_hex
from heal_tasks.core.types import Record
from heal_tasks.store.db import storable, storable_json
from heal_tasks.store.documents.chunks import Chunker, replace_chunks
from heal_tasks.store.documents.erasing import lock_exclusive, purge_superseded
from heal_tasks.store.documents.language import text_language
from heal_tasks.store.documents.reading import DocumentReader


@dataclass(frozen=True)
class Changes:
    """What an ingest did; ``+`` adds two up.

    Args:
        new: documents not known before, or deleted and back.
        changed: documents with another title or body than before.
        deleted: documents that are gone.
        unchanged: documents with the same content; their metadata may be new.
        duplicates: new or changed documents whose content another document has already.
        chunks_added: texts that need a vector.
        chunks_superseded: texts that are served until their successors are published.
        new_ids: ids of the new documents.
        changed_ids: ids of the changed documents.
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
        """Sums of all counts, and the ids of both."""
        return Changes(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(Changes)})


class DocumentRepository(DocumentReader):
    """Reads and writes documents, source files and chunks.

    Args:
        conn: an autocommit connection, or one whose transaction the caller ends.
    """

    def record_file(self, source: str, path: str, fingerprint: str, clean: bool) -> None:
        """Remember a file as read, so that it is read again only when its fingerprint changes.

        Args:
            source: the source.
            path: the file.
            fingerprint: as listed before it was read.
            clean: whether every record of it was good.
        """
        self._conn.execute(
            "INSERT INTO heal.source_file (source, path, fingerprint, clean) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (source, path) DO UPDATE "
            "SET fingerprint = EXCLUDED.fingerprint, clean = EXCLUDED.clean, seen_at = now()",
            (source, path, fingerprint, clean),
        )

    def forget_files(self, source: str, paths: Collection[str]) -> None:
        """Forget files that are gone; their documents are not touched."""
        self._conn.execute("DELETE FROM heal.source_file WHERE source = %s AND path = ANY(%s)", (source, list(paths)))

    def apply_records(
        self, source: str, records: Sequence[Record], chunker: Chunker, language: str = "english"
    ) -> Changes:
        """Store documents and bring their chunks in line; deletes nothing.

        Args:
            source: the source.
            records: documents as read; of two with the same external id the last counts.
            chunker: splits (title, body) into the texts that get a vector each.
            language: of documents whose metadata do not name theirs (``language`` or ``lang``).

        Returns:
            What changed.
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
        """Delete documents at once and everywhere: text, chunks, questions, labels, vectors of every generation.

        The row stays, without title, body and metadata, so that the deletion is on record. A duplicate of a deleted
        document takes its place and gets chunks of its own.

        Args:
            document_ids: what to delete; unknown and already deleted ids are passed over.

        Returns:
            What changed.
        """
        row = self._conn.execute(
            "SELECT * FROM heal.delete_document(VARIADIC %s::bigint[])", (list(document_ids),)
        ).fetchone()
        deleted, added = row or (0, 0)
        return Changes(deleted=deleted, chunks_added=added)

    def purge_superseded(self) -> int:
        """Delete superseded chunks whose documents are served without them; returns how many."""
        return purge_superseded(self._conn)

    def _live_hashes(self, document_ids: Collection[int]) -> dict[int, str]:
        return dict(
            self._conn.execute(
                "SELECT document_id, content_hash FROM heal.document "
                "WHERE document_id = ANY(%s) AND deleted_at IS NULL",
                (list(document_ids),),
            ).fetchall()
        )

    def _write(self, source: str, records: Mapping[int, tuple[Record, str]], language: str) -> None:
        rows = [
            (
                key,
                source,
                record.external_id,
                record.path,
                storable(record.title),
                storable(record.body),
                Jsonb(storable_json(record.metadata)),
                content_hash,
                text_language(record.metadata, language),
            )
            for key, (record, content_hash) in records.items()
        ]
        with self._conn.cursor() as cursor:
            cursor.executemany(_UPSERT, rows)

    def _settle_duplicates(self, hashes: Collection[str]) -> tuple[set[int], set[int]]:
        """Let the oldest live document of each content stand for the others.

        Returns:
            Documents that stand for themselves from now on, and documents that do so no longer.
        """
        moved = self._conn.execute(_SETTLE, (list(hashes),)).fetchall()
        return {key for key, canonical in moved if canonical is None}, {key for key, canonical in moved if canonical}


# A document that comes back is a new one: its age decides who stands for duplicates.
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
