"""Reading of a table that another application owns: parts with fingerprints, rows, vectors. Nothing is written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import psycopg
from psycopg import IsolationLevel, sql

from heal_tasks.core.errors import SourceError
from heal_tasks.core.ids import fingerprint
from heal_tasks.store.adopted.adopted import Adopted
from heal_tasks.store.arrays import Float32Array, Int64Array
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.spaces.spaces import Space
from heal_tasks.store.spaces.vector_tables import copy_vectors_out

SAME_VECTOR = 1e-5
"""Largest cosine distance of a vector to its own copy: single precision leaves 1e-7."""

Part = tuple[int, str, int, list[str]]
"""Number, fingerprint, bytes of text, ids of the rows."""


@contextmanager
def reading_connection(url: str) -> Iterator[Connection]:
    """A connection that cannot write, and sees one state of the database until it is closed."""
    with connect(url) as conn:
        conn.read_only, conn.isolation_level = True, IsolationLevel.REPEATABLE_READ
        yield conn


class UserTable:
    """The rows of an adopted table, over a connection as ``reading_connection`` opens it."""

    def __init__(self, conn: Connection, adopted: Adopted) -> None:
        self._conn, self.adopted = conn, adopted
        self.name = sql.Identifier(adopted.schema_name, adopted.table_name)

    def parts(self) -> list[Part]:
        """Every part that has rows, by number. Rows without text are left out, as there is nothing to find.

        A fingerprint changes with any row of the part: with its ``updated_column``, or else its text and metadata.
        """
        item = self.adopted
        version = [item.updated_column] if item.updated_column else [
            item.text_column, *filter(None, [item.metadata_column]), *item.other_columns
        ]  # fmt: skip
        query = sql.SQL(
            "SELECT part, md5(string_agg(version, ',' ORDER BY id)), sum(bytes)::bigint, array_agg(id ORDER BY id) "
            "FROM (SELECT {id}::text AS id, mod(hashtext({id}::text) & 2147483647, {parts}) AS part, "
            "octet_length({text}) AS bytes, md5({id}::text || {version}) AS version FROM {table} t WHERE {rows}) r "
            "GROUP BY part ORDER BY part"
        ).format(
            id=self._column(item.id_column), text=self._column(item.text_column), parts=sql.Literal(item.parts),
            table=self.name, rows=self._rows,
            version=sql.SQL(" || ").join(
                # The length keeps ("ab", "c") and ("a", "bc") apart.
                sql.SQL("coalesce(length({0}::text) || ':' || {0}::text, '-')").format(self._column(name))
                for name in version
            ),
        )  # fmt: skip
        read_as = fingerprint([item.id_column, item.text_column, item.metadata_column, *item.other_columns])
        return [(part, f"{read_as}-{digest}", size, ids) for part, digest, size, ids in self._fetch(query)]

    def rows(self, ids: Sequence[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Id, text and metadata of rows, by id."""
        item = self.adopted
        others = [part for name in item.other_columns for part in (sql.Literal(name), self._column(name))]
        query = sql.SQL(
            "SELECT {id}::text, {text}::text, jsonb_build_object({others})::text, {metadata} FROM {table} t "
            "WHERE {id} = ANY({ids}::{type}[]) AND {rows} ORDER BY 1"
        ).format(
            id=self._column(item.id_column), text=self._column(item.text_column), table=self.name, rows=self._rows,
            others=sql.SQL(", ").join(others), type=self._id_type, ids=sql.Literal(list(ids)),
            metadata=sql.SQL("{}::text").format(self._column(item.metadata_column))
            if item.metadata_column else sql.SQL("NULL"),
        )  # fmt: skip
        for key, text, others_json, metadata_json in self._fetch(query):
            metadata = json.loads(metadata_json) if metadata_json else {}
            own = metadata if isinstance(metadata, dict) else {item.metadata_column: metadata}
            others = json.loads(others_json)
            # A null in the metadata hides no column: of the readers it would make everybody one.
            yield (
                key,
                text,
                others | {name: value for name, value in own.items() if value is not None or name not in others},
            )

    def vectors_for(
        self, space: Space, shard: int, shards: int, after: int, limit: int
    ) -> tuple[Int64Array, Float32Array]:
        """Vectors of this table for live chunks that a space lacks: chunk ids, ascending, and float32, shape (n, d).

        Rows without a vector, with one of another dimension or of length zero are left out. So are rows whose text has
        changed while the vector is still that of the old text: their application has not embedded them yet.
        """
        query = sql.SQL(
            "SELECT c.chunk_id, t.{vector}::vector FROM heal.chunk c JOIN heal.document d USING (document_id) "
            "JOIN {table} t ON {id} = d.external_id::{type} "
            "WHERE d.source = {source} AND c.superseded_at IS NULL AND mod(c.chunk_id, {shards}) = {shard} "
            "AND c.chunk_id > {after} AND NOT EXISTS (SELECT FROM {base} b WHERE b.chunk_id = c.chunk_id) "
            "AND {usable} AND NOT EXISTS (SELECT FROM heal.chunk o JOIN {base} b USING (chunk_id) "
            "WHERE o.document_id = c.document_id AND o.superseded_at IS NOT NULL "
            "AND o.content_hash <> c.content_hash AND (b.embedding <=> t.{vector}::vector) < {same}) "
            "ORDER BY 1 LIMIT {limit}"
        ).format(
            **self._joined(space), shards=sql.Literal(shards), shard=sql.Literal(shard), after=sql.Literal(after),
            limit=sql.Literal(limit), same=sql.Literal(SAME_VECTOR),
        )  # fmt: skip
        with self._named_errors():
            (ids,), vectors = copy_vectors_out(self._conn, query, space.dims)
        return ids, vectors

    def cosines_to(self, space: Space, limit: int) -> list[float]:
        """Cosines of the table's vectors to the space's, for some chunks that have both."""
        query = sql.SQL(
            "SELECT 1 - (b.embedding <=> t.{vector}::vector) FROM heal.chunk c "
            "JOIN heal.document d USING (document_id) JOIN {table} t ON {id} = d.external_id::{type} "
            "JOIN {base} b USING (chunk_id) WHERE d.source = {source} AND c.superseded_at IS NULL AND {usable} "
            "ORDER BY hashint8(c.chunk_id), c.chunk_id LIMIT {limit}"
        ).format(**self._joined(space), limit=sql.Literal(limit))
        return [float(cosine) for (cosine,) in self._fetch(query)]

    def sample(self, limit: int) -> list[tuple[str, str, Mapping[str, Any], Float32Array]]:
        """Id, text, metadata and vector of some rows that have a usable vector, chosen by hash."""
        query = sql.SQL(
            "SELECT {id}::text, t.{vector}::vector FROM {table} t WHERE {rows} AND {usable} "
            "ORDER BY md5({id}::text) LIMIT {limit}"
        ).format(
            id=self._column(self.adopted.id_column), vector=sql.Identifier(self.adopted.vector_column),
            table=self.name, rows=self._rows, usable=self._usable, limit=sql.Literal(limit),
        )  # fmt: skip
        vectors = {key: vector.to_numpy() for key, vector in self._fetch(query)}
        return [(key, text, metadata, vectors[key]) for key, text, metadata in self.rows(list(vectors))]

    def unusable(self) -> tuple[int, int, int]:
        """The numbers of rows with text, of those without a usable vector, and of rows without text."""
        query = sql.SQL(
            "SELECT count(*) FILTER (WHERE {rows}), count(*) FILTER (WHERE {rows} AND ({usable}) IS NOT TRUE), "
            "count(*) FILTER (WHERE NOT coalesce({rows}, false)) FROM {table} t WHERE {condition}"
        ).format(rows=self._rows, usable=self._usable, table=self.name, condition=self._condition)
        ((rows, unusable, empty),) = self._fetch(query)
        return rows, unusable, empty

    def _joined(self, space: Space) -> dict[str, sql.Composable]:
        item = self.adopted
        return {
            "vector": sql.Identifier(item.vector_column), "table": self.name, "id": self._column(item.id_column),
            "type": self._id_type, "source": sql.Literal(item.source), "base": space.table("base"),
            "usable": self._usable,
        }  # fmt: skip

    @property
    def _rows(self) -> sql.Composable:
        """Condition on ``t``: the row is a document."""
        text = self._column(self.adopted.text_column)
        return sql.SQL("({} AND {} ~ '\\S')").format(self._condition, text)

    @property
    def _condition(self) -> sql.Composable:
        if not self.adopted.condition_column:
            return sql.SQL("true")
        value = sql.Literal(self.adopted.condition_value)
        return sql.SQL("{}::text = {}").format(self._column(self.adopted.condition_column), value)

    @property
    def _usable(self) -> sql.Composable:
        """Condition on ``t``: its vector has the right dimension and a direction; CASE, as order is not promised."""
        return sql.SQL(
            "CASE WHEN vector_dims(t.{0}::vector) = {1} THEN vector_norm(t.{0}::vector) > 0 ELSE false END"
        ).format(sql.Identifier(self.adopted.vector_column), sql.Literal(self.adopted.dims))

    @cached_property
    def _id_type(self) -> sql.Composable:
        """The type of ids, as the server writes it: an index on them is used only with their own type."""
        query = sql.SQL(
            "SELECT format_type(atttypid, -1) FROM pg_attribute "
            "WHERE attrelid = to_regclass({}) AND attname = {} AND NOT attisdropped"
        ).format(self.name.as_string(self._conn), self.adopted.id_column)
        rows = self._fetch(query)
        if not rows:
            raise SourceError(f"{self.adopted.source}: there is no column {self.adopted.id_column!r}, or no such table")
        return sql.SQL(rows[0][0])

    @staticmethod
    def _column(name: str) -> sql.Composable:
        return sql.SQL("t.{}").format(sql.Identifier(name))

    def _fetch(self, query: sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
        # Without values, so that a % in a name stays one.
        with self._named_errors():
            rows: list[tuple[Any, ...]] = self._conn.execute(query).fetchall()
            return rows

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            what = error.diag.message_primary
            raise SourceError(f"{self.adopted.source}: {what}; adopt the table again if it was changed") from error
        except psycopg.errors.InsufficientPrivilege as error:
            table = self.name.as_string(self._conn)
            raise SourceError(
                f"{self.adopted.source}: {error.diag.message_primary}; GRANT SELECT ON {table} (and USAGE on its "
                f"schema) TO {self._conn.info.user}"
            ) from error
