"""What a rehearsal at scale loads by COPY: questions, and documents where the step ``ingest`` would take too long.

Of documents is stored what ``ingest`` stores, but the chunks end at every ninth sentence or so, without a tokenizer.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql

from bench.scale_corpus import CHUNKS_PER_DOCUMENT
from heal_tasks.core.ids import chunk_id, document_id, sha256_hex
from heal_tasks.core.settings import load_settings
from heal_tasks.core.text import title_line
from heal_tasks.questions.splits import is_unseen
from heal_tasks.store.db import connect
from heal_tasks.store.documents.source_files import FileState, SourceFiles
from heal_tasks.store.spaces.vector_tables import copy_rows

TRAIN_ONE_IN, HELD_OUT, QUESTION_WORDS = 50, 1000, 6
SPLITS = ("seen_validation", "unseen_validation", "seen_test", "unseen_test")
_DOCUMENT = ("source", "external_id", "path", "title", "body", "content_hash")
_CHUNK = [("chunk_id", "int8"), ("document_id", "int8"), ("ordinal", "int4"), ("heading", "text"), ("text", "text")]


def load_documents(given: dict[str, Any], workers: int) -> None:
    """Load all files of the inbox, each as one that was read."""
    settings = load_settings(**given)
    files = sorted((settings.var_dir / "inbox").iterdir())
    with connect(settings.require_database_url(), autocommit=True) as conn:
        (index,) = conn.execute("SELECT pg_get_indexdef('heal.chunk_words'::regclass)").fetchall()[0]
        conn.execute("DROP INDEX heal.chunk_words")
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_load, [given] * workers, [files[number::workers] for number in range(workers)]))
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute(index)
        conn.execute("VACUUM (ANALYZE) heal.document, heal.chunk")


def plant_questions(given: dict[str, Any], first: int) -> int:
    """Ask about chunks that have come since ``first`` documents were there, and return the number of questions."""
    rng, settings = np.random.default_rng(first), load_settings(**given)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        chunks = conn.execute(
            "SELECT c.chunk_id, c.document_id FROM heal.chunk c JOIN heal.document d USING (document_id) "
            "WHERE c.superseded_at IS NULL AND substr(d.external_id, 2)::int >= %s ORDER BY 1",
            (first,),
        ).fetchall()
        unseen = np.array([is_unseen(document) for _, document in chunks])
        seen, hidden = np.flatnonzero(~unseen), np.flatnonzero(unseen)
        asked = [(row, "train") for row in rng.choice(seen, len(chunks) // TRAIN_ONE_IN, replace=False)]
        for split in SPLITS if not first else ():
            asked += [(row, split) for row in rng.choice(hidden if split.startswith("unseen") else seen, HELD_OUT)]
        texts = dict(
            conn.execute(
                "SELECT c.chunk_id, c.text || ' ' || d.title FROM heal.chunk c "
                "JOIN heal.document d USING (document_id) WHERE c.chunk_id = ANY(%s)",
                ([chunks[row][0] for row, _ in asked],),
            ).fetchall()
        )
        columns = [("question_id", "int8"), ("chunk_id", "int8")]
        named = ("text", "answer", "evidence", "kind", "writer", "model", "prompt_hash", "split")

        def row_of(key: int, row: int, split: str) -> tuple[Any, ...]:
            chunk = chunks[row][0]
            words = texts[chunk].lower().replace(".", "").split()
            text = " ".join([*rng.choice(words[:-2], QUESTION_WORDS), *words[-2:]])
            return 1_000_000_000 * bool(first) + key, chunk, text, "", "", "question", "llm", "m", "p", split

        rows = (row_of(key, row, split) for key, (row, split) in enumerate(asked))
        copy_rows(
            conn,
            sql.Identifier("heal", "question"),
            [*columns, *((name, "text") for name in named)],
            rows,
        )
        conn.execute("ANALYZE heal.question")
    return len(asked)


def _load(given: dict[str, Any], files: list[Path]) -> None:
    settings = load_settings(**given)
    source = settings.inbox
    with connect(settings.require_database_url(), autocommit=True) as conn:
        for file in files:
            found = file.stat()
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            documents = {document_id(source, row["id"]): row for row in rows}
            with conn.transaction():
                copy_rows(
                    conn, sql.Identifier("heal", "document"),
                    [("document_id", "int8"), *((name, "text") for name in _DOCUMENT)],
                    (
                        (key, source, row["id"], file.name, row["title"], row["text"],
                         sha256_hex(row["title"], row["text"]))
                        for key, row in documents.items()
                    ),
                )  # fmt: skip
                chunks = (part for key, row in documents.items() for part in _chunks(key, row))
                copy_rows(conn, sql.Identifier("heal", "chunk"), [*_CHUNK, ("content_hash", "text")], chunks)
                state = FileState(file.name, f"{found.st_size}-{found.st_mtime_ns}", "read")
                SourceFiles(conn).record(source, [state])


def _chunks(document: int, row: dict[str, str]) -> Iterator[tuple[int, int, int, str, str, str]]:
    sentences = row["text"].split(". ")
    ends = [number * len(sentences) // CHUNKS_PER_DOCUMENT for number in range(CHUNKS_PER_DOCUMENT + 1)]
    for ordinal in range(CHUNKS_PER_DOCUMENT):
        text = ". ".join(sentences[ends[ordinal] : ends[ordinal + 1]]).rstrip(".") + "."
        hashed = sha256_hex(title_line(row["title"], ""), text)
        yield chunk_id(document, ordinal, hashed), document, ordinal, "", text, hashed
