"""Tables as clients of pgvector make them, filled with planted vectors, and the steps that read them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from psycopg import sql

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.steps.adopting.adopt import Adoption, adopt_table
from heal_tasks.steps.adopting.presets import Columns
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from tests.fake_embeddings import FakeEmbeddings, planted

MODEL, DIMS = "openai:planted", 8
TEXTS = [
    f"The {part} of a {thing} is checked every {number + 2} months."
    for number, (part, thing) in enumerate(
        (part, thing) for part in ("valve", "seal", "filter", "gauge", "pump") for thing in ("boiler", "still", "dryer")
    )
]


class Table(NamedTuple):
    """A client's table: its name, DDL, the columns of a row, and where its parts are."""

    name: str
    ddl: str
    insert: str
    row: Callable[[int, str, str], Sequence[Any]]  # of number, text and vector as text
    preset: str
    metadata: Callable[[int], Mapping[str, Any]]  # of row number, as a document has it


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def node(number: int, text: str) -> dict[str, Any]:
    """A node's metadata as LlamaIndex stores them."""
    own = {"file": f"f{number}.md"}
    content = {
        "id_": f"node-{number}", "metadata": own, "excluded_embed_metadata_keys": [], "text": "",
        "metadata_template": "{key}: {value}", "metadata_seperator": "\n",
        "text_template": "{metadata_str}\n\n{content}",
    }  # fmt: skip
    return {**own, "_node_content": json.dumps(content), "_node_type": "TextNode", "ref_doc_id": f"doc-{number}"}


TABLES = {
    "langchain": Table(
        'public."My Docs"',
        'CREATE TABLE public."My Docs" (langchain_id uuid PRIMARY KEY, content text NOT NULL, '
        "embedding vector(8) NOT NULL, topic text, langchain_metadata json)",
        'INSERT INTO public."My Docs" VALUES (%s, %s, %s, %s, %s)',
        lambda number, text, vector: (uuid_of(number), text, vector, f"t{number % 3}", json.dumps({"page": number})),
        "langchain",
        lambda number: {"page": number, "topic": f"t{number % 3}"},
    ),
    "langchain, older": Table(
        "public.langchain_pg_embedding",
        "CREATE TABLE public.langchain_pg_collection (uuid uuid PRIMARY KEY, name varchar NOT NULL UNIQUE, "
        "cmetadata json); "
        f"INSERT INTO public.langchain_pg_collection VALUES ('{uuid_of(1)}', 'mine'), ('{uuid_of(2)}', 'yours'); "
        "CREATE TABLE public.langchain_pg_embedding (id varchar PRIMARY KEY, collection_id uuid REFERENCES "
        "public.langchain_pg_collection ON DELETE CASCADE, embedding vector, document varchar, cmetadata jsonb); "
        f"INSERT INTO public.langchain_pg_embedding VALUES ('foreign', '{uuid_of(2)}', '[1,2,3]', 'Not mine.', '{{}}')",
        "INSERT INTO public.langchain_pg_embedding (id, collection_id, document, embedding, cmetadata) "
        f"VALUES (%s, '{uuid_of(1)}', %s, %s, %s)",
        lambda number, text, vector: (f"doc {number}", text, vector, json.dumps({"page": number})),
        "langchain",
        lambda number: {"page": number},
    ),
    "llama-index": Table(
        "public.data_notes",
        "CREATE TABLE public.data_notes (id bigserial PRIMARY KEY, text varchar NOT NULL, metadata_ json, "
        "node_id varchar, embedding vector(8), text_search_tsv tsvector)",
        "INSERT INTO public.data_notes (id, text, metadata_, node_id, embedding) VALUES (%s, %s, %s, %s, %s)",
        lambda number, text, vector: (number, text, json.dumps(node(number, text)), f"node-{number}", vector),
        "llama-index",
        lambda number: {**node(number, ""), "node_id": f"node-{number}"},
    ),
    "pgai": Table(
        "public.notes_embedding_store",
        "CREATE TABLE public.notes_embedding_store (embedding_uuid uuid PRIMARY KEY, note_id int NOT NULL, "
        "chunk_seq int NOT NULL, chunk text NOT NULL, embedding vector(8) NOT NULL)",
        "INSERT INTO public.notes_embedding_store VALUES (%s, %s, %s, %s, %s)",
        lambda number, text, vector: (uuid_of(number), number, 0, text, vector),
        "pgai",
        lambda number: {"note_id": number, "chunk_seq": 0},
    ),
    "haystack": Table(
        "public.haystack_documents",
        "CREATE TABLE public.haystack_documents (id varchar(128) PRIMARY KEY, embedding vector(8), content text, "
        "blob_data bytea, blob_meta json, blob_mime_type varchar(255), meta jsonb)",
        "INSERT INTO public.haystack_documents (id, content, embedding, meta) VALUES (%s, %s, %s, %s)",
        lambda number, text, vector: (f"{number:064x}", text, vector, json.dumps({"page": number})),
        "haystack",
        lambda number: {"page": number, "blob_meta": None, "blob_mime_type": None},
    ),
}  # fmt: skip
"""By client, with the columns that its versions of 2026 make."""


def settings_with(settings: Settings, server: FakeEmbeddings, **changes: Any) -> Settings:
    """Settings of the planted model behind an API."""
    return load_settings(
        var_dir=settings.var_dir, database_url=settings.require_database_url(), model=MODEL,
        embed_base_url=server.base_url, **changes,
    )  # fmt: skip


def following(settings: Settings, source: str) -> Settings:
    """The settings that read a source, too."""
    return settings.model_copy(update={"sources": (source,)})


def vector_of(text: str) -> str:
    """The model's vector of a text, three times as long, as Postgres reads it."""
    return str((3 * planted([text])[0]).tolist())


def fill(conn: Connection, table: Table, texts: Sequence[str] = TEXTS) -> None:
    """Make a client's table with a row for each text."""
    conn.execute(table.ddl)
    for number, text in enumerate(texts, start=1):
        embedded = f"file: f{number}.md\n\n{text}" if table.preset == "llama-index" else text
        conn.execute(table.insert, table.row(number, text, vector_of(embedded)))


def adopt(settings: Settings, name: str, *columns: str, **options: Any) -> Adoption:
    """Adopt a table; columns are id, text, vector, metadata and updated_at, as far as named."""
    return adopt_table(settings, name, Columns(*columns), **options)


def step(settings: Settings, name: str, run_id: str) -> Manifest:
    return load_step(name).run(settings, Manifest(run_id=run_id))


def contents(conn: Connection, table: str) -> str:
    """A hash of a table's rows and of their places, so that even a rewritten row shows."""
    schema, _, name = table.partition(".")
    query = sql.SQL("SELECT md5(string_agg(ctid::text || xmin::text || t::text, ',' ORDER BY ctid)) FROM {} t")
    ((found,),) = conn.execute(query.format(sql.Identifier(schema, name.strip('"')))).fetchall()
    return str(found)


def documents(conn: Connection, source: str) -> dict[str, tuple[str, Any]]:
    """Text and metadata of the live documents of a source, by id."""
    rows = conn.execute(
        "SELECT external_id, body, metadata FROM heal.document WHERE source = %s AND deleted_at IS NULL", (source,)
    )
    return {key: (body, metadata) for key, body, metadata in rows}


def served(conn: Connection) -> dict[str, Any]:
    """The vector of every served row of the view for LangChain, by id."""
    rows = conn.execute("SELECT langchain_id, embedding FROM heal.served_as_langchain").fetchall()
    return {key: np.asarray(vector.to_numpy()) for key, vector in rows}
