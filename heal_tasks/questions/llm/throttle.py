"""How many calls may be in flight, and when: one throttled call slows all workers, and success speeds them up again.

Additive increase, multiplicative decrease (Chiu and Jain 1989, section 2), as TCP does it: a server that throttles
says how much it bears by refusing only, so the limit has to be found by trying.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from heal_tasks.core.errors import RetryableError

SUCCESSES_PER_STEP = 10
LONGEST_BACKOFF_S = 60.0

# Limits per minute pass within it; a limit per day does not, and a scheduler waits for that better than a busy worker.
PATIENCE_S = 15 * 60.0


class Throttle:
    """Lets calls start, from any thread.

    Args:
        most: calls in flight that are never exceeded, and what the limit starts at.
        backoff_s: first shared pause where the server names none; doubles, up to a minute, with every further
            throttling that no success came between. Also the least pause where it names one.
        patience_s: longest time without a success that is spent waiting. A longer wait asked for by the server ends it
            at once.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        backoff_s: float = 0.5,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._backoff_s, self._patience_s, self._clock = most, backoff_s, patience_s, clock
        self._limit, self._in_flight, self._successes, self._backoffs = most, 0, 0, 0
        self._resume_s = self._halved_s = -math.inf
        self._throttled_since_s: float | None = None
        self._closed = ""
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, pause aside."""
        return self._limit

    def delay_s(self) -> float:
        """Seconds until a call may start: 0 for now, infinite where another call has to end first."""
        if self._in_flight >= self._limit:
            return math.inf
        return max(0.0, self._resume_s - self._clock())

    def enter(self) -> float:
        """Wait until a call may start.

        First come, first served, so that a call which is throttled again and again goes behind the others.

        Returns:
            When it started, for the other methods; :meth:`leave` has to follow.

        Raises:
            RetryableError: the throttle was closed; the message says why.
        """
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while not self._closed and (delay_s := self._delay_of(ticket)) > 0:
                    self._changed.wait(delay_s if math.isfinite(delay_s) else None)
                if self._closed:
                    raise RetryableError(self._closed)
                self._in_flight += 1
                return self._clock()
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def leave(self) -> None:
        """A call has ended, whatever came of it."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def succeeded(self, started_s: float) -> None:
        """A call was answered.

        Args:
            started_s: what :meth:`enter` returned for it. Calls from before the last throttling tell nothing about
                the server's mood since.
        """
        with self._changed:
            if started_s < self._halved_s:
                return
            self._throttled_since_s, self._backoffs = None, 0
            self._successes += 1
            if self._successes >= SUCCESSES_PER_STEP:
                self._successes, self._limit = 0, min(self._most, self._limit + 1)
                self._changed.notify_all()

    def throttled(self, started_s: float, retry_after_s: float | None, complaint: str = "") -> None:
        """A call was refused for now. Closes the throttle where the wait would be longer than the patience.

        Args:
            started_s: what :meth:`enter` returned for it. Calls that were in flight together halve the limit once.
            retry_after_s: how long the server wants to be left alone; None where it does not say.
            complaint: what the server said, for the message.
        """
        with self._changed:
            now = self._clock()
            pause = retry_after_s or 0.0
            if started_s >= self._halved_s:
                pause = max(pause, min(LONGEST_BACKOFF_S, self._backoff_s * 2.0 ** min(self._backoffs, 30)))
                self._limit, self._halved_s = max(1, self._limit // 2), now
                self._successes, self._backoffs = 0, self._backoffs + 1
            if self._throttled_since_s is None:
                self._throttled_since_s = now
            if now + pause - self._throttled_since_s > self._patience_s:
                self._close(
                    f"it throttles: {now - self._throttled_since_s:.0f} s without a success and {pause:.0f} s more to "
                    f"wait, and {self._patience_s:.0f} s is the most that is spent so ({complaint}); lower "
                    "HEAL_LLM_CONCURRENCY or ask the provider for a higher limit"
                )
                return
            self._resume_s = max(self._resume_s, now + pause)
            self._changed.notify_all()

    def rest(self, pause_s: float) -> None:
        """Wait before a call is repeated, for reasons of that call alone; shorter where the throttle is closed.

        Args:
            pause_s: how long.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._closed), pause_s)

    def close(self) -> None:
        """Wake whoever waits: no further call starts."""
        with self._changed:
            self._close("the run has stopped")

    def _delay_of(self, ticket: object) -> float:
        return self.delay_s() if self._queue[0] is ticket else math.inf

    def _close(self, reason: str) -> None:
        self._closed = self._closed or reason
        self._changed.notify_all()


def retry_after_s(headers: Mapping[str, str], unix_s: float) -> float | None:
    """How long a server asks to wait.

    Args:
        headers: of its reply, names in lower case or a case-insensitive mapping.
        unix_s: the time now, for a header that names a date.

    Returns:
        Seconds, from ``retry-after-ms`` or else ``Retry-After``; None where neither can be read.
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
