"""A store with one document that contains a word of its own, and generations over it."""

import numpy as np

from heal_tasks.core.ids import document_id, question_id
from heal_tasks.core.types import Question, Record
from heal_tasks.steps.vectors.spaces import served
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.llm.ledger import LlmCall
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

SECRET, DIMS = "xylophonist", 8
DOCUMENT = document_id("s", "secret")


def vectors_of(count: int, seed: int, dims: int = DIMS) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def fill(conn: Connection, documents: int = 60) -> None:
    """Documents, one of them secret, and a question, a refused question and a reply for each chunk."""
    records = [Record(f"d{number}", f"Title {number}", f"The plain body {number}.") for number in range(documents)]
    records.append(Record("secret", f"Of a {SECRET}", f"Here plays a {SECRET}.", {"who": SECRET, SECRET: [SECRET]}))
    DocumentRepository(conn).apply_records("s", records, lambda title, body: [("", body)])
    conn.execute(
        "INSERT INTO heal.llm_batch (batch_key, run_id, shard, endpoint, model, prompt_hash, texts) "
        "VALUES ('b', 'r', 0, 'e', 'm', 'p', 1)"
    )
    asked, calls, rows = list[Asked](), list[LlmCall](), list[dict[str, object]]()
    for chunk in live_chunks(conn):
        word = SECRET if chunk.document_id == DOCUMENT else "body"
        text = f"Where is the {word}?"
        key = question_id(chunk.chunk_id, "llm", text)
        made = Question(key, chunk.chunk_id, text, word, word, "question", "llm", "m", "p", "train")
        asked.append(Asked(chunk.chunk_id, chunk.content_hash, "p", "m", [made], 0))
        calls.append(
            LlmCall("ask", "m", "p", chunk.content_hash, chunk.chunk_id, "ok", 1, 1, 0.0, 0.1, f"reply {word}")
        )
        rows.append({"chunk": chunk.chunk_id, "hash": chunk.content_hash, "word": word})
    QuestionRepository(conn).store("r", asked, calls)
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO heal.entity_map VALUES "
            "(%(chunk)s, 'h', 'p', 'm', 'ok', jsonb_build_object('entities', %(word)s::text), 0, 1, 1)",
            rows,
        )
        cursor.executemany(
            "INSERT INTO heal.answer VALUES (%(hash)s, 'p', 'm', ARRAY[%(chunk)s::bigint], 'ok', %(word)s, %(word)s)",
            rows,
        )
        cursor.executemany(
            "INSERT INTO heal.llm_batch_row VALUES "
            "('b', %(hash)s, %(chunk)s, 'e', 'm', 'p', 'invalid', 'not to be read: ' || %(word)s::text)",
            rows,
        )
        cursor.executemany(
            "INSERT INTO heal.question_dropped "
            "(chunk_id, run_id, shard, text, answer, evidence, kind, writer, reason) "
            "SELECT %(chunk)s, 'r', 0, word, word, word, 'question', 'llm', 'short' "
            "FROM (SELECT 'dropped ' || %(word)s::text) AS w (word)",
            rows,
        )


def build(conn: Connection, model_uri: str, seed: int, run_id: str = "r", dims: int = DIMS) -> Generation:
    """A generation of a model's space, with vectors of chunks and questions; without tables, building."""
    spaces = SpaceRepository(conn)
    space = spaces.ensure(model_uri, model_uri, dims)
    chunks = Corpus(conn).chunks(None)
    spaces.write_chunks(space, chunks.chunk_ids, vectors_of(len(chunks.chunk_ids), seed, dims))
    asked = np.array([key for key, _ in spaces.missing_questions(space)], dtype=np.int64)
    spaces.write_questions(space, asked, vectors_of(len(asked), seed + 100, dims))
    return GenerationRepository(conn).create(run_id=run_id, space=space)


def publish(conn: Connection, model_uri: str, seed: int, run_id: str = "r") -> Generation:
    """As ``build``, then written, indexed and activated."""
    generations, made = GenerationRepository(conn), build(conn, model_uri, seed, run_id)
    generations.create_tables(made)
    chunks = Corpus(conn).chunks(None)
    _, vectors = SpaceRepository(conn).load_chunks(SpaceRepository(conn).get(made.space_id))
    ServedRepository(conn).write_served(made, served(chunks, vectors))
    build_indexes(conn, made, memory_mb=64, parallel=0)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id, lock_timeout_ms=500)
    return generations.get(made.generation_id)


def spoil_index(conn: Connection, generation: Generation) -> None:
    """Give a generation an index with hardly an edge, and few candidates."""
    name = f"vec_g{generation.generation_id:06d}"
    conn.execute(f"DROP INDEX heal.{name}_hnsw")  # type: ignore[arg-type]
    conn.execute(
        f"CREATE INDEX {name}_hnsw ON heal.{name} USING hnsw (embedding vector_cosine_ops) "  # type: ignore[arg-type]
        "WITH (m = 2, ef_construction = 4)"
    )
    GenerationRepository(conn).set_fields(generation.generation_id, ef_search=10)


def hopeless_index(conn: Connection) -> None:
    """Let every measurement say that the index finds two of five, whatever ef_search."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION heal.recall_against(gen bigint, exact float8[], k int DEFAULT 10) "
        "RETURNS double precision LANGUAGE sql AS 'SELECT 0.4::float8'"
    )
