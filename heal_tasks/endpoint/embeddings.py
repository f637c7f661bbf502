"""Embeddings of one endpoint: many texts in bounded batches, several at a time, each text paid for once."""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
import openai
from numpy.typing import NDArray

from heal_tasks.core.errors import HealError, SettingsError
from heal_tasks.core.types import JsonObject
from heal_tasks.endpoint.attempts import Failure
from heal_tasks.endpoint.calls import Call, guess_tokens, reported_tokens, without_key
from heal_tasks.endpoint.complaints import is_too_long
from heal_tasks.endpoint.endpoint import Endpoint, EndpointConfig, reason_of

BATCH_TEXTS, BATCH_CHARS = 64, 100_000
"""Bounds of a request. OpenAI takes 2,048 texts and 300,000 tokens; a character is at most two tokens. Small batches
lose little when one is refused, and several at a time are as fast."""

MAX_REPLY_BYTES = 32 << 20
"""Largest reply: 64 vectors of 4,096 dimensions as decimal numbers are 6 MB."""

_MAX_INVALID = 3
"""Replies about the same batch that cannot be used, after which it is divided, or its one text given up."""

_CUT_SHARE = 0.75
"""Of a text that an endpoint finds too long, the beginning that is sent next."""

_FATAL: set[Failure] = {"no credit", "denied", "forbidden", "no api", "throttled", "unreachable", "outage", "stopped"}


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome for a batch of texts."""

    rows: tuple[int, ...]  # positions of the texts that got a vector
    vectors: NDArray[np.float32]  # unit vectors, shape (len(rows), d)
    calls: tuple[Call, ...]  # for the ledger
    refused: tuple[int, ...] = ()  # positions of texts that the endpoint takes in no form
    error: HealError | None = None  # after which nothing more is sent


class EmbeddingEndpoint:
    """Embeds texts by an endpoint's embeddings API.

    ``dimensions`` asks for shorter vectors, 0 for the model's own. A reply with vectors that have not ``length``
    dimensions is useless; 0 where the length is not known.
    """

    def __init__(self, config: EndpointConfig, *, concurrency: int = 8, dimensions: int = 0, length: int = 0) -> None:
        self._endpoint = Endpoint(config, "data", MAX_REPLY_BYTES)
        self._concurrency, self._dimensions, self._length = concurrency, dimensions, length
        # A quarter of the size, and OpenAI's own form. Servers that do not know it refuse the field, or ignore it.
        self._format = "base64"

    def embed(self, texts: Sequence[str]) -> Iterator[Embedded]:
        """Embed n texts, none of them empty.

        Yields:
            Batches as they finish, every text in one of them.

        Raises:
            SettingsError: the endpoint rejects the key, the model, the path or the number of dimensions, or the account
                has no credit.
            RetryableError: it cannot be reached, or throttles for too long. All that was paid for has been yielded.
        """
        batches, pending, error = _batches(texts), set[Future[Embedded]](), None
        executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="embed")
        try:
            while True:
                while error is None and len(pending) < 2 * self._concurrency and (rows := next(batches, None)):
                    pending.add(executor.submit(self._embed, rows, [texts[row] for row in rows]))
                if not pending:
                    break
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ready:
                    done = future.result()
                    if done.error is not None and error is None:
                        error = done.error
                        pending = {other for other in pending if not other.cancel()}
                    yield done
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        if error is not None:
            raise error

    def _embed(self, rows: tuple[int, ...], texts: list[str]) -> Embedded:
        """Embed one batch, divided where the endpoint refuses it as a whole."""
        invalid, calls = 0, list[Call]()
        while True:
            vectors, call, failure, error = self._request(texts)
            calls += call
            if vectors is not None:
                return Embedded(rows, vectors, tuple(calls))
            last = calls[-1].raw_reply
            if failure in _FATAL:
                return Embedded((), _nothing(), tuple(calls), error=reason_of(self._endpoint.config, failure, last))
            invalid += failure is None
            too_long = error is not None and _is_too_long(error)
            if 0 < invalid < _MAX_INVALID:
                continue
            if len(texts) > 1:
                middle = len(texts) // 2
                first = self._embed(rows[:middle], texts[:middle])
                second = self._embed(rows[middle:], texts[middle:]) if first.error is None else None
                return _joined(calls, first, second)
            if too_long and len(texts[0]) > 1:
                shorter = self._embed(rows, [texts[0][: int(_CUT_SHARE * len(texts[0]))]])
                return replace(shorter, calls=(*calls, *shorter.calls))
            if self._dimensions and _refuses(error, "dimension"):
                model = self._endpoint.config.model
                reason = SettingsError(f"{model!r} does not take HEAL_DIMENSIONS={self._dimensions}: {last[:300]}")
                return Embedded((), _nothing(), tuple(calls), error=reason)
            return Embedded((), _nothing(), tuple(calls), refused=rows)

    def _request(
        self, texts: list[str]
    ) -> tuple[NDArray[np.float32] | None, list[Call], Failure | None, Exception | None]:
        """Vectors of the texts, or None with the failure (None: the reply cannot be used) and the error behind it."""
        attempts, sent = self._endpoint.attempts, sum(len(text.encode()) for text in texts)
        attempts.begin()
        fields: JsonObject = {"input": texts, "encoding_format": self._format}
        if self._dimensions:
            fields["dimensions"] = self._dimensions
        try:
            body = self._endpoint.send(self._endpoint.client.embeddings.with_raw_response.create, **fields)
        except (openai.OpenAIError, ValueError) as error:
            if fields["encoding_format"] == "base64" and _refuses(error, "encoding_format"):
                self._format = "float"
                return self._request(texts)
            status, failure, message = self._endpoint.failed(error)
            return None, [Call(status, *attempts.tokens, attempts.latency_s, message)], failure, error
        tokens = reported_tokens(body)
        guessed = (0, 0) if any(tokens) else (guess_tokens(sent), 0)
        paid = [*attempts.paid()]
        try:
            vectors = read_vectors(body, len(texts), self._length)
        except ValueError as problem:
            message = without_key(str(problem), self._endpoint.config.api_key)
            return None, [*paid, Call("invalid", *tokens, attempts.latency_s, message, guessed)], None, None
        return vectors, [*paid, Call("ok", *tokens, attempts.latency_s, "", guessed)], None, None


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Positions of the texts of each request."""
    rows, chars = list[int](), 0
    for row, text in enumerate(texts):
        if rows and (len(rows) == BATCH_TEXTS or chars + len(text) > BATCH_CHARS):
            yield tuple(rows)
            rows, chars = [], 0
        rows.append(row)
        chars += len(text)
    if rows:
        yield tuple(rows)


