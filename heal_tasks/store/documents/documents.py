"""Documents and their chunks: new, changed and deleted documents, duplicates.

A document is identified by (source, external id), its content by a hash of title and body. Of documents with equal
content and equal readers only the oldest (the canonical one) has chunks. A chunk whose text is gone is *superseded*: it
is served until the vector of its successor is published, then deleted. A deletion takes effect at once and everywhere.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from psycopg import sql

from heal_tasks.core.acl import Acl, acl_of
from heal_tasks.core.ids import document_id, sha256_hex
from heal_tasks.core.text import storable
from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection, Repository, scalar, storable_json
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
    reopened: int = 0  # documents that have other readers than before
    moved: int = 0  # documents that have another name than before, and the same text
    duplicates: int = 0  # new or changed documents whose content an older document has
    chunks_added: int = 0  # chunks that need a vector
    chunks_superseded: int = 0  # chunks that are served until their successors are published

    def __str__(self) -> str:
        moved = f", {self.moved} moved" if self.moved else ""
        reopened = f", {self.reopened} with other readers" if self.reopened else ""
        return f"{self.new} new, {self.changed} changed, {self.deleted} deleted{moved}{reopened}"

    def __add__(self, other: "Changes") -> "Changes":
        """Add the counts."""
        return Changes(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(Changes)})


class DocumentRepository(Repository):
    """Documents and chunks."""

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
        self,
        source: str,
        records: Sequence[Record],
        chunker: Chunker,
        language: str = "english",
        acl: Acl = None,
        *,
        again: bool = False,
    ) -> Changes:
        """Store documents and update their chunks; deletes nothing.

        Of two records with one external id the last counts. ``language`` and ``acl`` are for documents whose metadata
        name none. Another list of readers alone changes no chunk, unless the document was or becomes a duplicate.
        With ``again`` documents that have not changed are chunked, too; chunks with the same text stay.

        Raises:
            InputError: the ``acl`` in the metadata of a record is no list of principals.
        """
        by_name = {record.external_id: record for record in records}
        hashes = {name: sha256_hex(storable(item.title), storable(item.body)) for name, item in by_name.items()}
        acls = {name: acl_of(item.metadata, acl) for name, item in by_name.items()}
        with self._conn.transaction():
            lock_exclusive(self._conn)
            rows = self._conn.execute(
                "SELECT external_id, document_id, content_hash, acl, deleted_at IS NULL FROM heal.document "
                "WHERE source = %s AND external_id = ANY(%s)",
                (source, list(by_name)),
            ).fetchall()
            # A renamed document has kept its id, so the row of the name counts, and not the name's own id.
            ids = {name: document_id(source, name) for name in by_name} | {name: key for name, key, *_ in rows}
            known = {name: content_hash for name, _, content_hash, _, live in rows if live}
            reopened = {name for name, _, _, old, live in rows if live and old != acls[name]}
            with self._conn.cursor() as cursor:
                cursor.executemany(
                    _UPSERT,
                    [
                        (
                            ids[name], source, name, item.path, storable(item.title), storable(item.body),
                            storable_json(item.metadata), hashes[name], text_language(item.metadata, language),
                            acls[name],
                        )
                        for name, item in by_name.items()
                    ],
                )  # fmt: skip
            changed = {name for name, old in known.items() if old != hashes[name]}
            new = by_name.keys() - known.keys()
            touched = {ids[name] for name in (by_name if again else new | changed)}
            affected = {hashes[name] for name in new | changed | reopened} | {known[name] for name in changed}
            if reopened:
                self._conn.execute("CALL heal.announce('rows')")  # stored answers are out of date
            if any(item is not None for item in acls.values()):
                self._conn.execute("CALL heal.guard_views()")
            duplicates, added, superseded = settle(self._conn, touched, affected, chunker)
        return Changes(
            new=len(new),
            changed=len(changed),
            reopened=len(reopened),
            duplicates=len(duplicates & touched),
            chunks_added=added,
            chunks_superseded=superseded,
        )

    def apply_acl(self, source: str, acl: Acl, chunker: Chunker) -> Changes:
        """Give readers to all documents of a source whose metadata name none: its rule may have changed."""
        with self._conn.transaction():
            lock_exclusive(self._conn)
            hashes = [value for (value,) in self._conn.execute(_SET_ACL, {"source": source, "acl": acl})]
            if not hashes:
                return Changes()
            self._conn.execute("CALL heal.announce('rows')")
            self._conn.execute("CALL heal.guard_views()")
            duplicates, added, superseded = settle(self._conn, (), set(hashes), chunker)
        return Changes(
            reopened=len(hashes), duplicates=len(duplicates), chunks_added=added, chunks_superseded=superseded
        )

    def apply_language(self, source: str, language: str) -> None:
        """Give a language to all documents of a source whose metadata name none: the setting may have changed.

        Their chunks get the stems of that language (trigger ``document_language``).
        """
        with self._conn.transaction():
            lock_exclusive(self._conn)
            self._conn.execute(_SET_LANGUAGE, {"source": source, "language": language})

    def delete(self, document_ids: Collection[int]) -> Changes:
        """Delete documents at once and everywhere: text, chunks, questions, labels, vectors.

        The row stays, without title, body and metadata, as a record of the deletion. A duplicate of a deleted document
        becomes canonical and gets chunks of its own. Unknown and deleted ids are skipped.
        """
        query = "SELECT * FROM heal.delete_document(VARIADIC %s::bigint[])"
        ((deleted, added),) = self._conn.execute(query, (list(document_ids),)).fetchall()
        return Changes(deleted=deleted, chunks_added=added)


def settle(
    conn: Connection, changed: Collection[int], hashes: Collection[str], chunker: Chunker
) -> tuple[set[int], int, int]:
    """Chunk documents with new content, and every document that another one has become the canonical one for.

    Args:
        conn: in the transaction that stored the content.
        changed: ids of documents with another title or body than before.
        hashes: of the contents that documents have got or lost.
        chunker: as for ``replace_chunks``.

    Returns:
        The documents that became duplicates; the numbers of chunks that need a vector, and of superseded ones.
    """
    settled = conn.execute(_SETTLE, (list(hashes),)).fetchall()
    added, superseded = replace_chunks(conn, {*changed, *(key for key, _ in settled)}, chunker)
    return {key for key, canonical in settled if canonical is not None}, added, superseded


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
INSERT INTO heal.document (document_id, source, external_id, path, title, body, metadata, content_hash, language, acl)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (document_id) DO UPDATE SET
    path = EXCLUDED.path, title = EXCLUDED.title, body = EXCLUDED.body, metadata = EXCLUDED.metadata,
    content_hash = EXCLUDED.content_hash, language = EXCLUDED.language, deleted_at = NULL,
    acl = EXCLUDED.acl,
    acl_changed_at = CASE WHEN document.acl IS DISTINCT FROM EXCLUDED.acl THEN now() ELSE document.acl_changed_at END,
    created_at = CASE WHEN document.deleted_at IS NULL THEN document.created_at ELSE now() END,
    changed_at = CASE WHEN document.deleted_at IS NULL AND document.content_hash = EXCLUDED.content_hash
                      THEN document.changed_at ELSE now() END
WHERE (document.path, document.metadata, document.content_hash, document.language, document.acl) IS DISTINCT FROM
      (EXCLUDED.path, EXCLUDED.metadata, EXCLUDED.content_hash, EXCLUDED.language, EXCLUDED.acl)
      OR document.deleted_at IS NOT NULL
""")

