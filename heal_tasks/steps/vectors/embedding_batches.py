"""Vectors over the Batch API, for half the price and some hours later: texts sent, waited for and collected.

As with questions, all state is in ``heal.llm_batch`` and the step is run again until nothing is under way. A text has a
request of its own, named by its hash, and its vector goes to every chunk and question that has this text by then.
Texts to which a batch brought no usable vector are embedded directly in the same run.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.models import api_model, split_uri
from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.calls import Call, guess_tokens, reported_tokens
from heal_tasks.endpoint.embeddings import read_vectors
from heal_tasks.endpoint.endpoint import EMBEDDINGS
from heal_tasks.questions.llm.batch_api import (
    EMBED,
    BatchApi,
    NoBatchApiError,
    batch_sizes,
    embedding_line,
    read_reply,
)
from heal_tasks.questions.llm.replies import ParsedReply
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.vectors.adopted import texts_to_embed
from heal_tasks.steps.vectors.embedding_costs import ledger_row, most_usd, refuse_over_limit
from heal_tasks.steps.vectors.encoders import api_prompt
from heal_tasks.steps.writing.batch_collector import BATCH_WAIT_S, CANCELLING_S, BatchCollector, Reading
from heal_tasks.steps.writing.batch_sending import send_batch, waiting_for
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, spend_limit_of
from heal_tasks.store.db import Connection
from heal_tasks.store.llm.batches import Batch, BatchRepository, Tried
from heal_tasks.store.llm.ledger import LlmCall, settle
from heal_tasks.store.spaces.spaces import Space, SpaceRepository

AUTO_SAVING_USD = 1.0
"""The least that a batch saves with HEAL_LLM_BATCH=auto: for less, hours of waiting are not worth it."""

_PAGE = 512
"""Vectors that are stored at once; also where the task is killed, none is paid for again."""

Vector = NDArray[np.float32]
Reply = ParsedReply[Vector]
Missing = dict[str, tuple[str, list[int], list[int]]]
"""Texts without a vector, by hash: the text, its chunks, its questions."""


def sends_batches(settings: Settings, route: object, texts: Sequence[str]) -> bool:
    """Return whether a task sends these texts in batches, if the endpoint can; not on the route nudge."""
    if not texts or settings.llm_batch == "off" or route == "nudge":
        return False
    saved_usd = (1 - BATCH_PRICE_FACTOR) * sum(most_usd(settings, text) for text in texts)
    return settings.llm_batch == "on" or saved_usd >= AUTO_SAVING_USD


def make_embedding_batch_api(settings: Settings) -> BatchApi:
    """The Batch API of the embeddings endpoint that the settings name."""
    return BatchApi(settings.embed_url, settings.embed_key, settings.llm_timeout_s, EMBED, EMBEDDINGS)


def embedding_batches_url(settings: Settings) -> str:
    """The endpoint by which batches of texts are stored: not that of questions, which may have the same base URL."""
    return f"{settings.embed_url.rstrip('/')}/embeddings"


def texts_under_way(store: BatchRepository, space: Space) -> dict[str, str]:
    """Batch key by hash of the texts that are in a batch for a space."""
    return store.texts_under_way(space.model_uri, space.model_sha256)


class EmbeddingBatches:
    """One task's batches for a space whose model is behind an API.

    Attributes:
        stored: numbers of "chunks" and "questions" whose vectors this task has collected.
    """

    def __init__(self, context: Context, space: Space) -> None:
        self._context, self._space, self.stored = context, space, Counter[str]()
        self._api = make_embedding_batch_api(context.settings)
        self._store = BatchRepository(context.conn, embedding_batches_url(context.settings))
        reading = Reading(self._read, self._taker, _PAGE, space.model_sha256)
        self._collector = BatchCollector(context, self._api, self._store, reading)
        self._missing: Missing | None = None

    def collect(self) -> None:
        """Store the vectors of every batch for this space that has ended, whichever run sent it."""
        self._missing = None
        self._collector.collect()

    def submit_or_wait(self, texts: Sequence[str]) -> None:
        """Send texts that no batch has had yet, if that is worth it; return where all are to be embedded directly.

        The texts begin with their prompts.

        Raises:
            Waiting: some are in a batch.
            StepError: a spend limit leaves no room.
        """
        by_hash = {sha256_hex(text): text for text in texts}
        about = (self._space.model_uri, self._space.model_sha256)
        known = self._store.texts_tried(self._context.run_id, *about).keys() | self._under_way().keys()
        fresh = {key: text for key, text in by_hash.items() if key not in known}
        if sends_batches(self._context.settings, self._context.manifest.refs.get("route"), [*fresh.values()]):
            self._send(fresh, about)
        under_way = self._under_way()
        if waiting := {key: under_way[key] for key in by_hash if key in under_way}:
            raise waiting_for(self._store, f"{len(waiting)} texts", set(waiting.values()), "embed")

    def _under_way(self) -> dict[str, str]:
        return texts_under_way(self._store, self._space)

    def _send(self, texts: dict[str, str], about: tuple[str, str]) -> None:
        try:
            self._api.check()
        except NoBatchApiError as error:
            self._context.log.info("embedding without batches: %s", error)
            return
        settings, limit = self._context.settings, spend_limit_of(self._context)
        numbers = {key: _number(key) for key in texts}
        if limit.limited:
            costs = [(numbers[key], BATCH_PRICE_FACTOR * most_usd(settings, text)) for key, text in texts.items()]
            if limit.reserve(costs, lease_s=BATCH_WAIT_S + 2 * CANCELLING_S).count < len(texts):
                limit.release(numbers.values())
                refuse_over_limit(limit, [*texts.values()], sum(cost for _, cost in costs), len(texts))
        hashes, start, model = [*texts], 0, api_model(self._space.model_uri)
        dimensions = split_uri(self._space.model_uri)[1].dimensions

        def line(key: str) -> bytes:
            return embedding_line(key, model, texts[key], dimensions)

        for size in batch_sizes(len(line(key)) for key in hashes):
            part = [(key, numbers[key]) for key in hashes[start : start + size]]
            send_batch(self._context, self._api, self._store, self._collector, about, part, line, limit.release)
            start += size

    def _read(self, line: str) -> tuple[str, Reply | None] | None:
        return read_reply(line, self._read_body, "data")

    def _read_body(self, body: str) -> Reply:
        tokens = reported_tokens(body)
        try:
            vector = read_vectors(body, 1, self._space.dims)[0]
        except ValueError as problem:
            return ParsedReply(Call("invalid", *tokens, 0.0, str(problem)), problem=str(problem))
        return ParsedReply(Call("ok", *tokens, 0.0, ""), vector)

    def _taker(self, batch: Batch) -> "_Taker":
        if self._missing is None:
            self._missing = _missing(self._context.conn, self._space)
        return _Taker(self._context, self._store, self._space, batch, self._missing, self.stored)


class _Taker:
    """Stores the vectors of one batch."""

    def __init__(
        self,
        context: Context,
        store: BatchRepository,
        space: Space,
        batch: Batch,
        missing: Missing,
        stored: Counter[str],
    ) -> None:
        self._context, self._store, self._space, self._batch = context, store, space, batch
        self._missing, self._stored = missing, stored

    def take(self, replies: dict[str, tuple[Reply | None, int]]) -> None:
        """Store vectors, calls and outcomes of some texts in one transaction; usable replies are one row together."""
        tried, answered, rows = list[Tried](), list[str](), list[LlmCall]()
        chunks, questions = list[tuple[int, Vector]](), list[tuple[int, Vector]]()
        tokens, guessed = 0, 0
        for key, (reply, _) in replies.items():
            text, of_chunks, of_questions = self._missing.get(key, ("", [], []))
            if reply is None:
                tried.append(Tried(key, "unanswered", ""))
            elif reply.value is None:
                tried.append(Tried(key, "invalid" if reply.call.status == "invalid" else "failed", reply.problem))
                rows.append(self._row(reply.call))
            else:
                answered.append(key)
                tokens += reply.call.input_tokens
                guessed += 0 if reply.call.input_tokens else guess_tokens(len(text.encode()))
                chunks += [(number, reply.value) for number in of_chunks]
                questions += [(number, reply.value) for number in of_questions]
        if answered:
            call = Call("ok", tokens, 0, 0.0, "")
            rows.append(self._row(replace(call, guessed_tokens=(tokens + guessed, 0)) if guessed else call))
        conn, spaces = self._context.conn, SpaceRepository(self._context.conn)
        with conn.transaction(), conn.cursor() as cursor:
            for name, found, write in (
                ("chunks", chunks, spaces.write_chunks),
                ("questions", questions, spaces.write_questions),
            ):
                if found:
                    ids, vectors = zip(*found, strict=True)
                    self._stored[name] += write(self._space, np.array(ids, dtype=np.int64), np.stack(vectors))
            settle(cursor, self._batch.run_id, rows, ())
            self._store.settle(self._batch, answered, tried, {})

    def _row(self, call: Call) -> LlmCall:
        return ledger_row(self._context.settings, self._space, call, self._batch)


def _missing(conn: Connection, space: Space) -> Missing:
    """The texts without a vector of all shards: another task may have sent the batch."""
    missing: Missing = {}
    spaces = SpaceRepository(conn)
    before_chunk, before_question = api_prompt(space, "document"), api_prompt(space, "query")
    for number, content in texts_to_embed(conn, spaces.missing_chunks(space)):
        text = before_chunk + content
        missing.setdefault(sha256_hex(text), (text, [], []))[1].append(number)
    for number, question in spaces.missing_questions(space):
        text = before_question + question
        missing.setdefault(sha256_hex(text), (text, [], []))[2].append(number)
    return missing


def _number(key: str) -> int:
    """The number under which money is reserved for a text; negative, because those of chunks are not."""
    return -1 - int(key[:15], 16)
