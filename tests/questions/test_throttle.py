"""The throttle with a clock that the test moves, and the headers that it is told by."""

import math
import threading
import time

import pytest

from heal_tasks.core.errors import RetryableError
from heal_tasks.questions.llm.throttle import SUCCESSES_PER_STEP, Throttle, retry_after_s


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def succeed(throttle: Throttle, times: int) -> None:
    for _ in range(times):
        throttle.succeeded(throttle.enter())
        throttle.leave()


def be_throttled(throttle: Throttle, clock: Clock, retry_after_s: float | None = None) -> float:
    """One throttled call; the clock then stands where the pause ends. Returns the pause."""
    throttle.throttled(throttle.enter(), retry_after_s)
    throttle.leave()
    pause_s = throttle.delay_s()
    clock.now_s += pause_s
    return pause_s


def test_starts_at_the_most_and_never_exceeds_it(clock: Clock) -> None:
    throttle = Throttle(3, clock=clock)
    succeed(throttle, 5 * SUCCESSES_PER_STEP)
    assert throttle.limit == 3
    for _ in range(3):
        assert throttle.delay_s() == 0
        throttle.enter()
    assert throttle.delay_s() == math.inf
    throttle.leave()
    assert throttle.delay_s() == 0


def test_halves_down_to_one_and_rises_by_one_after_so_many_successes(clock: Clock) -> None:
    throttle, limits = Throttle(8, clock=clock), []
    for _ in range(5):
        be_throttled(throttle, clock)
        limits.append(throttle.limit)
    assert limits == [4, 2, 1, 1, 1]
    succeed(throttle, SUCCESSES_PER_STEP - 1)
    assert throttle.limit == 1
    succeed(throttle, 1)
    assert throttle.limit == 2
    succeed(throttle, 6 * SUCCESSES_PER_STEP)
    assert throttle.limit == 8


def test_calls_that_were_in_flight_together_halve_once(clock: Clock) -> None:
    throttle = Throttle(8, clock=clock)
    started = [throttle.enter() for _ in range(8)]
    clock.now_s += 1
    for start_s in started:
        throttle.throttled(start_s, None)
    assert throttle.limit == 4


def test_an_answer_from_before_the_throttling_does_not_end_it(clock: Clock) -> None:
    throttle = Throttle(4, patience_s=100, clock=clock)
    early_s = throttle.enter()
    clock.now_s += 1
    be_throttled(throttle, clock, 60)
    throttle.succeeded(early_s)
    throttle.throttled(throttle.enter(), 60)
    with pytest.raises(RetryableError, match="60 s without a success and 60 s more to wait, and 100 s is the most"):
        throttle.enter()


def test_all_wait_as_long_as_the_server_says_longer_than_the_sdk_would(clock: Clock) -> None:
    throttle = Throttle(8, clock=clock)
    throttle.throttled(throttle.enter(), 300)
    throttle.leave()
    assert throttle.delay_s() == 300
    clock.now_s += 299
    assert throttle.delay_s() == 1
    clock.now_s += 1
    assert throttle.delay_s() == 0


def test_the_longest_of_several_pauses_counts(clock: Clock) -> None:
    throttle = Throttle(8, clock=clock)
    first, second = throttle.enter(), throttle.enter()
    throttle.throttled(first, 30)
    throttle.throttled(second, 5)
    throttle.leave()
    throttle.leave()
    assert throttle.delay_s() == 30


def test_pauses_double_to_a_minute_where_the_server_names_none_and_start_anew_after_a_success(clock: Clock) -> None:
    throttle = Throttle(2, backoff_s=0.5, clock=clock)
    assert [be_throttled(throttle, clock) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    succeed(throttle, 1)
    assert be_throttled(throttle, clock) == 0.5


def test_a_server_that_asks_for_next_to_nothing_is_not_hammered(clock: Clock) -> None:
    throttle = Throttle(2, backoff_s=0.5, clock=clock)
    assert [be_throttled(throttle, clock, 0.001) for _ in range(3)] == [0.5, 1, 2]


def test_a_wait_beyond_the_patience_closes_at_once_and_says_why(clock: Clock) -> None:
    throttle = Throttle(2, clock=clock)
    throttle.throttled(throttle.enter(), 3600, "requests per day")
    with pytest.raises(
        RetryableError, match=r"3600 s more to wait, and 900 s is .*\(requests per day\); lower HEAL_LLM"
    ):
        throttle.enter()


def test_throttling_without_any_success_ends_after_the_patience(clock: Clock) -> None:
    throttle, start_s = Throttle(2, clock=clock), clock.now_s
    with pytest.raises(RetryableError, match="without a success"):
        while True:
            be_throttled(throttle, clock)
    assert 800 < clock.now_s - start_s <= 900


def test_first_come_first_served() -> None:
    throttle, order = Throttle(1), list[int]()

    def work(number: int) -> None:
        throttle.enter()
        order.append(number)
        throttle.leave()

    throttle.enter()
    workers = []
    for number in range(5):
        workers.append(threading.Thread(target=work, args=(number,)))
        workers[-1].start()
        while len(throttle._queue) <= number:
            time.sleep(0.001)
    throttle.leave()
    for worker in workers:
        worker.join(5)
    assert order == [0, 1, 2, 3, 4]


def test_waiting_workers_start_when_one_leaves_and_give_up_when_it_closes() -> None:
    throttle, entered, refused = Throttle(1), threading.Semaphore(0), list[str]()

    def work() -> None:
        try:
            throttle.enter()
            entered.release()
        except RetryableError as error:
            refused.append(str(error))

    throttle.enter()
    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    throttle.leave()
    assert entered.acquire(timeout=5)
    throttle.close()
    for worker in workers:
        worker.join(5)
    assert refused == ["the run has stopped"]


def test_a_rest_ends_when_it_closes() -> None:
    throttle = Throttle(1)
    throttle.close()
    worker = threading.Thread(target=throttle.rest, args=(60.0,), daemon=True)
    worker.start()
    worker.join(5)
    assert not worker.is_alive()


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
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, 1000.0) == expected
