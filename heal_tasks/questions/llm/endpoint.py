"""Sends requests to one OpenAI-compatible endpoint until each is answered or given up, and says what went wrong.

The SDK repeats timeouts, lost connections and server errors. Rate limits are not failures: the request is sent again
after the pause that the server asks for, or a longer one every time.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import openai

from heal_tasks.core.settings import OPENAI_URL
from heal_tasks.core.types import JsonObject
from heal_tasks.questions.llm.attempts import Attempts, Failure, GivenUpError, RateLimitedError
from heal_tasks.questions.llm.complaints import REFUSAL_CODES, error_codes, error_text, is_too_long
from heal_tasks.questions.llm.dialect import PROBE_TOKENS, PROBED, Dialect, Probe
from heal_tasks.questions.llm.replies import ParsedReply, read_completion, without_key
from heal_tasks.questions.llm.transport import TooLargeError
from heal_tasks.questions.writer import Call, CallStatus, T

_log = logging.getLogger(__name__)

# A request larger than a limit per minute is refused for ever while others pass. With pauses of up to a minute between
# them so many attempts outlast any such minute.
_MAX_ATTEMPTS = 15
_LONGEST_BACKOFF_S = 60.0
_SAID_EVERY_S, _SAID_CHARS = 60.0, 300

_FAILURES: tuple[tuple[type[Exception], Failure], ...] = (
    (openai.AuthenticationError, "denied"),
    (openai.NotFoundError, "denied"),
    (openai.PermissionDeniedError, "forbidden"),
    (openai.APITimeoutError, "outage"),
    (openai.APIConnectionError, "unreachable"),
    (openai.InternalServerError, "outage"),
    (TooLargeError, "outage"),
    (openai.RateLimitError, "outage"),
    # A rate limit for this request alone, while others are answered, and whatever else is the request's own fault.
    (Exception, "rejected"),
)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The outcome of one request."""

    reply: ParsedReply[T] | None
    calls: tuple[Call, ...]  # failed attempts that cost tokens, then the reply's or the request that was given up
    failure: Failure | None = None  # the reason where there is no reply


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Address and patience of an endpoint."""

    url: str  # OpenAI-compatible
    api_key: str | None = field(repr=False)  # kept out of every message; None where the endpoint needs none
    model: str  # as the endpoint knows it
    timeout_s: float  # longest wait for one whole reply
    # Of the SDK, after lost connections, timeouts and server errors. The waits of 4 add up to 7 s, which outlasts the
    # restart of a proxy; those of its default of 2 to 1.5 s.
    max_retries: int = 4
    backoff_s: float = 1.0  # longest pause after the first rate limit where the server names none; doubles
    # Longest time that rate limits may last without any answer. A limit per minute ends within it; for a limit per day
    # Airflow's retries are the better place to wait.
    patience_s: float = 900.0


class Endpoint:
    """An endpoint for one run; safe to use from many threads."""

    def __init__(self, config: EndpointConfig, temperature: float) -> None:
        # The first to try, then the one that the server is known to understand. Older local servers know max_tokens
        # only; OpenAI's reasoning models know max_completion_tokens only.
        self.dialect = Dialect("json_schema", "max_completion_tokens" if config.url == OPENAI_URL else "max_tokens")
        self._config, self._temperature = config, temperature
        self._throttled_since_s: float | None = None
        self._said_s = -_SAID_EVERY_S  # time of the last word about it
        self._stopped = threading.Event()
        self._attempts = Attempts(config.api_key, config.timeout_s, self._stopped)
        self._client = openai.OpenAI(
            base_url=config.url, api_key=config.api_key or "none", timeout=config.timeout_s,
            max_retries=config.max_retries, http_client=self._attempts.client(),
        )  # fmt: skip

    def stop(self) -> None:
        """Send nothing any more, and end all waits for a rate limit."""
        self._stopped.set()

    def probe(self) -> tuple[tuple[Call, ...], Failure | None]:
        """Find out how strictly the server keeps to a schema, and set the dialect; the calls, and why it failed."""
        probe, calls = Probe(), list[Call]()
        while self.dialect.reply != "text":
            answer = self.ask(probe.messages, probe.schema, PROBE_TOKENS, str)
            calls += answer.calls
            if answer.reply is None:
                return tuple(calls), answer.failure
            mode, call = self.dialect.reply, calls.pop()
            calls.append(replace(call, status="ok", raw_reply=f"{PROBED}, {mode}: {call.raw_reply}"))
            if probe.obeyed(mode, answer.reply.value or ""):
                break
            self.dialect = self.dialect.looser()
        return tuple(calls), None

    def ask(
        self, messages: list[dict[str, str]], schema: JsonObject, token_limit: int, parse: Callable[[str], T]
    ) -> Answer[T]:
        """Send one request, and read the reply by ``parse``. Nothing is raised, whatever the server does."""
        dialect, tried, attempts = self.dialect, set[Dialect](), self._attempts
        attempts.begin()
        while True:
            tried.add(dialect)
            try:
                body = self._send(messages, dialect.fields(schema, token_limit, self._temperature))
            except (openai.OpenAIError, ValueError) as error:
                if simpler := _simpler(error, dialect, tried):
                    dialect = simpler
                    continue
                status, failure = _classify(error)
                if failure == "throttled":
                    self.stop()  # before another worker takes its next chunk
                message = without_key(_described(error), self._config.api_key)
                return Answer(None, (Call(status, *attempts.tokens, attempts.latency_s, message),), failure)
            self.dialect, self._throttled_since_s = dialect, None
            sent_bytes = len(json.dumps([messages, schema], ensure_ascii=False).encode())
            reply = read_completion(body, parse, attempts.latency_s, sent_bytes)
            return Answer(reply, (*attempts.paid(), reply.call))

    def _send(self, messages: list[dict[str, str]], fields: JsonObject) -> str:
        # Typed loosely: the SDK's overloads cannot express fields that depend on what the server understands.
        create: Any = self._client.chat.completions.with_raw_response.create
        attempt = 0
        while True:
            try:
                return str(create(model=self._config.model, messages=messages, **fields).text)
            except RateLimitedError as error:
                longest_s = min(self._config.backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
                pause_s = max(error.pause_s, random.uniform(0.0, longest_s))  # noqa: S311 (no secret)
                now_s = time.monotonic()
                since_s = self._throttled_since_s = self._throttled_since_s or now_s
                if now_s + pause_s - since_s > self._config.patience_s:
                    raise GivenUpError(
                        "throttled",
                        f"rate limited for {now_s - since_s:.0f} s, next attempt in {pause_s:.0f} s; the limit is "
                        f"{self._config.patience_s:.0f} s ({error}); lower HEAL_LLM_CONCURRENCY or ask the provider "
                        "for a higher limit",
                    ) from error
                attempt += 1
                if attempt == _MAX_ATTEMPTS:
                    raise
                self._say(now_s, f"{error}")
                self._stopped.wait(pause_s)

    def _say(self, now_s: float, message: str) -> None:
        """Log a rate limit, once a minute: without a word a run looks as if it hung."""
        if now_s >= self._said_s + _SAID_EVERY_S:
            self._said_s = now_s
            since_s = now_s - (self._throttled_since_s or now_s)
            _log.warning(
                "%s throttles, for %.0f s now, and is asked again until %.0f s: %s",
                without_key(self._config.url, self._config.api_key), since_s, self._config.patience_s,
                without_key(message, self._config.api_key)[:_SAID_CHARS],
            )  # fmt: skip


def _described(error: Exception) -> str:
    # The SDK's own text has only messages in OpenAI's form, and of a lost connection no reason.
    text = str(error)
    if isinstance(error, openai.APIConnectionError) and error.__cause__:
        text = f"{text} {error.__cause__}"
    elif isinstance(error, openai.APIStatusError):
        text = f"HTTP {error.status_code}: {error_text(error.response.text)}"
    return f"{type(error).__name__}: {text}"


def _simpler(error: Exception, dialect: Dialect, tried: set[Dialect]) -> Dialect | None:
    if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
        return None
    if error_codes(error.response.text) & REFUSAL_CODES or is_too_long(error.response.text):
        return None
    return next((other for other in dialect.simpler(error.response.text) if other not in tried), None)


def _classify(error: Exception) -> tuple[CallStatus, Failure]:
    if isinstance(error, openai.BadRequestError) and error_codes(error.response.text) & REFUSAL_CODES:
        return "refused", "rejected"
    if isinstance(error, GivenUpError):
        return "failed", error.failure
    return "failed", next(failure for kind, failure in _FAILURES if isinstance(error, kind))
