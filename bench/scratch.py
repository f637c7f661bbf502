"""A scratch store for benches: a server of its own, documents, and generations that serve given vectors."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.lexicon.lexicon import fit_lexicon
from heal_tasks.lexicon.record import RIDGE, LexiconRecord
from heal_tasks.lexicon.terms import count_stems
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.lexicon import LexiconRepository, StemDictionary, StoredLexicon
from heal_tasks.store.generations.served import Served, ServedRepository
from heal_tasks.store.migrate import migrate
from heal_tasks.store.spaces.spaces import SpaceRepository
from heal_tasks.store.spaces.vector_tables import copy_rows, copy_vectors

Vectors = NDArray[np.float32]
_BLOCK_ROWS = 16_384


@contextmanager
def scratch_store() -> Iterator[str]:
    """URL of an empty, migrated database on a server that is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="heal-bench-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "data")
    try:
        url = server.start()
        with connect(url) as conn:
            migrate(conn)
        yield url
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def backend_cpu_s(conn: Connection) -> float:
    """CPU seconds that a connection's server process has used. Linux only, and for a server on this machine.

    The difference of two calls is the cost of the work between them, also on a busy machine.
    """
    return _cpu_s(conn.info.backend_pid)


def server_cpu_s(conn: Connection) -> float:
    """As ``backend_cpu_s``, of all processes of the server, including parallel workers that have ended."""
    postmaster = psutil.Process(conn.info.backend_pid).parent()
    assert postmaster is not None
    ended = postmaster.cpu_times()
    used = ended.children_user + ended.children_system
    for child in postmaster.children():
        with suppress(FileNotFoundError):  # it ended this moment
            used += _cpu_s(child.pid)
    return used


def _cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def clustered(rows: int, dims: int = 384, clusters: int = 200, noise: float = 0.5, seed: int = 0) -> Vectors:
    """Unit vectors in clusters, noise relative to the distance between centres; float32, shape (rows, dims)."""
    return planted(rows, dims, clusters, noise, seed)[0]


def planted(
    rows: int, dims: int = 384, clusters: int = 200, noise: float = 0.5, seed: int = 0
) -> tuple[Vectors, NDArray[np.int32]]:
    """As ``clustered``, and the number of each row's cluster, int32, shape (rows,)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dims)).astype(np.float32)
    owners = rng.integers(0, clusters, rows).astype(np.int32)
    vectors = centres[owners]
    for start in range(0, rows, _BLOCK_ROWS):  # in blocks, because a million rows of 64-bit noise have 3 GB
        block = vectors[start : start + _BLOCK_ROWS]
        block += noise * rng.normal(size=block.shape).astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors, owners


def store_documents(conn: Connection, texts: Sequence[str], first: int = 0) -> None:
    """One document and chunk per text, numbered from ``first``."""
    document = ["source", "external_id", "path", "title", "body", "content_hash"]
    chunk = [("chunk_id", "int8"), ("document_id", "int8"), ("ordinal", "int4"), ("text", "text")]
    copy_rows(
        conn,
        sql.Identifier("heal", "document"),
        [("document_id", "int8"), *[(name, "text") for name in document]],
        ((number, "b", str(number), "", "", text, str(number)) for number, text in enumerate(texts, first)),
    )
    copy_rows(
        conn,
        sql.Identifier("heal", "chunk"),
        [*chunk, ("content_hash", "text")],
        ((number, number, 0, text, str(number)) for number, text in enumerate(texts, first)),
    )
    conn.execute("VACUUM (ANALYZE) heal.document, heal.chunk")


def new_generation(conn: Connection, dims: int, topic_run_id: int | None = None) -> Generation:
    """An empty generation of a new space."""
    generations, spaces = GenerationRepository(conn), SpaceRepository(conn)
    space = spaces.ensure("bench", f"bench {len(spaces.list())}", dims)
    made = generations.create(run_id="bench", space=space, topic_run_id=topic_run_id)
    generations.create_tables(made)
    return made


def load(conn: Connection, vectors: Vectors, questions: Vectors) -> Generation:
    """A generation that serves these vectors, one per chunk; not indexed yet."""
    made = new_generation(conn, vectors.shape[1])
    ids = np.arange(len(vectors), dtype=np.int64)
    leaves = np.zeros(len(vectors), dtype=np.int32)
    ServedRepository(conn).write_served(made, Served(ids, ids, leaves, vectors))
    # Straight into the table, because there are no questions with these ids.
    table = SpaceRepository(conn).get(made.space_id).table("question")
    copy_vectors(conn, table, {"question_id": np.arange(len(questions), dtype=np.int64)}, questions)
    return made


def write_lexicon(conn: Connection, generation: Generation, vectors: Vectors) -> None:
    """Fit the lexicon of a generation made by ``load`` to its vectors, and write it with the default weights."""
    repository, dictionary, ids = LexiconRepository(conn), StemDictionary(), np.arange(len(vectors), dtype=np.int64)
    found = repository.chunk_stems(dictionary, ids)
    counts = count_stems(found.texts, found.stems, found.counts, (len(vectors), len(dictionary)))
    lexicon = fit_lexicon(counts, vectors, ridge=RIDGE)
    stored = StoredLexicon(dictionary.stems, lexicon.chunks, lexicon.weights, lexicon.vectors)
    repository.write(generation, stored, ids)
    GenerationRepository(conn).set_fields(generation.generation_id, lexicon=LexiconRecord().to_json())


def activate(conn: Connection, generation: Generation) -> None:
    """Make a generation searchable."""
    generations = GenerationRepository(conn)
    generations.set_state(generation.generation_id, "ready")
    generations.activate(generation.generation_id, lock_timeout_ms=1000)
