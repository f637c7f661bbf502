"""The table that the demo of adoption adopts: a vector store of LangChain's, in a database of its own."""

import json
import uuid
from collections.abc import Sequence

import psycopg
from psycopg import sql

from heal_tasks.core.settings import Settings
from heal_tasks.local.inbox import DEMO_PACKAGES
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.arrays import Float32Array
from heal_tasks.store.db import connect
from heal_tasks.store.migrate import migrate

DATABASE = "heal_adopt"
TABLE = "public.langchain_docs"

# As PGEngine.init_vectorstore_table of langchain-postgres 0.0.19 makes it.
_DDL = """CREATE TABLE public.langchain_docs (
    langchain_id uuid PRIMARY KEY, content text NOT NULL, embedding vector(384) NOT NULL, langchain_metadata json)"""


def new_database(settings: Settings) -> str:
    """Start the embedded server, make the demo's database anew, and return its URL."""
    server = EmbeddedPostgres(settings.var_dir / "postgres")
    server.start()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
    url = server.ensure_database(DATABASE)
    with connect(url) as conn:
        migrate(conn)
    return url


def texts_to_store(settings: Settings) -> tuple[list[str], list[dict[str, object]]]:
    """Texts and metadata of the demo's documents, as an application would store them."""
    found = sample(DEMO_PACKAGES, settings.demo_documents, settings.seed)
    return [f"{item['title']}\n{item['text']}" for item in found], [item["metadata"] for item in found]


def fill_table(url: str, texts: Sequence[str], metadata: Sequence[dict[str, object]], vectors: Float32Array) -> None:
    """Make the table with a row for each text; vectors are float32, shape (n, 384)."""
    with connect(url) as conn, conn.cursor() as cursor:
        cursor.execute(_DDL)
        cursor.executemany(
            "INSERT INTO public.langchain_docs VALUES (%s, %s, %s, %s)",
            [
                (uuid.uuid5(uuid.NAMESPACE_OID, text), text, vector, json.dumps(item))
                for text, item, vector in zip(texts, metadata, vectors, strict=True)
            ],
        )
