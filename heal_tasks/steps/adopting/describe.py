"""A table as the database describes it: its name, columns, dimensions, collections, and the model that pgai names."""

from collections.abc import Mapping
from typing import Any

from psycopg import sql

from heal_tasks.core.errors import InputError
from heal_tasks.core.models import API
from heal_tasks.store.db import Connection, scalar

COLLECTIONS = "langchain_pg_collection"
"""PGVector's table of the names of collections, beside its table of vectors."""


def find_table(conn: Connection, name: str) -> tuple[str, str]:
    """Schema and name of a table, view or foreign table by ``SCHEMA.TABLE``, or by TABLE in the search path.

    Raises:
        InputError: there is none, or this user may not read it.
    """
    rows = conn.execute(
        """SELECT n.nspname, c.relname, has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND (n.nspname || '.' || c.relname = %(name)s OR c.relname = %(name)s AND pg_table_is_visible(c.oid))
        ORDER BY n.nspname || '.' || c.relname = %(name)s DESC LIMIT 1""",
        {"name": name},
    ).fetchall()
    if not rows:
        raise InputError(f"there is no table {name!r} in this database; write SCHEMA.TABLE, as it is spelled there")
    schema, table, readable = rows[0]
    if not readable:
        raise InputError(f"{conn.info.user} may not read {schema}.{table}; GRANT SELECT on it, and USAGE on its schema")
    return schema, table


def column_types(conn: Connection, schema: str, table: str) -> dict[str, str]:
    """Type of every column, without its modifier, by name."""
    rows = conn.execute(
        """SELECT a.attname, CASE WHEN t.typname IN ('vector', 'halfvec') THEN t.typname
            ELSE format_type(a.atttypid, NULL) END
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
        (sql.Identifier(schema, table).as_string(conn),),
    )
    types: dict[str, str] = dict(rows.fetchall())
    return types


def dimensions(conn: Connection, schema: str, table: str, column: str) -> int:
    """The dimension that most of the vectors have; InputError if there is no vector."""
    query = sql.SQL(
        "SELECT vector_dims({0}::vector), count(*) FROM {1} WHERE {0} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 1"
    ).format(sql.Identifier(column), sql.Identifier(schema, table))
    rows = conn.execute(query).fetchall()
    if not rows:
        raise InputError(f"{schema}.{table} has no vector in column {column!r}; adopt it when it has")
    return int(rows[0][0])


def collection_id(conn: Connection, schema: str, name: str) -> str:
    """Id of one of PGVector's collections by its name; empty where the name is empty and there is only one.

    Raises:
        InputError: there is none of that name, or there are several and none is named.
    """
    query = sql.SQL("SELECT name, uuid::text FROM {} ORDER BY name").format(sql.Identifier(schema, COLLECTIONS))
    found: dict[str, str] = dict(conn.execute(query).fetchall())
    if name not in found and (name or len(found) != 1):
        raise InputError(f"name one of its collections by --collection: {', '.join(found) or 'there is none'}")
    return found[name or next(iter(found))]


def pgai_settings(conn: Connection, schema: str, table: str) -> tuple[str, int, str]:
    """Model, dimensions and template of the vectorizer that fills a table or view of pgai; empty where unknown.

    The model is spelled as in HEAL_MODEL where it has OpenAI's protocol: OpenAI's own, and Ollama's.
    """
    if scalar(conn, "SELECT to_regclass('ai.vectorizer')") is None:
        return "", 0, ""
    for (row,) in conn.execute("SELECT to_jsonb(v) FROM ai.vectorizer v"):
        if not _is_target(row, schema, table):
            continue
        config: Mapping[str, Any] = row.get("config") or {}
        embedding, template = config.get("embedding") or {}, (config.get("formatting") or {}).get("template") or ""
        spoken = embedding.get("implementation") in ("openai", "ollama")
        model = f"{API}{embedding['model']}" if spoken and embedding.get("model") else ""
        return model, int(embedding.get("dimensions") or 0), template
    return "", 0, ""


def _is_target(row: Mapping[str, Any], schema: str, table: str) -> bool:
    """True if a vectorizer fills this table: in columns of their own in older versions, in its config in newer ones."""
    places = [row, (row.get("config") or {}).get("destination") or {}]
    return any(
        schema in (place.get("target_schema"), place.get("view_schema"))
        and table in (place.get("target_table"), place.get("view_name"))
        for place in places
    )
