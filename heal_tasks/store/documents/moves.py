"""Texts that have another name than before: what belongs to a text stays with it.

A document whose text is gone under one name and has arrived under another in the same run keeps its row, and with it
chunks, vectors, questions, judgments and labels: the two rows swap their names, and the row that arrived is deleted
under the old name. So every name still has one row, and ``document_id`` of a name without a row is free.

Where names are exchanged, as after the insertion of a numbered page, every name is still there with another text. Then
the rows stay, and what was written about the texts goes over.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import LiteralString, NamedTuple

from psycopg import sql

from heal_tasks.store.db import Connection, select
from heal_tasks.store.documents.chunks import Chunker
from heal_tasks.store.documents.documents import Changes, settle


class Move(NamedTuple):
    """A document that is gone, the one that arrived with its text, and their hashes of title and text."""

    gone: int
    arrived: int
    old_hash: str
    new_hash: str  # another one where the title is the file's name, which has changed


class _Candidate(NamedTuple):
    document_id: int
    source: str
    external_id: str
    title: str
    content_hash: str
    body_hash: bytes

    @property
    def is_named_after_file(self) -> bool:
        """True if the title is only the file's name: another name or kind of file is then no other content."""
        return self.title == PurePosixPath(self.external_id).stem


def find_moves(conn: Connection, gone: Collection[int]) -> list[Move]:
    """Pair documents that are gone from their sources with documents of this transaction that have their text.

    Documents with equal texts are paired in the order of their names.

    Args:
        conn: in the transaction that stored the documents that arrived.
        gone: ids of live documents whose names are in no source any more.
    """
    if not gone:
        return []
    found = sorted(select(conn, _Candidate, _CANDIDATES, (list(gone),)), key=lambda item: item[1:3])
    moves = _pair([(item.content_hash, item) for item in found], gone)
    paired = {key for item in moves for key in item[:2]}
    rest = [item for item in found if item.document_id not in paired]
    named = {item.document_id for item in rest if item.is_named_after_file}
    retitled = _pair([(item.body_hash, item) for item in rest], gone)
    return moves + [item for item in retitled if not named.isdisjoint(item[:2])]


def apply_moves(conn: Connection, moves: Sequence[Move], chunker: Chunker) -> Changes:
    """Give documents that are gone names, places, metadata and readers of those that arrived, and delete the latter.

    A document whose title is the file's name gets new chunks, because the title is embedded with the text. What was
    written about the old ones, by people or by a language model, goes over to them.
    """
    if not moves:
        return Changes()
    gone, arrived = [item.gone for item in moves], [item.arrived for item in moves]
    conn.execute(_SET_ASIDE, (arrived,))
    conn.execute(_SWAP, (gone, arrived))
    conn.execute(_TAKE_BACK, (arrived,))
    retitled = [item for item in moves if item.old_hash != item.new_hash]
    duplicates = conn.execute(_DUPLICATES, (arrived,)).rowcount
    made = len(conn.execute(_LIVE_CHUNKS, (arrived,)).fetchall())
    added, superseded = 0, 0
    reopened = {value for (value,) in conn.execute(_REOPENED, (gone,))}
    if retitled or reopened:
        hashes = reopened | {value for item in retitled for value in (item.old_hash, item.new_hash)}
        _, added, superseded = settle(conn, {item.gone for item in retitled}, hashes, chunker)
        _take_over(conn, "document_id, text", [item.gone for item in retitled])
    conn.execute("SELECT heal.delete_document(VARIADIC %s::bigint[])", (arrived,))
    # Nobody has seen these rows, so that their deletion is no change of the corpus.
    conn.execute("UPDATE heal.document SET deleted_at = 'epoch' WHERE document_id = ANY(%s)", (arrived,))
    return Changes(
        new=-len(moves),
        moved=len(moves),
        duplicates=-duplicates,
        chunks_added=added - made,
        chunks_superseded=superseded - made,
    )


def hand_on(conn: Connection, gone: Collection[int]) -> None:
    """Give what was written about texts that this transaction has replaced to equal texts of other documents.

    A judgment of a text that is nowhere else stays with its document, which it names: it moves to the first chunk,
    until the new chunks have vectors (``placing.place_judgments``).

    Args:
        conn: in the transaction that stored the documents.
        gone: ids of live documents that are to be deleted.
    """
    if not gone and not conn.execute("SELECT FROM heal.chunk WHERE superseded_at = now() LIMIT 1").rowcount:
        return
    _take_over(conn, "content_hash", gone=gone)
    named = [key for (key,) in conn.execute(_NAMED_AFTER_FILES, (list(gone),))]
    _take_over(conn, "text", named, gone)
    conn.execute(_MOVE_JUDGMENTS)


