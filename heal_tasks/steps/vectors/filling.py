"""Fills a space: the vectors of chunks and questions that it lacks, each text once.

Only missing vectors are computed and they are written in batches, so a killed task continues where it stopped.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.batches import batched
from heal_tasks.sources.chunking import embedding_text
from heal_tasks.steps.engine.runner import Context, Outcome
from heal_tasks.store.spaces.spaces import Space, SpaceRepository
from heal_tasks.training.encoder import Encoder, Role

WRITE_EVERY = 512

Write = Callable[[Space, NDArray[np.int64], NDArray[np.float32]], int]


def fill_spaces(context: Context, spaces: Sequence[Space], *, chunks_only: bool = False) -> Outcome:
    """Compute the vectors that spaces lack, of this shard's chunks and questions, and count them."""
    chunks, questions = np.sum([_fill(context, space, chunks_only) for space in spaces], axis=0).tolist()
    names = ", ".join(f"{space.space_id} ({space.model_uri})" for space in spaces)
    note = f"{chunks} chunk and {questions} question vectors computed, space {names}"
    return Outcome(counts={"chunks": chunks, "questions": questions}, note=note)


def _fill(context: Context, space: Space, chunks_only: bool) -> tuple[int, int]:
    repository = SpaceRepository(context.conn)
    chunks = [
        (chunk.chunk_id, embedding_text(chunk.title, chunk.text))
        for chunk in repository.missing_chunks(space, context.shard, context.shards)
    ]
    questions = [] if chunks_only else repository.missing_questions(space, context.shard, context.shards)
    total, done = len(chunks) + len(questions), 0
    if not total:
        return 0, 0
    encoder = load_encoder(context, space)
    work: list[tuple[Sequence[tuple[int, str]], Write, Role]] = [
        (chunks, repository.write_chunks, "document"),
        (questions, repository.write_questions, "query"),
    ]
    for items, write, role in work:
        # Sorted by length over all of them: batches pad little, and equal texts meet in one batch.
        for batch in batched(sorted(items, key=lambda item: (-len(item[1]), item[1])), WRITE_EVERY):
            ids, texts = zip(*batch, strict=True)
            write(space, np.array(ids, dtype=np.int64), encoder.encode(texts, role=role))
            done += len(batch)
            context.progress(done, total, f"space {space.space_id}")
    return len(chunks), len(questions)


def load_encoder(context: Context, space: Space) -> Encoder:
    """The encoder of a space; its threads are this shard's share of the cores."""
    path, threads = context.artifacts.model_path(space.model_uri), max(1, (os.cpu_count() or 1) // context.shards)
    return Encoder(path, device=context.settings.device, threads=threads, dtype="auto", sha256=space.model_sha256)
