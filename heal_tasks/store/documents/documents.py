"""Documents and their chunks: new, changed and deleted documents, duplicates, source files.

A document is identified by (source, external id), its content by a hash of title and body. Of documents with equal
content only the oldest (the canonical one) has chunks. A chunk whose text is gone is *superseded*: it is served until
the vector of its successor is published, then deleted. A deletion takes effect at once and everywhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from psycopg import sql

from heal_tasks.core.ids import document_id, sha256_hex
from heal_tasks.core.text import storable
from heal_tasks.core.types import Record
from heal_tasks.store.db import Repository, scalar, storable_json
from heal_tasks.store.documents.chunks import Chunker, lock_exclusive, replace_chunks

CONFIGURATIONS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
"""PostgreSQL's own configurations by ISO 639-1 code."""


@dataclass(frozen=True)
class Changes:
    """Counts of an ingest; ``+`` adds two of them."""

    new: int = 0  # documents that were unknown or deleted before
    changed: int = 0  # documents with another title or body than before
    deleted: int = 0
    duplicates: int = 0  # new or changed documents whose content an older document has
    chunks_added: int = 0  # chunks that need a vector
    chunks_superseded: int = 0  # chunks that are served until their successors are published

    def __add__(self, other: "Changes") -> "Changes":
        """Add the counts."""
        return Changes(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(Changes)})


class DocumentRepository(Repository):
    """Documents, source files and chunks."""

    def known_files(self, source: str) -> dict[str, tuple[str, bool]]:
        """Fingerprint of each file as last read, and True if every record of it was good, by path."""
        rows = self._conn.execute("SELECT path, fingerprint, clean FROM heal.source_file WHERE source = %s", (source,))
        return {path: (fingerprint, clean) for path, fingerprint, clean in rows}

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

    def documents_of_paths(self, source: str, paths: Collection[str]) -> dict[int, str]:
        """Path of each live document that came from these files, by document id."""
        rows = self._conn.execute(
            "SELECT document_id, path FROM heal.document WHERE source = %s AND path = ANY(%s) AND deleted_at IS NULL",
            (source, list(paths)),
        )
        return dict(rows.fetchall())

    def live_count(self, source: str | None = None) -> int:
        """The number of documents that are not deleted, in one source or in all."""
        query = "SELECT count(*) FROM heal.document WHERE deleted_at IS NULL AND coalesce(source = %s, true)"
        return int(scalar(self._conn, query, (source,)))

    def counts(self) -> dict[str, int]:
        """Documents (live), duplicates, deleted; chunks (to be served), superseded."""
        row = self._conn.execute(
            "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FILTER (WHERE duplicate_of IS NOT NULL), "
            "count(*) FILTER (WHERE deleted_at IS NOT NULL), "
            "(SELECT count(*) FROM heal.chunk WHERE superseded_at IS NULL), "
            "(SELECT count(*) FROM heal.chunk WHERE superseded_at IS NOT NULL) FROM heal.document"
        ).fetchall()[0]
        return dict(zip(("documents", "duplicates", "deleted", "chunks", "superseded"), row, strict=True))

    def apply_records(
        self, source: str, records: Sequence[Record], chunker: Chunker, language: str = "english"
    ) -> Changes:
        """Store documents and update their chunks; deletes nothing.

        Of two records with one external id the last counts. ``language`` is for documents whose metadata name none.
        """
        by_id = {document_id(source, record.external_id): record for record in records}
        hashes = {key: sha256_hex(storable(record.title), storable(record.body)) for key, record in by_id.items()}
        rows = [
            (
                key, source, record.external_id, record.path, storable(record.title), storable(record.body),
                storable_json(record.metadata), hashes[key], text_language(record.metadata, language),
            )
            for key, record in by_id.items()
        ]  # fmt: skip
        with self._conn.transaction():
            lock_exclusive(self._conn)
            known: dict[int, str] = dict(
                self._conn.execute(
                    "SELECT document_id, content_hash FROM heal.document "
                    "WHERE document_id = ANY(%s) AND deleted_at IS NULL",
                    (list(by_id),),
                ).fetchall()
            )
            new = by_id.keys() - known.keys()
            changed = {key for key, old in known.items() if old != hashes[key]}
            with self._conn.cursor() as cursor:
                cursor.executemany(_UPSERT, rows)
            touched = new | changed
            affected = {hashes[key] for key in touched} | {known[key] for key in changed}
            settled = self._conn.execute(_SETTLE, (list(affected),)).fetchall()
            promoted = {key for key, canonical in settled if canonical is None}
            duplicates = {key for key, canonical in settled if canonical is not None}
            added, superseded = replace_chunks(self._conn, touched | promoted | duplicates, chunker)
        return Changes(
            new=len(new),
            changed=len(changed),
            duplicates=len(duplicates & touched),
            chunks_added=added,
            chunks_superseded=superseded,
        )

    def delete(self, document_ids: Collection[int]) -> Changes:
        """Delete documents at once and everywhere: text, chunks, questions, labels, vectors.

        The row stays, without title, body and metadata, as a record of the deletion. A duplicate of a deleted document
        becomes canonical and gets chunks of its own. Unknown and deleted ids are skipped.
        """
        query = "SELECT * FROM heal.delete_document(VARIADIC %s::bigint[])"
        ((deleted, added),) = self._conn.execute(query, (list(document_ids),)).fetchall()
        return Changes(deleted=deleted, chunks_added=added)


def text_language(metadata: Mapping[str, Any], default: str) -> str:
    """The text search configuration that a document's metadata name, by name or by a code such as ``de-AT``.

    It is ``simple`` (no stemming) for a code that PostgreSQL has no configuration for.
    """
    named = metadata.get("language") or metadata.get("lang")
    if not isinstance(named, str):
        return default
    code = named.strip().lower()
    known = CONFIGURATIONS.get(code.replace("_", "-").split("-")[0])
    return known or (code if len(code) > 3 and code.isalpha() else "simple")


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

# The oldest live document of each content is the canonical one.
_SETTLE = sql.SQL("""
UPDATE heal.document d SET duplicate_of = nullif(ranked.canonical, d.document_id)
FROM (SELECT document_id, first_value(document_id)
          OVER (PARTITION BY content_hash ORDER BY created_at, document_id) AS canonical
      FROM heal.document WHERE deleted_at IS NULL AND content_hash = ANY(%s)) ranked
WHERE d.document_id = ranked.document_id AND d.duplicate_of IS DISTINCT FROM nullif(ranked.canonical, d.document_id)
RETURNING d.document_id, d.duplicate_of
""")