def _take_over(
    conn: Connection, key: LiteralString, documents: Collection[int] | None = None, gone: Collection[int] = ()
) -> None:
    """Hand over from old chunks to new ones with equal keys, in these documents or in all."""
    if documents is not None and not documents:
        return
    values = {"documents": None if documents is None else list(documents), "gone": list(gone)}
    pairs = conn.execute(sql.SQL(_PAIRS).format(key=sql.SQL(key)), values).fetchall()
    if pairs:
        old, new = zip(*pairs, strict=True)
        conn.execute("CALL heal.hand_over(%s::bigint[], %s::bigint[])", (list(old), list(new)))


def _pair(keyed: Sequence[tuple[str | bytes, _Candidate]], gone: Collection[int]) -> list[Move]:
    groups: dict[str | bytes, tuple[list[_Candidate], list[_Candidate]]] = defaultdict(lambda: ([], []))
    for key, item in keyed:
        groups[key][item.document_id not in gone].append(item)
    return [
        Move(old.document_id, new.document_id, old.content_hash, new.content_hash)
        for lost, made in groups.values()
        for old, new in zip(lost, made, strict=False)
    ]


# created_at is the time at which the transaction began.
_CANDIDATES = """FROM (SELECT *, sha256(convert_to(body, 'UTF8')) AS body_hash FROM heal.document
    WHERE deleted_at IS NULL AND (document_id = ANY(%s) OR created_at = now())) d"""

# A name may stand in one row only at any time, so the names that arrived are marked until those gone are taken.
_SET_ASIDE = "UPDATE heal.document SET external_id = chr(1) || external_id WHERE document_id = ANY(%s)"
_SWAP = """
WITH pair AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[]) AS p (gone, arrived)), named AS (
    UPDATE heal.document a SET source = g.source, external_id = chr(1) || g.external_id, path = g.path
    FROM pair p JOIN heal.document g ON g.document_id = p.gone WHERE a.document_id = p.arrived)
UPDATE heal.document g SET source = a.source, external_id = substr(a.external_id, 2), path = a.path, title = a.title,
    metadata = a.metadata, language = a.language, content_hash = a.content_hash, acl = a.acl,
    acl_changed_at = CASE WHEN g.acl IS DISTINCT FROM a.acl THEN now() ELSE g.acl_changed_at END,
    changed_at = CASE WHEN g.content_hash = a.content_hash THEN g.changed_at ELSE now() END
FROM pair p JOIN heal.document a ON a.document_id = p.arrived WHERE g.document_id = p.gone"""
# Documents with equal texts are duplicates of each other only if they have the same readers.
_REOPENED = "SELECT content_hash FROM heal.document WHERE document_id = ANY(%s) AND acl_changed_at = now()"
_TAKE_BACK = "UPDATE heal.document SET external_id = substr(external_id, 2) WHERE document_id = ANY(%s)"
_DUPLICATES = "SELECT FROM heal.document WHERE document_id = ANY(%s) AND duplicate_of IS NOT NULL"
_LIVE_CHUNKS = "SELECT FROM heal.chunk WHERE document_id = ANY(%s) AND superseded_at IS NULL"

# Documents whose title is only the file's name, so that it has changed with the name.
_NAMED_AFTER_FILES = r"""
SELECT document_id FROM heal.document WHERE deleted_at IS NULL AND (changed_at = now() OR document_id = ANY(%s))
    AND title = regexp_replace(regexp_replace(external_id, '^.*/', ''), '(?<=.)\.[^.]*$', '')"""

_PAIRS: LiteralString = """
WITH asked AS NOT MATERIALIZED (
    SELECT * FROM heal.chunk WHERE %(documents)s::bigint[] IS NULL OR document_id = ANY(%(documents)s)
), old AS (
    SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY document_id, ordinal, chunk_id) AS number
    FROM asked WHERE superseded_at = now() OR superseded_at IS NULL AND document_id = ANY(%(gone)s)
), new AS (
    SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY document_id, ordinal, chunk_id) AS number
    FROM asked WHERE superseded_at IS NULL AND document_id <> ALL(%(gone)s) AND ({key}) IN (SELECT {key} FROM old)
)
SELECT o.chunk_id, n.chunk_id FROM old o JOIN new n USING ({key}, number)"""

_MOVE_JUDGMENTS = """
UPDATE heal.question q SET chunk_id = target.chunk_id
FROM heal.chunk old JOIN heal.document d USING (document_id),
LATERAL (SELECT l.chunk_id FROM heal.chunk l WHERE l.document_id = coalesce(d.duplicate_of, d.document_id)
         AND l.superseded_at IS NULL ORDER BY l.ordinal LIMIT 1) target
WHERE q.writer = 'human' AND q.chunk_id = old.chunk_id AND old.superseded_at = now()"""