_SET_ACL = """
UPDATE heal.document SET acl = %(acl)s, acl_changed_at = now()
WHERE source = %(source)s AND deleted_at IS NULL AND acl IS DISTINCT FROM %(acl)s::text[]
    AND NOT EXISTS (SELECT FROM jsonb_each(metadata) m WHERE lower(m.key) = 'acl' AND m.value <> 'null')
RETURNING content_hash
"""

_SET_LANGUAGE = """
UPDATE heal.document SET language = %(language)s
WHERE source = %(source)s AND deleted_at IS NULL AND language <> %(language)s
    AND coalesce(nullif(metadata ->> 'language', ''), nullif(metadata ->> 'lang', '')) IS NULL
"""

# The oldest live document of each content is the canonical one, among those with the same readers: what is found is
# shown as the canonical document, and nobody may learn title and source of a copy that is kept for others.
_SETTLE = sql.SQL("""
UPDATE heal.document d SET duplicate_of = nullif(ranked.canonical, d.document_id)
FROM (SELECT document_id, first_value(document_id)
          OVER (PARTITION BY content_hash, acl ORDER BY created_at, document_id) AS canonical
      FROM heal.document WHERE deleted_at IS NULL AND content_hash = ANY(%s)) ranked
WHERE d.document_id = ranked.document_id AND d.duplicate_of IS DISTINCT FROM nullif(ranked.canonical, d.document_id)
RETURNING d.document_id, d.duplicate_of
""")
