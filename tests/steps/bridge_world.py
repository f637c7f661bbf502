"""Documents with planted vectors, and encoders whose spaces are known functions of them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import question_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question, Record, Split
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.spaces import SpaceRepository

Vectors = NDArray[np.float32]
DOCUMENTS, LATENT = 160, 12


def unit(rows: NDArray[np.floating]) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def latent(texts: list[str], noise: float = 0.25) -> NDArray[np.float64]:
    """A vector for each text: that of the document whose number it ends with; a question is a little beside it."""
    rows = []
    for text in texts:
        about = np.random.default_rng(int(text.split()[-1])).normal(size=LATENT)
        beside = np.random.default_rng(list(text.encode())).normal(size=LATENT)
        rows.append(about + noise * beside * text.startswith("Where"))
    return np.array(rows)


def encoder(name: str, dims: int) -> Callable[[list[str]], Vectors]:
    """An encoder whose space is a linear map of the planted vectors with a shift, bent a little."""
    rng = np.random.default_rng(list(name.encode()))
    weights, shift = rng.normal(size=(LATENT, dims)), rng.normal(size=dims) / 2
    return lambda texts: unit(np.tanh(0.3 * (latent(texts) @ weights + shift)))


def strange(name: str, dims: int) -> Callable[[list[str]], Vectors]:
    """An encoder whose space has nothing to do with the others: a random place for each document."""

    def encode(texts: list[str]) -> Vectors:
        rows = [np.random.default_rng([*name.encode(), int(text.split()[-1])]).normal(size=dims) for text in texts]
        return unit(np.array(rows))

    return encode


def fill(conn: Connection) -> None:
    """Documents, and for each one question that moves rows and one that is held out."""
    records = [Record(f"d{number}", "T", f"Of {number}") for number in range(DOCUMENTS)]
    DocumentRepository(conn).apply_records("s", records, lambda title, body: [("", body)])
    asked = list[Asked]()
    for chunk in live_chunks(conn):
        made = list[Question]()
        splits: tuple[Split, ...] = ("train", "seen_test")
        for split in splits:
            text = f"Where in {split} is {chunk.text.split()[-1]}"
            key = question_id(chunk.chunk_id, "llm", text)
            made.append(Question(key, chunk.chunk_id, text, "a", "e", "question", "llm", "m", "p", split))
        asked.append(Asked(chunk.chunk_id, chunk.content_hash, "p", "m", made, 0))
    QuestionRepository(conn).store("r", asked, [])


def embed(conn: Connection, name: str, dims: int, encode: Callable[[list[str]], Vectors]) -> Generation:
    """A generation, building, of an encoder's space, with vectors of all chunks and questions."""
    spaces = SpaceRepository(conn)
    space = spaces.ensure(name, name, dims)
    if chunks := spaces.missing_chunks(space):
        ids = np.array([chunk.chunk_id for chunk in chunks])
        spaces.write_chunks(space, ids, encode([chunk.text for chunk in chunks]))
    if questions := spaces.missing_questions(space):
        ids = np.array([key for key, _ in questions])
        spaces.write_questions(space, ids, encode([text for _, text in questions]))
    return GenerationRepository(conn).create(run_id=f"r{len(GenerationRepository(conn).list())}", space=space)


def publish(conn: Connection, settings: Settings, made: Generation) -> Manifest:
    """The step, with a generation that was chosen over the live one."""
    live = GenerationRepository(conn).active()
    refs: dict[str, int | str] = {
        "generation_id": made.generation_id, "keep_rows": 0, "verdict": "promoted",
        "live_id": live.generation_id if live else 0,
    }  # fmt: skip
    return load_step("publish").run(settings, Manifest(run_id=made.run_id, refs=refs))
