"""Steps embed_base, embed, embed_new: vectors of chunks and questions, each text and model once.

Every step writes only what its generation's tables lack, in batches, so a killed task goes on where it
stopped, and vectors that another generation of the same model has are copied instead of computed.
"""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.batches import batched
from heal_tasks.core.errors import StepError
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.vectors.spaces import baseline, candidates
from heal_tasks.store.generations.generation import Generation
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.generations.vectors import VectorRepository
from heal_tasks.training.encoder import Encoder, Role

WRITE_EVERY = 512

Write = Callable[[Generation, NDArray[np.int64], NDArray[np.float32]], int]


def fill(context: Context, generation: Generation) -> dict[str, int]:
    """Compute the vectors that a generation lacks, of this shard's chunks and questions.

    Args:
        context: of the step.
        generation: whose model and tables.

    Returns:
        How many chunk and question vectors were computed.
    """
    vectors = VectorRepository(context.conn)
    chunks = [
        (chunk.chunk_id, embedding_text(chunk.title, chunk.text))
        for chunk in vectors.missing_base(generation, context.shard, context.shards)
    ]
    questions = vectors.missing_questions(generation, context.shard, context.shards)
    total, done = len(chunks) + len(questions), 0
    if not total:
        return {"chunks": 0, "questions": 0}
    encoder = load_encoder(context, generation.model_uri)

    def encode_all(items: list[tuple[int, str]], write: Write, role: Role) -> None:
        nonlocal done
        # By length over all of them, so that batches pad little and equal texts meet.
        for batch in batched(sorted(items, key=lambda item: (-len(item[1]), item[1])), WRITE_EVERY):
            ids, texts = zip(*batch, strict=True)
            write(generation, np.array(ids, dtype=np.int64), encoder.encode(texts, role=role))
            done += len(batch)
            context.progress(done, total, f"generation {generation.generation_id}")

    encode_all(chunks, vectors.write_base, "document")
    encode_all(questions, vectors.write_questions, "query")
    return {"chunks": len(chunks), "questions": len(questions)}


def load_encoder(context: Context, model_uri: str) -> Encoder:
    """The encoder of a generation; its threads are this shard's share of the cores."""
    settings = context.settings
    threads = max(1, (os.cpu_count() or 1) // context.shards)
    return Encoder(
        context.artifacts.model_path(model_uri),
        device=settings.device,
        batch_size=settings.encode_batch_size,
        threads=threads,
        dtype=settings.encode_dtype,
    )


def embed_base(context: Context) -> Outcome:
    """Vectors of the base model, which mining and the comparison stand on."""
    return _fill_all(context, [baseline(context)])


def embed(context: Context) -> Outcome:
    """Vectors of this run's candidates: the live model's generation, and the trained model's."""
    return _fill_all(context, candidates(context))


def embed_new(context: Context) -> Outcome:
    """Vectors of what the active generation lacks, with its own model; not served until they are published."""
    active = GenerationRepository(context.conn).active()
    if active is None:
        raise StepError("no generation is active, so there is no model to embed with; take the realign route")
    return _fill_all(context, [active])


def _fill_all(context: Context, generations: list[Generation]) -> Outcome:
    counts: dict[str, int | float] = {"chunks": 0, "questions": 0}
    for generation in generations:
        for name, value in fill(context, generation).items():
            counts[name] += value
    names = ", ".join(f"{item.generation_id} ({item.kind})" for item in generations)
    return Outcome(
        counts=counts, note=f"{counts['chunks']} chunk and {counts['questions']} question vectors, generation {names}"
    )


EMBED_BASE = Step("embed_base", embed_base, None)
EMBED = Step("embed", embed, None)
EMBED_NEW = Step("embed_new", embed_new, None)
