"""One OpenAI-compatible endpoint: sends a request until it is answered or given up, and says what went wrong.

Throttling (429, or 503 with Retry-After) is not a failure: the call is repeated when the throttle lets it. Server
errors and lost connections are repeated a few times. A timeout is repeated once: the server has probably worked, and
charged, for a reply that nobody read. The SDK repeats nothing, else its retries would multiply with these.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import openai

from heal_tasks.core.errors import RetryableError
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.dialect import Dialect, Probe
from heal_tasks.questions.llm.replies import REFUSAL_CODES, read_message, reported_tokens
from heal_tasks.questions.llm.throttle import Throttle, retry_after_s
from heal_tasks.questions.llm.tokens import PROBE_TOKENS
from heal_tasks.questions.writer import Call, CallStatus, storable

_MAX_TIMEOUTS = 1
_LONGEST_REST_S = 60.0
_ERROR_CHARS = 2000
_HOPELESS_CODES = {"context_length_exceeded", "string_above_max_length"}
_PASSING_STATUSES = {408, 409}
_NO_MONEY_CODES = {"insufficient_quota", "billing_hard_limit_reached"}

# A request larger than a limit per minute is throttled for ever while others pass. With the throttle's pauses so many
# attempts outlast any such minute, and end before the throttle's patience does.
_MAX_THROTTLED = 15

Trouble = Literal["none", "unpaid", "denied", "forbidden", "throttled", "unreachable", "outage", "rejected"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Args:
        body: of the successful reply; None where there is none.
        calls: attempts without a reply that belong in the ledger: those whose error reported tokens, and the last
            one where the request was given up.
        latency_s: wall time of all attempts since the last of ``calls``, without the waits between them, in seconds.
        trouble: why there is no reply.
    """

    body: str | None
    calls: tuple[Call, ...]
    latency_s: float
    trouble: Trouble = "none"


@dataclass(frozen=True, slots=True)
class _Attempt:
    body: str
    error: Exception | None
    tokens: tuple[int, int]
    latency_s: float


class _Budget:
    """How often one request may still be repeated."""

    def __init__(self, max_retries: int, backoff_s: float) -> None:
        self._max_retries, self._backoff_s = max_retries, backoff_s
        self._retries = self._throttled = 0

    def pause_s(self, error: Exception) -> float | None:
        """How long to wait before the next attempt; None where there shall be none."""
        if _is_throttling(error):
            self._throttled += 1
            return 0.0 if self._throttled <= _MAX_THROTTLED else None
        if self._retries >= self._most(error):
            return None
        self._retries += 1
        wished_s = _wished_s(error)
        return min(_LONGEST_REST_S, self._backoff_s * 2.0 ** (self._retries - 1) if wished_s is None else wished_s)

    def _most(self, error: Exception) -> int:
        if isinstance(error, openai.APITimeoutError):
            return min(self._max_retries, _MAX_TIMEOUTS)
        if isinstance(error, openai.APIConnectionError):
            return self._max_retries
        if not isinstance(error, openai.APIStatusError) or error.response.headers.get("x-should-retry") == "false":
            return 0
        return self._max_retries if error.status_code in _PASSING_STATUSES or error.status_code >= 500 else 0


