"""Documents that were renamed: their text is gone under one name and has arrived under another in the same run.

Such a document keeps its row, and with it chunks, vectors, questions, judgments and labels: the two rows swap their
names, and the row that arrived is deleted under the old name. So every name still has one row, and ``document_id`` of a
name without a row is free.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

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
        """True if the title is only the file's name: another name is then no other content."""
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
    rest = [item for item in found if item.document_id not in paired and item.is_named_after_file]
    return moves + _pair([(item.body_hash, item) for item in rest], gone)


def apply_moves(conn: Connection, moves: Sequence[Move], chunker: Chunker) -> Changes:
    """Give the documents that are gone the names, places and metadata of those that arrived, and delete the latter.

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
    if retitled:
        hashes = {value for item in retitled for value in (item.old_hash, item.new_hash)}
        _, added, superseded = settle(conn, {item.gone for item in retitled}, hashes, chunker)
        for statement in _TAKE_OVER:
            conn.execute(statement, ([item.gone for item in retitled],))
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
    metadata = a.metadata, language = a.language, content_hash = a.content_hash,
    changed_at = CASE WHEN g.content_hash = a.content_hash THEN g.changed_at ELSE now() END
FROM pair p JOIN heal.document a ON a.document_id = p.arrived WHERE g.document_id = p.gone"""
_TAKE_BACK = "UPDATE heal.document SET external_id = substr(external_id, 2) WHERE document_id = ANY(%s)"
_DUPLICATES = "SELECT FROM heal.document WHERE document_id = ANY(%s) AND duplicate_of IS NOT NULL"
_LIVE_CHUNKS = "SELECT FROM heal.chunk WHERE document_id = ANY(%s) AND superseded_at IS NULL"

# Old and new chunk of equal texts of these documents.
_PAIRS = """
WITH place AS (
    SELECT c.*, row_number() OVER (PARTITION BY document_id, text, superseded_at ORDER BY ordinal, chunk_id) AS number
    FROM heal.chunk c WHERE document_id = ANY(%s) AND (superseded_at IS NULL OR superseded_at = now())
), pair AS (
    SELECT o.chunk_id AS old, n.chunk_id AS new, n.content_hash FROM place o
    JOIN place n USING (document_id, text, number) WHERE o.superseded_at IS NOT NULL AND n.superseded_at IS NULL
)"""
_TAKE_OVER = (
    f"{_PAIRS} UPDATE heal.question q SET chunk_id = p.new FROM pair p WHERE q.chunk_id = p.old",
    *(
        f"{_PAIRS} UPDATE heal.{table} w SET chunk_id = p.new, content_hash = p.content_hash FROM pair p "
        f"WHERE w.chunk_id = p.old AND NOT EXISTS (SELECT FROM heal.{table} o "
        "WHERE (o.chunk_id, o.prompt_hash, o.model) = (p.new, w.prompt_hash, w.model))"
        for table in ("chunk_asked", "entity_map")
    ),
)
