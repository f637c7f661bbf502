"""Fills a space: the vectors of chunks and questions that it lacks, each text once.

Only missing vectors are computed and they are written in batches, so a killed task continues where it stopped.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.batches import batched
from heal_tasks.core.errors import StepError
from heal_tasks.core.models import api_model
from heal_tasks.endpoint.calls import Call, guess_tokens
from heal_tasks.steps.engine.runner import Context, Outcome
from heal_tasks.steps.vectors.adopted import take_vectors, texts_to_embed
from heal_tasks.steps.vectors.encoders import TextEncoder, check_unchanged, open_encoder
from heal_tasks.steps.writing.llm_calls import embedding_cost_usd, spend_limit_of
from heal_tasks.store.llm.ledger import EMBEDDINGS, LlmCall, embedded_by, settle
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

if TYPE_CHECKING:
    from heal_tasks.training.encoder import Role

WRITE_EVERY = 512

Write = Callable[[Space, NDArray[np.int64], NDArray[np.float32]], int]


def fill_spaces(context: Context, spaces: Sequence[Space], *, chunks_only: bool = False) -> Outcome:
    """Compute the vectors that spaces lack, of this shard's chunks and questions, and count them.

    Vectors that an adopted table has are taken from there.

    Raises:
        StepError: a spend limit leaves no room for texts to send to an API, or its model has changed.
    """
    filled = [
        (take_vectors(context, space, partial(load_encoder, context, space)), *_fill(context, space, chunks_only))
        for space in spaces
    ]
    taken, chunks, questions = np.sum(filled, axis=0).tolist()
    names = ", ".join(f"{space.space_id} ({space.model_uri})" for space in spaces)
    note = f"{chunks} chunk and {questions} question vectors computed, space {names}"
    counts: dict[str, int | float] = {"chunks": chunks, "questions": questions}
    if taken:
        note, counts = f"{note}; {taken} chunk vectors taken from adopted tables", {**counts, "taken": taken}
    return Outcome(counts=counts, note=note)


def _fill(context: Context, space: Space, chunks_only: bool) -> tuple[int, int]:
    repository = SpaceRepository(context.conn)
    chunks = texts_to_embed(context.conn, repository.missing_chunks(space, context.shard, context.shards))
    questions = [] if chunks_only else repository.missing_questions(space, context.shard, context.shards)
    total, done = len(chunks) + len(questions), 0
    if not total:
        return 0, 0
    encoder = load_encoder(context, space)
    if api_model(space.model_uri) and not embedded_by(context.conn, context.run_id, space.model_sha256):
        check_unchanged(context.conn, space, encoder)
    work: list[tuple[Sequence[tuple[int, str]], Write, Role]] = [
        (chunks, repository.write_chunks, "document"),
        (questions, repository.write_questions, "query"),
    ]
    for items, write, role in work:
        # Sorted by length over all of them: batches pad little, and equal texts meet in one batch.
        for batch in batched(sorted(items, key=lambda item: (-len(item[1]), item[1])), WRITE_EVERY):
            ids, texts = zip(*batch, strict=True)
            if api_model(space.model_uri):
                _refuse_over_limit(context, texts, total - done)
            write(space, np.array(ids, dtype=np.int64), encoder.encode(texts, role=role))
            done += len(batch)
            context.progress(done, total, f"space {space.space_id}")
    return len(chunks), len(questions)


def load_encoder(context: Context, space: Space) -> TextEncoder:
    """The encoder of a space; its threads are this shard's share of the cores. Calls to an API go into the ledger."""
    threads = max(1, (os.cpu_count() or 1) // context.shards)

    def book(calls: Sequence[Call]) -> None:
        rows = [_ledger_row(context, space, call) for call in calls]
        with context.conn.transaction(), context.conn.cursor() as cursor:
            settle(cursor, context.run_id, rows, ())

    return open_encoder(
        context.settings, context.artifacts, space.model_uri, space.model_sha256,
        threads=threads, dtype="auto", book=book,
    )  # fmt: skip


def _ledger_row(context: Context, space: Space, call: Call) -> LlmCall:
    cost = embedding_cost_usd(context.settings, call.booked_tokens[0])
    return LlmCall(
        EMBEDDINGS, space.model_uri, space.model_sha256, "", None, call.status, *call.booked_tokens, cost,
        call.latency_s, call.raw_reply, guessed=call.guessed,
    )  # fmt: skip


def _refuse_over_limit(context: Context, texts: Sequence[str], left: int) -> None:
    """Raise StepError where the spend limits may not allow for these texts, of ``left`` that have no vector yet."""
    limit = spend_limit_of(context)
    if not limit.limited:
        return
    most_usd = embedding_cost_usd(context.settings, sum(guess_tokens(len(text.encode())) for text in texts))
    if most_usd > (left_usd := limit.left_usd(limit.spending())):
        raise StepError(
            f"the spend limit is reached: {left} texts have no vector yet, the next {len(texts)} of them may cost "
            f"{most_usd:.4f} USD, and {max(left_usd, 0.0):.4f} USD are left. Raise HEAL_LLM_RUN_SPEND_LIMIT_USD or "
            "HEAL_LLM_DAY_SPEND_LIMIT_USD, or run the step again tomorrow; what is embedded is kept"
        )