class Endpoint:
    """An endpoint for one run; safe to use from many threads.

    Args:
        client: the SDK's client, which repeats nothing.
        secret: its key, kept out of every message.
        model: the model's name as the endpoint knows it.
        dialect: what to try first.
        throttle: when a call may start.
        temperature: sampling temperature.
        timeout_s: longest wait for one reply, in seconds.
        max_retries: how often a call is repeated after server errors and lost connections together.
        backoff_s: wait before the first repetition; doubles.
    """

    def __init__(
        self,
        client: openai.OpenAI,
        secret: str,
        model: str,
        dialect: Dialect,
        throttle: Throttle,
        *,
        temperature: float,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
    ) -> None:
        self.throttle = throttle
        self._client, self._secret, self._model, self._dialect = client, secret, model, dialect
        self._temperature, self._timeout_s = temperature, timeout_s
        self._max_retries, self._backoff_s = max_retries, backoff_s

    @property
    def dialect(self) -> Dialect:
        """What of a request the server is known to understand."""
        return self._dialect

    def probe(self) -> tuple[tuple[Call, ...], Trouble]:
        """Find out how strictly the server keeps to a schema, and speak to it so from now on.

        Returns:
            The calls that it took, and why it found nothing.
        """
        question, calls = Probe(), list[Call]()
        while self._dialect.reply != "text":
            answer = self.ask(question.messages, question.schema, PROBE_TOKENS)
            calls += answer.calls
            if answer.body is None:
                return tuple(calls), answer.trouble
            message, mode = read_message(answer.body), self._dialect.reply
            raw = f"capability probe, {mode}: {message.raw}"
            calls.append(Call("ok", message.input_tokens, message.output_tokens, answer.latency_s, raw))
            if question.obeyed(mode, message.content):
                break
            self._dialect = self._dialect.looser()
        return tuple(calls), "none"

    def ask(self, conversation: list[dict[str, str]], schema: JsonObject, token_limit: int) -> Answer:
        """Send one request.

        Args:
            conversation: role and content of each message.
            schema: of the reply.
            token_limit: for the reply.

        Returns:
            The reply, or why there is none; nothing is raised for what a server does.
        """
        dialect, tried = self._dialect, set[Dialect]()
        budget = _Budget(self._max_retries, self._backoff_s)
        calls, latency_s = list[Call](), 0.0
        while True:
            tried.add(dialect)
            attempt = self._attempt(conversation, dialect.fields(schema, token_limit, self._temperature))
            latency_s += attempt.latency_s
            if attempt.error is None:
                self._dialect = dialect
                return Answer(attempt.body, tuple(calls), latency_s)
            following = _simpler(attempt.error, dialect, tried)
            pause_s = 0.0 if following else budget.pause_s(attempt.error)
            if pause_s is None:
                status, trouble = _classify(attempt.error)
                calls.append(Call(status, *attempt.tokens, latency_s, self._redacted(attempt.error)))
                return Answer(None, tuple(calls), 0.0, trouble)
            if any(attempt.tokens):
                calls.append(Call("failed", *attempt.tokens, latency_s, self._redacted(attempt.error)))
                latency_s = 0.0
            dialect = following or dialect
            self.throttle.rest(pause_s)

    def _attempt(self, conversation: list[dict[str, str]], fields: JsonObject) -> _Attempt:
        try:
            started_s = self.throttle.enter()
        except RetryableError as error:
            return _Attempt("", error, (0, 0), 0.0)
        begin_s = time.monotonic()
        try:
            body = self._post(conversation, fields)
            self.throttle.succeeded(started_s)
            return _Attempt(body, None, (0, 0), time.monotonic() - begin_s)
        except (openai.OpenAIError, ValueError) as error:
            latency_s, tokens = time.monotonic() - begin_s, (0, 0)
            if isinstance(error, openai.APIStatusError):
                tokens = reported_tokens(error.response.text)
                if _is_throttling(error):
                    self.throttle.throttled(started_s, _wished_s(error), self._redacted(error))
            return _Attempt("", error, tokens, latency_s)
        finally:
            self.throttle.leave()

    def _post(self, conversation: list[dict[str, str]], fields: JsonObject) -> str:
        # Typed loosely: the SDK's overloads cannot express fields that depend on what the server understands.
        request: dict[str, Any] = {"messages": conversation, **fields}
        deadline_s, body = time.monotonic() + self._timeout_s, bytearray()
        create = self._client.chat.completions.with_streaming_response.create
        try:
            with create(model=self._model, **request) as response:
                # The transport's timeout is for one read: a server that sends a byte now and then would never meet it.
                for piece in response.iter_bytes():
                    body += piece
                    if time.monotonic() > deadline_s:
                        raise openai.APITimeoutError(response.http_request)
        except httpx2.TimeoutException as error:
            raise openai.APITimeoutError(error.request) from error
        except httpx2.RequestError as error:
            raise openai.APIConnectionError(message=f"Connection lost: {error}", request=error.request) from error
        return body.decode("utf-8", "replace")

    def _redacted(self, error: Exception) -> str:
        text = storable(str(error) if isinstance(error, RetryableError) else f"{type(error).__name__}: {error}")
        return (text.replace(self._secret, "[key]") if self._secret else text)[:_ERROR_CHARS]


def _wished_s(error: Exception) -> float | None:
    if not isinstance(error, openai.APIStatusError):
        return None
    return retry_after_s(error.response.headers, time.time())


def _is_throttling(error: Exception) -> bool:
    if not isinstance(error, openai.APIStatusError) or error.response.headers.get("x-should-retry") == "false":
        return False
    if error.status_code == 503:
        return _wished_s(error) is not None
    return error.status_code == 429 and error.code not in _NO_MONEY_CODES


def _simpler(error: Exception, dialect: Dialect, tried: set[Dialect]) -> Dialect | None:
    if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return None
    if error.code in REFUSAL_CODES | _HOPELESS_CODES:
        return None
    return next((other for other in dialect.simpler(str(error)) if other not in tried), None)


def _classify(error: Exception) -> tuple[CallStatus, Trouble]:
    if isinstance(error, RetryableError):
        return "failed", "throttled"
    if isinstance(error, openai.BadRequestError) and error.code in REFUSAL_CODES:
        return "refused", "rejected"
    if isinstance(error, openai.APIStatusError) and error.code in _NO_MONEY_CODES:
        return "failed", "unpaid"
    if isinstance(error, openai.AuthenticationError | openai.NotFoundError):
        return "failed", "denied"
    if isinstance(error, openai.PermissionDeniedError):
        return "failed", "forbidden"
    if isinstance(error, openai.APITimeoutError):
        return "failed", "outage"
    if isinstance(error, openai.APIConnectionError):
        return "failed", "unreachable"
    # A request that was throttled so often while others passed is at fault itself.
    if isinstance(error, openai.InternalServerError) or (
        isinstance(error, openai.RateLimitError) and not _is_throttling(error)
    ):
        return "failed", "outage"
    return "failed", "rejected"
