"""Rate limits: pauses as the server asks, no failures, and the end of a run that would wait too long."""

import re
import threading
import time
from collections import Counter

import pytest

from heal_tasks.core.errors import RetryableError
from heal_tasks.endpoint.attempts import retry_after_s
from tests.fake_openai import FakeOpenAI, Reply, Request, error
from tests.questions.llm_writers import SOON, chunk, chunks, one, statuses, tokens, writer


@pytest.mark.parametrize("status", [429, 500, 503])
def test_throttling_and_server_errors_are_retried(status: int) -> None:
    with FakeOpenAI(lambda request: error(status, "later", **SOON) if request.attempt < 2 else None) as fake:
        written = one(fake)
    assert statuses(written) == ["ok"]
    assert len(fake.requests) == 3


def test_throttled_calls_are_not_failures_and_are_not_in_the_ledger() -> None:
    with FakeOpenAI(lambda request: error(429, "slow", **SOON) if request.attempt < 9 else None) as fake:
        (written,) = writer(fake, max_retries=0)([chunk(1)])
    assert [call.status for call in written.calls[1:]] == ["ok"]
    assert len(fake.requests) == 10


def test_a_request_too_large_for_the_limit_ends_while_others_pass() -> None:
    def rule(request: Request) -> Reply | None:
        return error(429, "Request too large", **SOON) if "number2 " in request.passage else None

    with FakeOpenAI(rule) as fake:
        results = list(writer(fake, backoff_s=0.0001)(chunks(80)))
    assert Counter(written.status for written in results) == {"ok": 79, "failed": 1}


def test_a_limit_per_day_ends_the_run_at_once_and_keeps_what_was_paid() -> None:
    def rule(request: Request) -> Reply | None:
        late = int(request.title.split()[1]) >= 10
        return error(429, "requests per day, secret-key-123", retry_after="7200") if late else None

    results = []
    expected = pytest.raises(
        RetryableError, match=r"next attempt in 7200 s.*requests per day, \[key\].*run the step again"
    )
    with FakeOpenAI(rule) as fake, expected:
        for written in writer(fake)(chunks(200)):
            results.append(written)
    assert sum(written.status == "ok" for written in results) == 10
    assert not [call for written in results for call in written.calls if "was not sent" in call.raw_reply]
    assert len(fake.requests) <= 1 + 10 + 2  # the probe, the answers, and one request in flight per worker
    assert tokens(results) == (fake.input_tokens, fake.output_tokens)


def test_stopping_while_all_workers_pause_leaves_no_thread_behind() -> None:
    def rule(request: Request) -> Reply | None:
        return error(429, "later", retry_after="600") if int(request.title.split()[1]) > 0 else None

    with FakeOpenAI(rule) as fake:
        running = writer(fake)(chunks(20))
        next(running)
        running.close()  # type: ignore[attr-defined]
        workers = [thread for thread in threading.enumerate() if thread.name.startswith("ask")]
        for worker in workers:
            worker.join(5)
    assert not any(worker.is_alive() for worker in workers)


class Bucket:
    """A server that answers one request per period, and asks the others to come back after it."""

    def __init__(self, period_s: float) -> None:
        self._period_s, self._free_s, self._lock = period_s, 0.0, threading.Lock()
        self.refused = 0

    def __call__(self, request: Request) -> Reply | None:
        with self._lock:
            now_s = time.monotonic()
            if now_s >= self._free_s:
                self._free_s = now_s + self._period_s
                return None
            self.refused += 1
            return error(429, "slow down", retry_after_ms=str(round(1000 * self._period_s)))


def test_a_server_that_bears_one_call_at_a_time_answers_all_chunks_in_the_end() -> None:
    bucket = Bucket(0.01)
    with FakeOpenAI(bucket) as fake:
        results = list(writer(fake, concurrency=8, backoff_s=0.02)(chunks(60)))
    assert Counter(written.status for written in results) == {"ok": 60}
    assert bucket.refused > 0, "the test does not throttle"
    assert tokens(results) == (fake.input_tokens, fake.output_tokens)


def test_a_pause_is_as_long_as_the_server_asks() -> None:
    arrivals: list[float] = []

    def rule(request: Request) -> Reply | None:
        arrivals.append(time.monotonic())
        return error(429, "slow", retry_after="0.4") if request.attempt == 0 else None

    with FakeOpenAI(rule) as fake:
        assert statuses(one(fake)) == ["ok"]
    assert arrivals[1] - arrivals[0] >= 0.4


def test_rate_limits_without_any_answer_end_the_run_after_the_patience(caplog: pytest.LogCaptureFixture) -> None:
    start_s = time.monotonic()
    expected = pytest.raises(RetryableError, match=r"rate limited for .*the limit is 0 s .*HEAL_LLM_CONCURRENCY")
    with FakeOpenAI(slow := lambda request: error(429, "slow", retry_after_ms="50"), slow) as fake, expected:
        list(writer(fake, patience_s=0.4)(chunks(9)))
    assert 0.2 < time.monotonic() - start_s < 60
    assert len(fake.requests) == 0 < len(fake.probes) < 10
    (said,) = caplog.messages
    assert re.search(r"throttles, for 0 s now, and is asked again until 0 s: HTTP 429: .*slow", said)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 -0000"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        # This machine's clock is a day off.
        ({"retry-after": "Fri, 02 Jan 1970 00:16:50 GMT", "date": "Fri, 02 Jan 1970 00:16:40 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:16:50 GMT", "date": "yesterday"}, 10.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, 1000.0) == expected
