"""Watches the attempts behind each request, most of which the SDK makes by itself and does not show.

Hooks of the HTTP client count the tokens of failed attempts, end a reply that takes longer than the timeout, and let
nothing out once the run has stopped. They take rate limits out of the SDK's hands, because its waits, of two minutes at
most, cannot be ended.
"""

import math
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx2
import openai

from heal_tasks.questions.llm.replies import redacted, reported_tokens
from heal_tasks.questions.writer import Call

Failure = Literal["no credit", "denied", "forbidden", "throttled", "unreachable", "outage", "rejected", "stopped"]

_NO_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached"}


class GivenUpError(openai.OpenAIError):
    """No request of this run is to be sent any more."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class RateLimitedError(openai.OpenAIError):
    """The server asks to be left alone for some seconds, 0 where it does not say for how many."""

    def __init__(self, message: str, pause_s: float) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class _TimedBody(httpx2.SyncByteStream):
    """A reply's body with a deadline: the HTTP client's own timeout starts again with every byte."""

    def __init__(self, body: httpx2.SyncByteStream, deadline_s: float) -> None:
        self._body, self._deadline_s = body, deadline_s

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            if time.monotonic() > self._deadline_s:
                raise httpx2.ReadTimeout("the reply was not complete in time")
            yield piece

    def close(self) -> None:
        self._body.close()


class Attempts(threading.local):
    """The attempts at the request that this thread sends; ``secret`` is kept out of all messages."""

    def __init__(self, secret: str | None, timeout_s: float, stopped: threading.Event) -> None:
        self._secret, self._timeout_s, self._stopped = secret, timeout_s, stopped
        self._deadline_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Start a request."""
        self._began_s, self.tokens, self._complaint = time.monotonic(), (0, 0), ""

    @property
    def latency_s(self) -> float:
        """Wall time since the request began, in seconds."""
        return time.monotonic() - self._began_s

    def paid(self) -> tuple[Call, ...]:
        """A row for the ledger where failed attempts cost tokens."""
        return (Call("failed", *self.tokens, 0.0, self._complaint),) if any(self.tokens) else ()

    def client(self) -> httpx2.Client:
        """An HTTP client with the hooks."""
        return openai.DefaultHttpxClient(event_hooks={"request": [self._before], "response": [self._after]})

    def _before(self, request: httpx2.Request) -> None:
        del request
        if self._stopped.is_set():
            raise GivenUpError("stopped", "the run has stopped, so the request was not sent; run the step again")
        self._deadline_s = time.monotonic() + self._timeout_s

    def _after(self, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _TimedBody(response.stream, self._deadline_s)
        if not response.is_error:
            return
        response.read()
        message = redacted(f"HTTP {response.status_code}: {response.text}", self._secret)
        tokens = reported_tokens(response.text)
        if any(tokens):
            self.tokens, self._complaint = (self.tokens[0] + tokens[0], self.tokens[1] + tokens[1]), message
        if response.status_code == 402 or any(f'"{code}"' in response.text for code in _NO_CREDIT_CODES):
            raise GivenUpError("no credit", message)
        pause_s = retry_after_s(response.headers, time.time())
        throttles = response.status_code == 429 or (response.status_code == 503 and pause_s is not None)
        if throttles and response.headers.get("x-should-retry") != "false":
            raise RateLimitedError(message, pause_s or 0.0)


def retry_after_s(headers: Mapping[str, str], unix_s: float) -> float | None:
    """Seconds that a reply asks to wait, by ``retry-after-ms`` or else ``Retry-After`` (seconds, or a date).

    None where neither can be read; ``unix_s`` is the time now.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        # "-0000" makes a naive date, which is UTC by RFC 5322.
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - unix_s)
    except (ValueError, OverflowError):
        return None
