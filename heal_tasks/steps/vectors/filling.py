"""Fills a space: the vectors of chunks and questions that it lacks, each text once.

Only missing vectors are computed and they are written in batches, so a killed task continues where it stopped.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from heal_tasks.core.batches import batched
from heal_tasks.core.errors import InputError, StepError
from heal_tasks.core.models import Role, api_model
from heal_tasks.endpoint.calls import Call
from heal_tasks.steps.engine.runner import Context, Outcome
from heal_tasks.steps.vectors.adopted import take_vectors, texts_to_embed
from heal_tasks.steps.vectors.embedding_batches import EmbeddingBatches
from heal_tasks.steps.vectors.embedding_costs import ledger_row, most_usd, refuse_over_limit
from heal_tasks.steps.vectors.encoders import TextEncoder, api_prompt, check_unchanged, open_encoder
from heal_tasks.steps.writing.llm_calls import spend_limit_of
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.llm.ledger import embedded_by, settle
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

WRITE_EVERY = 512

Write = Callable[[Space, NDArray[np.int64], NDArray[np.float32]], int]


def fill_spaces(context: Context, spaces: Sequence[Space], *, chunks_only: bool = False) -> Outcome:
    """Compute the vectors that spaces lack, of this shard's chunks and questions, and count them.

    Vectors that an adopted table has are taken from there.

    Raises:
        StepError: a spend limit leaves no room for texts to send to an API, or its model has changed.
        Waiting: texts are in a batch at an API.
    """
    filled = list[tuple[int, int, int]]()
    for space in spaces:
        with _naming_live_model(context, space):
            taken = take_vectors(context, space, partial(load_encoder, context, space))
            filled.append((taken, *_fill(context, space, chunks_only)))
    taken, chunks, questions = np.sum(filled, axis=0).tolist()
    names = ", ".join(f"{space.space_id} ({space.model_uri})" for space in spaces)
    note = f"{chunks} chunk and {questions} question vectors computed, space {names}"
    counts: dict[str, int | float] = {"chunks": chunks, "questions": questions}
    if taken:
        note, counts = f"{note}; {taken} chunk vectors taken from adopted tables", {**counts, "taken": taken}
    return Outcome(counts=counts, note=note)


@contextmanager
def _naming_live_model(context: Context, space: Space) -> Iterator[None]:
    """Add to an error that it is about the live generation's model, where HEAL_MODEL names another one."""
    try:
        yield
    except (InputError, StepError) as error:
        active = GenerationRepository(context.conn).active()
        if space.model_uri == context.settings.model_uri or not active or active.space_id != space.space_id:
            raise
        raise StepError(
            f"generation {active.generation_id}, which is live, needs its own model, {space.model_uri}: {error}. If "
            "that model is gone for good, docs/models.md says how to go on without it (Change of model)"
        ) from error


def _fill(context: Context, space: Space, chunks_only: bool) -> tuple[int, int]:
    repository = SpaceRepository(context.conn)
    batches = EmbeddingBatches(context, space) if api_model(space.model_uri) else None
    if batches:
        batches.collect()
    chunks = repository.missing_ids(space, context.shard, context.shards).tolist()
    questions = [] if chunks_only else repository.missing_questions(space, context.shard, context.shards)
    total, done = len(chunks) + len(questions), 0
    collected = batches.stored if batches else Counter[str]()
    if not total:
        return collected["chunks"], collected["questions"]
    encoder = load_encoder(context, space)
    if batches:
        if not embedded_by(context.conn, context.run_id, space.model_sha256):
            check_unchanged(context.conn, space, encoder)
        before_chunk, before_question = api_prompt(space, "document"), api_prompt(space, "query")
        batches.submit_or_wait(
            [
                *(before_chunk + text for _, text in _texts(context, chunks)),
                *(before_question + text for _, text in questions),
            ]
        )
    limit = spend_limit_of(context)
    # Sorted by length over all of them: batches pad little, and equal texts meet in one batch.
    by_length = sorted(questions, key=_longest_first)
    work: list[tuple[Iterable[Sequence[tuple[int, str]]], Write, Role]] = [
        ((_texts(context, part) for part in batched(chunks, WRITE_EVERY)), repository.write_chunks, "document"),
        (batched(by_length, WRITE_EVERY), repository.write_questions, "query"),
    ]
    for parts, write, role in work:
        for batch in filter(None, parts):
            ids, texts = zip(*batch, strict=True)
            if batches:
                usd = sum(most_usd(context.settings, api_prompt(space, role) + text) for text in texts)
                refuse_over_limit(limit, texts, usd, total - done)
            write(space, np.array(ids, dtype=np.int64), encoder.encode(texts, role=role))
            done += len(batch)
            context.progress(done, total, f"space {space.space_id}")
    return len(chunks) + collected["chunks"], len(questions) + collected["questions"]


def _texts(context: Context, chunk_ids: Sequence[int]) -> list[tuple[int, str]]:
    """Ids and texts to embed of those of some chunks that are still live, the longest first."""
    live = live_chunks(context.conn, sql.SQL("c.chunk_id = ANY(%s)"), (list(chunk_ids),))
    return sorted(texts_to_embed(context.conn, [*live]), key=_longest_first)


def _longest_first(item: tuple[int, str]) -> tuple[int, str]:
    return -len(item[1]), item[1]


def load_encoder(context: Context, space: Space) -> TextEncoder:
    """The encoder of a space; its threads are this shard's share of the cores. Calls to an API go into the ledger."""
    threads = max(1, (os.cpu_count() or 1) // context.shards)

    def book(calls: Sequence[Call]) -> None:
        rows = [ledger_row(context.settings, space, call) for call in calls]
        with context.conn.transaction(), context.conn.cursor() as cursor:
            settle(cursor, context.run_id, rows, ())

    return open_encoder(
        context.settings, context.artifacts, space.model_uri, space.model_sha256,
        threads=threads, dtype="auto", length=space.dims, book=book,
    )  # fmt: skip
