"""Spaces: the vectors of chunks and questions by one encoder each, added to as texts arrive, never copied."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
import psycopg
from psycopg import sql

from heal_tasks.core.errors import StoreError
from heal_tasks.store.arrays import Float32Array, Int64Array, streamed_arrays
from heal_tasks.store.db import Repository, find, select, stream
from heal_tasks.store.documents.chunks import LiveChunk, live_chunks, lock_exclusive
from heal_tasks.store.spaces.vector_tables import Entity, create_keyed, drop_soon, read_keyed, table_exists, write_keyed

SpacePrefix = Literal["base", "question"]


@dataclass(frozen=True, slots=True)
class Space:
    """The vectors of one encoder, as in ``heal.space``."""

    space_id: int
    model_uri: str
    model_sha256: str
    dims: int
    created_at: datetime
    used_at: datetime = field(compare=False)

    def table(self, prefix: SpacePrefix) -> sql.Identifier:
        """The table of chunk vectors (``base``) or of question vectors (``question``)."""
        return space_table(self.space_id, prefix)


def space_table(space_id: int, prefix: SpacePrefix) -> sql.Identifier:
    """Name of a table of a space; ``heal.space_table`` is the same rule for SQL."""
    return sql.Identifier("heal", f"{prefix}_s{space_id:06d}")


class SpaceRepository(Repository):
    """Spaces and their vectors."""

    def ensure(self, model_uri: str, model_sha256: str, dims: int) -> Space:
        """Get the space of an encoder, and make it and its tables if they are missing; safe to call from many tasks.

        ``model_uri`` replaces an older location of the same files; files of equal hash give equal vectors.
        """
        try:
            with self._conn.transaction():
                self._conn.execute("LOCK TABLE heal.lock_space IN EXCLUSIVE MODE")
                known = self._conn.execute(
                    "UPDATE heal.space SET model_uri = %s, used_at = now() WHERE model_sha256 = %s",
                    (model_uri, model_sha256),
                )
                if not known.rowcount:
                    self._conn.execute(
                        "INSERT INTO heal.space (model_uri, model_sha256, dims) VALUES (%s, %s, %s)",
                        (model_uri, model_sha256, dims),
                    )
                (space,) = select(self._conn, Space, "FROM heal.space WHERE model_sha256 = %s", (model_sha256,))
                if space.dims != dims:
                    raise StoreError(
                        f"{model_uri} is said to have {dims} dimensions, but space {space.space_id} of the same files "
                        f"(sha256 {model_sha256[:12]}) has {space.dims}"
                    )
                for table, entity in _tables(space):
                    if not table_exists(self._conn, table):
                        create_keyed(self._conn, table, entity, dims)
        except psycopg.errors.CheckViolation as error:
            raise StoreError(
                f"{model_uri} has {dims} dimensions; pgvector's HNSW index takes 1 to 4000, so use another encoder"
            ) from error
        return space

    def get(self, space_id: int) -> Space:
        """One space; StoreError if there is none with that id."""
        space = find(self._conn, Space, "FROM heal.space WHERE space_id = %s", (space_id,))
        if space is None:
            raise StoreError(f"there is no space {space_id}; SELECT * FROM heal.space lists them")
        return space

    def find_by_uri(self, model_uri: str) -> Space | None:
        """The newest space of an encoder by its location, or None."""
        rest = "FROM heal.space WHERE model_uri = %s ORDER BY space_id DESC LIMIT 1"
        return find(self._conn, Space, rest, (model_uri,))

    def list(self) -> Sequence[Space]:
        """All spaces, oldest first."""
        return select(self._conn, Space, "FROM heal.space ORDER BY space_id")

    def in_use(self, hours: float, living: Collection[str]) -> set[int]:
        """Ids of spaces that were filled or read in the last hours, or since one of the living runs began."""
        query = """SELECT space_id FROM heal.space WHERE used_at > now() - make_interval(secs => %s)
            OR used_at >= (SELECT min(started_at) FROM heal.run WHERE run_id = ANY(%s))"""
        return {space_id for (space_id,) in self._conn.execute(query, (hours * 3600, list(living)))}

    def any_chunk(self, space: Space) -> tuple[LiveChunk, Float32Array] | None:
        """A live chunk with its vector, float32, shape (d,); None where the space has none.

        Not a row of an adopted table, whose application may have embedded more than the text.
        """
        condition = sql.SQL(
            "EXISTS (SELECT FROM {} b WHERE b.chunk_id = c.chunk_id) "
            "AND d.source NOT IN (SELECT a.source FROM heal.adopted a)"
        ).format(space.table("base"))
        for chunk in live_chunks(self._conn, condition, page=1):
            return chunk, self.load_chunks(space, np.array([chunk.chunk_id]))[1][0]
        return None

    def any_question(self, space: Space) -> tuple[str, Float32Array] | None:
        """The text of a question and its vector, float32, shape (d,); None where the space has none."""
        query = sql.SQL("SELECT q.text, q.question_id FROM {} v JOIN heal.question q USING (question_id) LIMIT 1")
        row = self._conn.execute(query.format(space.table("question"))).fetchone()
        if row is None:
            return None
        _, vectors = read_keyed(self._conn, space.table("question"), "question", space.dims, np.array([row[1]]))
        return row[0], vectors[0]

    def missing_chunks(self, space: Space, shard: int = 0, shards: int = 1) -> Sequence[LiveChunk]:
        """Live chunks without a vector in one of ``shards`` parts, by id."""
        return [*live_chunks(self._conn, _missing(space), (shards, shard))]

    def missing_ids(self, space: Space, shard: int = 0, shards: int = 1) -> Int64Array:
        """Ids of the same chunks, int64, shape (n,): the longest first, and equal texts together.

        Texts of a million chunks would take a gigabyte.
        """
        query = sql.SQL(
            "SELECT c.chunk_id FROM heal.chunk c JOIN heal.document d USING (document_id) "
            "WHERE c.superseded_at IS NULL AND {} "
            "ORDER BY length(heal.title_line(d.title, c.heading)) + length(c.text) DESC, c.content_hash, c.chunk_id"
        ).format(_missing(space))
        return streamed_arrays(stream(self._conn, query, (shards, shard)), np.int64)[0]

    def missing_questions(self, space: Space, shard: int = 0, shards: int = 1) -> Sequence[tuple[int, str]]:
        """Ids and texts of live chunks' questions without a vector in one of ``shards`` parts, by id."""
        query = sql.SQL(
            "SELECT q.question_id, q.text FROM heal.question q JOIN heal.chunk c USING (chunk_id) "
            "WHERE c.superseded_at IS NULL AND q.question_id %% %s = %s "
            "AND NOT EXISTS (SELECT FROM {} b WHERE b.question_id = q.question_id) ORDER BY 1"
        ).format(space.table("question"))
        return self._conn.execute(query, (shards, shard)).fetchall()

    def write_chunks(self, space: Space, ids: Int64Array, vectors: Float32Array) -> int:
        """Store vectors of chunks, float32, shape (n, d), by id, and return the number of new rows: ``write_keyed``."""
        return write_keyed(self._conn, space.table("base"), "chunk", space.dims, ids, vectors)

    def write_questions(self, space: Space, ids: Int64Array, vectors: Float32Array) -> int:
        """Store vectors of questions; as ``write_chunks``."""
        return write_keyed(self._conn, space.table("question"), "question", space.dims, ids, vectors)

    def load_chunks(self, space: Space, among: Int64Array | None = None) -> tuple[Int64Array, Float32Array]:
        """Vectors of live chunks, all or those among some ids: ids, int64, shape (n,), ascending; float32, (n, d)."""
        live = "chunk_id IN (SELECT chunk_id FROM heal.chunk WHERE superseded_at IS NULL)"
        return read_keyed(self._conn, space.table("base"), "chunk", space.dims, among, live)

    def load_questions(self, space: Space, among: Int64Array | None = None) -> tuple[Int64Array, Float32Array]:
        """Vectors of live chunks' questions; as ``load_chunks``."""
        live = """question_id IN (SELECT question_id FROM heal.question JOIN heal.chunk USING (chunk_id)
            WHERE superseded_at IS NULL)"""
        return read_keyed(self._conn, space.table("question"), "question", space.dims, among, live)

    def drop_unused(self, keep: Collection[int]) -> Sequence[int]:
        """Drop the tables of spaces that no generation in use refers to, except those to keep, and return their ids.

        The row is deleted, too, unless a retired or failed generation refers to it. A space that is locked stays.
        """
        with self._conn.transaction():
            lock_exclusive(self._conn)
            rest = """FROM heal.space WHERE space_id <> ALL(%s)
                AND space_id NOT IN (SELECT space_id FROM heal.generation
                    WHERE state IN ('building', 'ready', 'active', 'previous')) ORDER BY space_id"""
            unused = select(self._conn, Space, rest, ([*keep],))
            there = {space.space_id for space in unused if table_exists(self._conn, space.table("base"))}
            gone = [s.space_id for s in unused if drop_soon(self._conn, [table for table, _ in _tables(s)])]
            self._conn.execute(
                "DELETE FROM heal.space s WHERE s.space_id = ANY(%s) "
                "AND NOT EXISTS (SELECT FROM heal.generation g WHERE g.space_id = s.space_id)",
                (gone,),
            )
        return [space_id for space_id in gone if space_id in there]


def _missing(space: Space) -> sql.Composed:
    """Condition on ``c``, given the number of parts and the part: the space has no vector of it."""
    return sql.SQL("c.chunk_id %% %s = %s AND NOT EXISTS (SELECT FROM {} b WHERE b.chunk_id = c.chunk_id)").format(
        space.table("base")
    )


def _tables(space: Space) -> Sequence[tuple[sql.Identifier, Entity]]:
    return [(space.table("base"), "chunk"), (space.table("question"), "question")]