def read_vectors(body: str, count: int, length: int = 0) -> NDArray[np.float32]:
    """Unit vectors in the body of a reply, float32, shape (count, d), in the order of their indices.

    Raises:
        ValueError: it has not one usable vector for each text, with ``length`` dimensions where these are known.
    """
    reply = json.loads(body.lstrip("\ufeff"))
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or len(data) != count or not all(isinstance(item, dict) for item in data):
        found = len(data) if isinstance(data, list) else "no list of"
        raise ValueError(f"the reply has {found} vectors for {count} texts")
    order = [item.get("index", place) for place, item in enumerate(data)]
    if sorted(map(str, order)) != sorted(map(str, range(count))):
        raise ValueError("the reply does not say which vector belongs to which text")
    placed = dict(zip(map(int, order), data, strict=True))
    rows = [_vector(placed[place].get("embedding")) for place in range(count)]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("the reply has vectors of different lengths")
    if length and len(rows[0]) != length:
        raise ValueError(f"the reply has vectors of {len(rows[0])} dimensions, and those so far have {length}")
    vectors = np.stack(rows)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError("the reply has a vector that is not finite or has no direction")
    units: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return units


def _vector(value: object) -> NDArray[np.float64]:
    if isinstance(value, str):
        try:
            return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float64)
        except binascii.Error as error:
            raise ValueError(f"a vector of the reply is no base64 ({error})") from None
    if not isinstance(value, list) or not value or not all(isinstance(item, int | float) for item in value):
        raise ValueError("the reply has no list of numbers for a text")
    return np.array(value, dtype=np.float64)


def _joined(calls: list[Call], first: Embedded, second: Embedded | None) -> Embedded:
    parts = [part for part in (first, second) if part is not None]
    filled = [part.vectors for part in parts if len(part.rows)]
    return Embedded(
        tuple(row for part in parts for row in part.rows),
        np.concatenate(filled) if filled else _nothing(),
        (*calls, *(call for part in parts for call in part.calls)),
        tuple(row for part in parts for row in part.refused),
        next((part.error for part in parts if part.error is not None), None),
    )


def _nothing() -> NDArray[np.float32]:
    return np.empty((0, 0), dtype=np.float32)


def _refuses(error: Exception | None, field: str) -> bool:
    """True if an error is a refusal of a field of the request."""
    refused = openai.BadRequestError | openai.UnprocessableEntityError
    return isinstance(error, refused) and field in error.response.text


def _is_too_long(error: Exception) -> bool:
    if not isinstance(error, openai.APIStatusError):
        return False
    return error.status_code == 413 or is_too_long(error.response.text)
