"""The table that the demo of adoption adopts: a vector store of LangChain's, in a database of its own."""

import json
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from heal_tasks.core.settings import Settings
from heal_tasks.local.databases import DEMO, Say
from heal_tasks.local.inbox import DEMO_PACKAGES
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.sources.samples import sample
from heal_tasks.store.arrays import Float32Array
from heal_tasks.store.db import connect
from heal_tasks.store.migrate import migrate

TABLE = "public.langchain_docs"

MIN_CHARS, MAX_CHARS = 100, 500
"""Of a stored text: shorter ones say too little, and 1,500 of 500 characters embed in half a minute on one core."""
_SAMPLED = 1.5
"""Documents to read for each that is stored: of five, one has no summary, or too little text below it."""

# As PGEngine.init_vectorstore_table of langchain-postgres 0.0.19 makes it.
_DDL = """CREATE TABLE public.langchain_docs (
    langchain_id uuid PRIMARY KEY, content text NOT NULL, embedding vector(384) NOT NULL, langchain_metadata json)"""


class Row(NamedTuple):
    """A row of the table, without its vector, and the questions that it answers."""

    key: str
    text: str
    metadata: dict[str, Any]
    questions: tuple[str, ...]


def new_database(server: EmbeddedPostgres, say: Say) -> str:
    """Make the demo's database anew on the running server, and return its URL; say if there was one."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        if conn.execute("SELECT FROM pg_database WHERE datname = %s", (DEMO,)).rowcount:
            say(f"database {DEMO} of an earlier demo is dropped, with all that is in it, and made again")
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DEMO)))
    url = server.ensure_database(DEMO)
    with connect(url) as conn:
        migrate(conn)
    return url


def rows_to_store(settings: Settings) -> list[Row]:
    """The demo's documents without their names and summaries, which are the questions instead.

    A text is what a docstring says below its first paragraph. Four questions ask for it: the first sentence, and the
    name in three forms. Those that another row is asked for by, too, are left out.
    """
    found: dict[str, Row] = {}
    for item in sample(DEMO_PACKAGES, round(_SAMPLED * settings.demo_documents), settings.seed):
        row = _row(item)
        if row is not None and len(found) < settings.demo_documents:
            found.setdefault(row.key, row)
    asked = Counter(question for row in found.values() for question in row.questions)
    return [
        row._replace(questions=tuple(question for question in row.questions if asked[question] == 1))
        for row in found.values()
    ]


def _row(item: dict[str, Any]) -> Row | None:
    """The row of a document; None if it has no summary, or too little text below it."""
    first, _, rest = item["text"].partition("\n\n")
    summary = re.match(r"[A-Z].{15,200}?\.(?= |$)", " ".join(first.split()))
    text = _cut(rest.strip())
    if summary is None or len(text) < MIN_CHARS:
        return None
    package, *above, name = item["title"].partition("(")[0].split(".")
    name, short = _words(name), _words(*above[-1:], name)
    whole = " ".join(filter(None, (package, _words(*above), name)))
    questions = (summary.group(), whole, short, f"{name} in {package}")
    return Row(str(uuid.uuid5(uuid.NAMESPACE_OID, text)), text, item["metadata"], questions)


def _cut(text: str) -> str:
    """The whole lines of a text that fit into ``MAX_CHARS``."""
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS].rpartition("\n")[0].rstrip()


def _words(*names: str) -> str:
    """Names as lower-case words, each once: ``SGDClassifier.partial_fit`` is ``sgdclassifier partial fit``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", " ".join(names))
    return " ".join(dict.fromkeys(spaced.lower().split()))


def fill_table(url: str, rows: Sequence[Row], vectors: Float32Array) -> None:
    """Make the table with these rows; vectors are float32, shape (n, 384)."""
    with connect(url) as conn, conn.cursor() as cursor:
        cursor.execute(_DDL)
        cursor.executemany(
            "INSERT INTO public.langchain_docs VALUES (%s, %s, %s, %s)",
            [(row.key, row.text, vector, json.dumps(row.metadata)) for row, vector in zip(rows, vectors, strict=True)],
        )
