"""Helpers for tests of batches: step ask over the fake Batch API until it is done, and checks of the ledger."""

from typing import Any

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.runner import Waiting
from heal_tasks.store.db import Connection
from tests.fake_openai import FakeOpenAI
from tests.steps.asking import ask, number, with_llm


def batching(settings: Settings, fake: FakeOpenAI, **changes: Any) -> Settings:
    return with_llm(settings, fake, **{"llm_batch": "on", **changes})


def to_end(settings: Settings, run_id: str = "r1", **options: Any) -> Manifest:
    for _ in range(20):
        try:
            return ask(settings, run_id, **options)
        except Waiting:
            continue
    raise AssertionError("the step waits for ever")


def check_ledger(conn: Connection, fake: FakeOpenAI) -> None:
    """The ledger is exact to the token, and nothing is left open."""
    sums = conn.execute("SELECT sum(input_tokens), sum(output_tokens) FROM heal.llm_call").fetchone()
    assert sums == (fake.input_tokens, fake.output_tokens)
    assert number(conn, "SELECT count(*) FROM heal.llm_reservation") == 0
    assert number(conn, "SELECT count(*) FROM heal.llm_batch WHERE state <> 'collected'") == 0


def answered(conn: Connection) -> int:
    return int(number(conn, "SELECT count(*) FROM heal.chunk_asked"))
