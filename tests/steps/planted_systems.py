"""Three spaces of a corpus: the base model finds the chunk of no question, the live one of half, the trained of all."""

from collections.abc import Collection

import numpy as np

from heal_tasks.core.ids import question_id
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Question
from heal_tasks.lexicon.record import LexiconRecord
from heal_tasks.steps.vectors.spaces import served
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.documents.corpus import Corpus
from heal_tasks.store.generations.generations import Generation, GenerationRepository
from heal_tasks.store.generations.indexing import build_indexes
from heal_tasks.store.generations.served import ServedRepository
from heal_tasks.store.questions.questions import Asked, QuestionRepository
from heal_tasks.store.spaces.spaces import Space, SpaceRepository
from heal_tasks.training.encoder import model_sha256
from tests.steps.asking import add, body

DOCUMENTS = 12
TRAINED_URI = "models/trained"


def plant_questions(conn: Connection) -> None:
    """Documents, a held-out question for each, and topic run 1, which labels none of them."""
    add(conn, range(DOCUMENTS))
    conn.execute(
        "INSERT INTO heal.topic_run (fingerprint, uri, documents, topics, leaves, depth, mean_residual) "
        "VALUES ('f', 'u', 1, 1, 1, 1, 0)"
    )
    for chunk in live_chunks(conn):
        name = int(chunk.title.split()[1])
        text, sentence = f"What does chamber number{name} hold?", body(name).split(".")[0] + "."
        made = Question(
            question_id(chunk.chunk_id, "llm", text), chunk.chunk_id, text, sentence, sentence, "question", "llm", "m",
            "p", "unseen_test",
        )  # fmt: skip
        QuestionRepository(conn).store("r0", [Asked(chunk.chunk_id, chunk.content_hash, "p", "m", [made], 0)], [])


def plant_space(conn: Connection, model_uri: str, sha256: str, dims: int, wrong: Collection[int]) -> Space:
    """Chunks along the axes; a question lies on its chunk's axis, or, for a row in ``wrong``, on three others."""
    spaces, corpus = SpaceRepository(conn), Corpus(conn)
    space = spaces.ensure(model_uri, sha256, dims)
    chunks, questions = corpus.chunks(None), corpus.questions()
    axes = np.eye(DOCUMENTS, dims, dtype=np.float32)
    spaces.write_chunks(space, chunks.chunk_ids, axes)
    asked = np.stack(
        [
            axes[row] if row not in wrong else sum(axes[(row + 1 + n) % 12] * 2.0**-n for n in range(3))
            for row in chunks.rows(questions.chunk_ids)
        ]
    )
    unit = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    spaces.write_questions(space, questions.question_ids, unit.astype(np.float32))
    return space


def plant_systems(conn: Connection, settings: Settings) -> Generation:
    """The three spaces, the live one served; returns its generation."""
    plant_questions(conn)
    sha256, dims = model_sha256(resolve_model(settings.model)), 384
    plant_space(conn, settings.model, sha256, dims, range(DOCUMENTS))
    live = serve(conn, plant_space(conn, "models/live", "live", dims, range(DOCUMENTS // 2)))
    plant_space(conn, TRAINED_URI, "trained", dims, ())
    return live


def serve(conn: Connection, space: Space, run_id: str = "r0") -> Generation:
    """A live generation with the vectors of a space, and a lexicon without stems."""
    generations = GenerationRepository(conn)
    made = generations.create(run_id=run_id, space=space, lexicon=LexiconRecord(lexicon_weight=0).to_json())
    generations.create_tables(made)
    _, vectors = SpaceRepository(conn).load_chunks(space)
    ServedRepository(conn).write_served(made, served(Corpus(conn).chunks(None), vectors))
    build_indexes(conn, made, memory_mb=64, parallel=0)
    generations.set_state(made.generation_id, "ready")
    generations.activate(made.generation_id)
    return generations.get(made.generation_id)
