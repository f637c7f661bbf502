"""Entity maps of chunks, one per text, prompt and model, refusals included."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from heal_tasks.core.ids import fingerprint
from heal_tasks.store.db import Connection, insert
from heal_tasks.store.documents.chunks import IN_PART, LiveChunk, live_chunks
from heal_tasks.store.llm.ledger import LlmCall, settle


@dataclass(frozen=True, slots=True)
class StoredMap:
    """A row of ``heal.entity_map``."""

    chunk_id: int
    content_hash: str
    prompt_hash: str
    model: str
    status: str  # ok, or why the map cannot be used
    map: str  # as JSON; without entities where there is none
    dropped: int  # number of entities, attributes and relations that its text does not confirm
    map_tokens: int  # of the rendered map
    text_tokens: int  # of the text, title included


@dataclass(frozen=True, slots=True)
class Usable:
    """Maps of live chunks that training can use."""

    count: int  # their number
    reduction: float  # mean over maps of 1 - map tokens / text tokens; 0 where there are none
    fingerprint: str  # changes with the set of maps


_UNMAPPED = sql.SQL(
    "NOT EXISTS (SELECT FROM heal.entity_map m WHERE m.chunk_id = c.chunk_id AND m.prompt_hash = %s AND m.model = %s)"
)
_COPY = """
INSERT INTO heal.entity_map
    (chunk_id, content_hash, prompt_hash, model, status, map, dropped, map_tokens, text_tokens, mapped_at)
SELECT c.chunk_id, m.content_hash, m.prompt_hash, m.model, m.status, m.map, m.dropped, m.map_tokens, m.text_tokens,
       m.mapped_at
FROM heal.chunk c JOIN LATERAL
     (SELECT * FROM heal.entity_map m
      WHERE m.content_hash = c.content_hash AND m.prompt_hash = %s AND m.model = %s LIMIT 1) m ON true
WHERE c.superseded_at IS NULL AND {} AND {}
ON CONFLICT (chunk_id, prompt_hash, model) DO NOTHING
"""


class MapRepository:
    """Entity maps by one model with one prompt; the connection is an autocommit one."""

    def __init__(self, conn: Connection, prompt_hash: str, model: str) -> None:
        self._conn, self._key = conn, (prompt_hash, model)

    def unmapped(self, shard: int = 0, shards: int = 1) -> Iterator[LiveChunk]:
        """Live chunks without a map, by id, in one part (``IN_PART``)."""
        return live_chunks(self._conn, sql.SQL(" AND ").join([_UNMAPPED, IN_PART]), (*self._key, shards, shard))

    def reuse(self, shard: int = 0, shards: int = 1) -> int:
        """Give unmapped chunks of a part the map that an equal text has, and return their number."""
        query = sql.SQL(_COPY).format(_UNMAPPED, IN_PART)
        return self._conn.execute(query, (*self._key, *self._key, shards, shard)).rowcount

    def store(self, run_id: str, maps: Sequence[StoredMap], calls: Sequence[LlmCall]) -> None:
        """Store maps, for chunks that still exist, and all calls, and settle the reservations, in one transaction."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            live = settle(cursor, run_id, calls, [item.chunk_id for item in maps])
            insert(cursor, "entity_map", [item for item in maps if item.chunk_id in live], "ON CONFLICT DO NOTHING")

    def usable(self) -> Usable:
        """The usable maps of live chunks: their number, and by how much they are shorter than their texts."""
        ((count, reduction, ids),) = self._conn.execute(
            "SELECT count(*), coalesce(avg(1 - map_tokens::float8 / text_tokens), 0), "
            "coalesce(array_agg(chunk_id ORDER BY chunk_id), '{}') "
            "FROM heal.entity_map JOIN heal.chunk USING (chunk_id) "
            "WHERE prompt_hash = %s AND model = %s AND status = 'ok' AND superseded_at IS NULL",
            self._key,
        ).fetchall()
        return Usable(count, reduction, fingerprint(ids))

    def of_chunks(self, chunk_ids: Collection[int]) -> dict[int, str]:
        """The usable maps of these chunks as JSON, by chunk id."""
        rows = self._conn.execute(
            "SELECT chunk_id, map::text FROM heal.entity_map WHERE prompt_hash = %s AND model = %s "
            "AND status = 'ok' AND chunk_id = ANY(%s)",
            (*self._key, list(chunk_ids)),
        )
        return dict(rows.fetchall())
