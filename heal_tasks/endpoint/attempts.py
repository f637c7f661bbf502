"""Watches the attempts behind each request, most of which the SDK makes by itself and does not show.

Hooks of the HTTP client count the tokens of failed attempts, and let nothing out once the run has stopped. They give an
error in a reply with status 200 the status that it stands for, so that the SDK treats it as that. They take rate limits
out of the SDK's hands, because its waits, of two minutes at most, cannot be ended.
"""

import math
import threading
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx2
import openai

from heal_tasks.endpoint.calls import Call, reported_tokens, without_key
from heal_tasks.endpoint.complaints import WEB_PAGE, error_status, error_text
from heal_tasks.endpoint.transport import MAX_REPLY_BYTES, bound, bounded_client

Failure = Literal[
    "no credit", "denied", "forbidden", "no api", "throttled", "unreachable", "outage", "rejected", "stopped"
]


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


class Attempts(threading.local):
    """The attempts at the request that this thread sends; ``secret`` is kept out of all messages.

    ``expected`` is that of ``error_status``, ``max_bytes`` the largest reply.
    """

    def __init__(
        self, secret: str | None, timeout_s: float, stopped: threading.Event, expected: str, max_bytes: int
    ) -> None:
        self._secret, self._timeout_s, self._stopped = secret, timeout_s, stopped
        self._expected, self._max_bytes = expected, max_bytes
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
        return bounded_client(lambda: self._deadline_s, request=self._before, response=self._after)

    def _before(self, request: httpx2.Request) -> None:
        del request
        if self._stopped.is_set():
            raise GivenUpError("stopped", "the run has stopped, so the request was not sent; run the step again")
        self._deadline_s = time.monotonic() + self._timeout_s

    def _after(self, response: httpx2.Response) -> None:
        sent_status = response.status_code
        settle_status(response, self._secret, self._expected, self._max_bytes)
        if not response.is_error:
            return
        also = "" if sent_status == response.status_code else f", meant as {response.status_code}"
        message = without_key(f"HTTP {sent_status}{also}: {error_text(response.text)}", self._secret)
        tokens = reported_tokens(response.text)
        if any(tokens):
            self.tokens, self._complaint = (self.tokens[0] + tokens[0], self.tokens[1] + tokens[1]), message
        if response.status_code == 402:
            raise GivenUpError("no credit", message)
        pause_s = retry_after_s(response.headers, time.time())
        throttles = response.status_code == 429 or (response.status_code == 503 and pause_s is not None)
        if throttles and response.headers.get("x-should-retry") != "false":
            raise RateLimitedError(message, pause_s or 0.0)


def settle_status(
    response: httpx2.Response, secret: str | None, expected: str = "", max_bytes: int = MAX_REPLY_BYTES
) -> None:
    """Read a reply, within its bound, and give it the status that the error in it stands for, if there is one.

    ``expected`` is that of ``error_status``. A redirect or a web page is a GivenUpError.
    """
    bound(response, max_bytes)
    if 300 <= response.status_code < 400:
        to = response.headers.get("location", "nowhere")
        raise GivenUpError("no api", without_key(f"HTTP {response.status_code}: redirects to {to}", secret))
    response.read()
    status = error_status(response.status_code, response.text, expected)
    if status == WEB_PAGE:
        page = " ".join(response.text.split())
        raise GivenUpError("no api", without_key(f"HTTP {response.status_code}: a web page, {page}", secret))
    response.status_code = status or response.status_code


def retry_after_s(headers: Mapping[str, str], unix_s: float) -> float | None:
    """Seconds that a reply asks to wait, by ``retry-after-ms`` or else ``Retry-After`` (seconds, or a date).

    None where neither can be read; ``unix_s`` is the time now, of a reply without a date of its own.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    until_s, sent_s = _unix_s(headers.get("retry-after", "")), _unix_s(headers.get("date", ""))
    # By the server's own clock, from which that of this machine may differ by hours.
    return None if until_s is None else max(0.0, until_s - (unix_s if sent_s is None else sent_s))


def _unix_s(text: str) -> float | None:
    """The Unix time of a date in a header; None if it is none."""
    try:
        date = parsedate_to_datetime(text)
        # "-0000" makes a naive date, which is UTC by RFC 5322.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
