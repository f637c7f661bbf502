"""Sends requests to one OpenAI-compatible endpoint until each is answered or given up, and says what went wrong.

The SDK repeats timeouts, lost connections and server errors. Rate limits are not failures: the request is sent again
after the pause that the server asks for, or a longer one every time.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import openai

from heal_tasks.core.errors import HealError, RetryableError, SettingsError
from heal_tasks.endpoint.attempts import Attempts, Failure, GivenUpError, RateLimitedError
from heal_tasks.endpoint.calls import CallStatus, without_key
from heal_tasks.endpoint.complaints import REFUSAL_CODES, error_codes, error_text
from heal_tasks.endpoint.transport import MAX_REPLY_BYTES, TooLargeError

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
class Wording:
    """Names in the messages about an endpoint."""

    kind: str  # of endpoint
    prefix: str  # of the variables with its address and its key
    model: str  # variable with the model
    kept: str  # what an error does not lose


LLM = Wording("LLM", "HEAL_LLM", "HEAL_LLM_MODEL", "what was written is kept")
EMBEDDINGS = Wording("embeddings", "HEAL_EMBED", "HEAL_MODEL", "vectors so far are kept")


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
    wording: Wording = LLM


class Endpoint:
    """An endpoint for one run; safe to use from many threads.

    ``expected`` is the field that every usable reply has: an object without it may be an error. ``max_bytes`` is the
    size of the largest reply.
    """

    def __init__(self, config: EndpointConfig, expected: str, max_bytes: int = MAX_REPLY_BYTES) -> None:
        self.config = config
        self._throttled_since_s: float | None = None
        self._said_s = -_SAID_EVERY_S  # time of the last word about it
        self._stopped = threading.Event()
        self.attempts = Attempts(config.api_key, config.timeout_s, self._stopped, expected, max_bytes)
        self.client = openai.OpenAI(
            base_url=config.url, api_key=config.api_key or "none", timeout=config.timeout_s,
            max_retries=config.max_retries, http_client=self.attempts.client(),
        )  # fmt: skip

    def stop(self) -> None:
        """Send nothing any more, and end all waits for a rate limit."""
        self._stopped.set()

    def send(self, create: Callable[..., Any], **fields: Any) -> str:
        """Send one request by a ``with_raw_response`` method of the SDK, and return the body of the reply.

        Raises:
            openai.OpenAIError: no usable status came, or the request was given up; ``classify`` and ``described`` read
                the reason.
        """
        attempt = 0
        while True:
            try:
                body = str(create(model=self.config.model, **fields).text)
            except RateLimitedError as error:
                longest_s = min(self.config.backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
                pause_s = max(error.pause_s, random.uniform(0.0, longest_s))  # noqa: S311 (no secret)
                now_s = time.monotonic()
                since_s = self._throttled_since_s = self._throttled_since_s or now_s
                if now_s + pause_s - since_s > self.config.patience_s:
                    raise GivenUpError(
                        "throttled",
                        f"rate limited for {now_s - since_s:.0f} s, next attempt in {pause_s:.0f} s; the limit is "
                        f"{self.config.patience_s:.0f} s ({error}); lower HEAL_LLM_CONCURRENCY or ask the provider "
                        "for a higher limit",
                    ) from error
                attempt += 1
                if attempt == _MAX_ATTEMPTS:
                    raise
                self._say(now_s, f"{error}")
                self._stopped.wait(pause_s)
            else:
                self._throttled_since_s = None
                return body

    def failed(self, error: Exception) -> tuple[CallStatus, Failure, str]:
        """Status for the ledger, kind of failure, and message without secrets, of an error that ``send`` raised."""
        status, failure = _classify(error)
        if failure == "throttled":
            self.stop()  # before another worker takes its next request
        return status, failure, without_key(_described(error), self.config.api_key)

    def _say(self, now_s: float, message: str) -> None:
        """Log a rate limit, once a minute: without a word a run looks as if it hung."""
        if now_s >= self._said_s + _SAID_EVERY_S:
            self._said_s = now_s
            since_s = now_s - (self._throttled_since_s or now_s)
            _log.warning(
                "%s throttles, for %.0f s now, and is asked again until %.0f s: %s",
                without_key(self.config.url, self.config.api_key), since_s, self.config.patience_s,
                without_key(message, self.config.api_key)[:_SAID_CHARS],
            )  # fmt: skip


def reason_of(config: EndpointConfig, failure: Failure, message: str) -> HealError:
    """The error that ends a run because of a failure; ``message`` is without secrets."""
    words, url = config.wording, without_key(config.url, config.api_key)
    address, kept = f"check {words.prefix}_BASE_URL (it usually ends in /v1", f"({words.kept})"
    if failure == "no credit":
        return SettingsError(
            f"the account behind {url} has no credit left: {message}; add credit and run the step again {kept}"
        )
    if failure in ("denied", "forbidden"):
        return SettingsError(
            f"the {words.kind} endpoint {url} refused model {config.model!r}: {message}; {address}), "
            f"{words.prefix}_API_KEY and {words.model} {kept}"
        )
    if failure == "no api":
        return SettingsError(
            f"{url} is no {words.kind} endpoint that can be used: {message}; {address}, and must be the address "
            f"itself, without a redirect or a page to sign in) {kept}"
        )
    if failure == "throttled":
        return RetryableError(
            f"the {words.kind} endpoint {url} cannot be used now: {message}; run the step again later {kept}"
        )
    return RetryableError(
        f"the {words.kind} endpoint {url} does not answer: {message}; check that it runs, and run the step again later "
        f"{kept}"
    )


def _described(error: Exception) -> str:
    # The SDK's own text has only messages in OpenAI's form, and of a lost connection no reason.
    text = str(error)
    if isinstance(error, openai.APIConnectionError) and error.__cause__:
        text = f"{text} {error.__cause__}"
    elif isinstance(error, openai.APIStatusError):
        text = f"HTTP {error.status_code}: {error_text(error.response.text)}"
    return f"{type(error).__name__}: {text}"


def _classify(error: Exception) -> tuple[CallStatus, Failure]:
    if isinstance(error, openai.BadRequestError) and error_codes(error.response.text) & REFUSAL_CODES:
        return "refused", "rejected"
    if isinstance(error, GivenUpError):
        return "failed", error.failure
    return "failed", next(failure for kind, failure in _FAILURES if isinstance(error, kind))
