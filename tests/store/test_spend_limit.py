"""Spend limits: money is reserved before a call, across processes, and settled with the ledger."""

import threading

import pytest

from heal_tasks.store.db import Connection, connect
from heal_tasks.store.llm.ledger import Grant, LlmCall, SpendLimit
from heal_tasks.store.questions.questions import QuestionRepository


def limit(conn: Connection, run: str = "r", *, run_usd: float = 0.0, day_usd: float = 0.0) -> SpendLimit:
    return SpendLimit(conn, run, run_usd=run_usd, day_usd=day_usd)


def pay(conn: Connection, cost_usd: float, *, run: str = "r", chunk: int = 99) -> None:
    call = LlmCall("questions", "m", "p", "h", chunk, "ok", 1, 1, cost_usd, 0.1, "{}")
    QuestionRepository(conn).store(run, [], [call])


def costs(*chunks: int, cost_usd: float = 1.0) -> list[tuple[int, float]]:
    return [(chunk, cost_usd) for chunk in chunks]


def test_without_a_limit_nothing_is_limited(auto: Connection) -> None:
    assert not limit(auto).limited
    assert limit(auto, run_usd=1).limited
    assert limit(auto, day_usd=1).limited
    assert limit(auto).reserve(costs(1, 2, cost_usd=1e9)).count == 2


def test_money_is_granted_for_the_chunks_that_fit(auto: Connection) -> None:
    made = limit(auto, run_usd=3.5)
    assert made.reserve(costs(1, 2, 3, 4, 5)) == Grant(3)
    assert made.reserve(costs(4, 5)) == Grant(0, wait=True)
    made.release([1])
    assert made.reserve(costs(4, 5)) == Grant(1)
    assert made.spending().run_reserved_usd == 3.0


def test_settling_frees_what_was_not_spent(auto: Connection) -> None:
    made = limit(auto, run_usd=2)
    assert made.reserve(costs(1, 2)) == Grant(2)
    pay(auto, 0.25, chunk=1)
    spending = made.spending()
    assert (spending.run_usd, spending.run_reserved_usd) == (0.25, 1.0)
    assert made.left_usd(spending) == pytest.approx(0.75)
    pay(auto, 1.5, chunk=2)
    assert made.reserve(costs(3)) == Grant(0), "nothing is under way that could free money"


def test_the_tighter_limit_counts(auto: Connection) -> None:
    pay(auto, 2.0, run="other")
    pay(auto, 1.0)
    assert limit(auto, run_usd=3, day_usd=4).reserve(costs(1, 2, 3)) == Grant(1)
    assert limit(auto, "new", run_usd=1, day_usd=100).reserve(costs(1, 2, 3)) == Grant(1)
    # One chunk is reserved by each of the two runs.
    assert limit(auto, "third", day_usd=5).reserve(costs(1)) == Grant(0, wait=True)


def test_yesterday_does_not_count_for_the_day_but_for_the_run(auto: Connection) -> None:
    pay(auto, 5.0)
    auto.execute("UPDATE heal.llm_call SET created_at = date_trunc('day', now(), 'UTC') - interval '1 second'")
    assert limit(auto, day_usd=1).reserve(costs(1)) == Grant(1)
    assert limit(auto, run_usd=5).reserve(costs(2)) == Grant(0)


def test_a_killed_process_blocks_money_for_an_hour_at_most(auto: Connection) -> None:
    assert limit(auto, "killed", day_usd=1).reserve(costs(1)) == Grant(1)
    assert limit(auto, day_usd=1).reserve(costs(1)) == Grant(0, wait=True)
    row = auto.execute("SELECT expires_at - now() FROM heal.llm_reservation").fetchone()
    assert row is not None
    assert 3500 < row[0].total_seconds() <= 3601
    auto.execute("UPDATE heal.llm_reservation SET expires_at = now()")
    assert limit(auto, day_usd=1).reserve(costs(1)) == Grant(1)
    assert auto.execute("SELECT run_id FROM heal.llm_reservation").fetchall() == [("r",)]


def test_a_retry_takes_over_what_its_run_had_reserved(auto: Connection) -> None:
    assert limit(auto, run_usd=2).reserve(costs(1, 2)) == Grant(2)
    assert limit(auto, run_usd=2).reserve(costs(1, 2)) == Grant(2)


def test_many_at_once_never_reserve_the_same_money(database_url: str) -> None:
    granted: list[int] = []

    def work(number: int) -> None:
        with connect(database_url, autocommit=True) as conn:
            made = limit(conn, f"r{number}", day_usd=10)
            granted.extend(made.reserve(costs(turn)).count for turn in range(4))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 24
    assert sum(granted) == 10
