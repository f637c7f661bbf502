"""Helpers for tests of step ask: documents, settings, the step in this process or another, stored values."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from heal_tasks.core.ids import document_id
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.core.types import Record
from heal_tasks.questions.llm.dialect import MOST_PROBE_TOKENS
from heal_tasks.questions.llm.question_prompt import question_prompt
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.fake_openai import FakeOpenAI, Reply, Request, answer
from tests.llama_cpp import LlamaCpp

WORDS = ("alpha", "beacon", "copper", "dipole", "enzyme", "fjord", "gneiss", "helium", "isotope", "jasmine")
PRICE = {"llm_input_usd_per_million": 100.0, "llm_output_usd_per_million": 100.0}


def body(number: int) -> str:
    a, b, c = (WORDS[number // divisor % 10] for divisor in (1, 10, 100))
    return f"The {a} chamber number{number} holds {b} vapour near {c} glass. Its outer shell resists saline corrosion."


def add(conn: Connection, numbers: range, *, prefix: str = "d") -> None:
    records = [Record(f"{prefix}{number}", f"Report {number}", body(number)) for number in numbers]
    DocumentRepository(conn).apply_records("s", records, lambda title, text: [("", text)])


def delete(conn: Connection, numbers: range, *, prefix: str = "d") -> None:
    ids = [document_id("s", f"{prefix}{number}") for number in numbers]
    DocumentRepository(conn).delete(ids)


def with_llm(settings: Settings, server: FakeOpenAI | LlamaCpp, **changes: Any) -> Settings:
    values: dict[str, Any] = {"llm_base_url": server.base_url, "llm_model": "fake", "llm_concurrency": 4, **changes}
    return load_settings(var_dir=settings.var_dir, database_url=settings.require_database_url(), **values)


def mapped(settings: Settings, fake: FakeOpenAI, **changes: Any) -> Settings:
    return with_llm(settings, fake, **{"map_rate": 0.5, **changes})


def ask(settings: Settings, run_id: str = "r1", shard: int = 0, shards: int = 1) -> Manifest:
    with connect(settings.require_database_url(), autocommit=True) as conn:
        RunRepository(conn).open_run(run_id)
    return load_step("ask").run(settings, Manifest(run_id=run_id), shard, shards)


def map_entities(settings: Settings, run_id: str = "r1", shard: int = 0, shards: int = 1) -> Manifest:
    with connect(settings.require_database_url(), autocommit=True) as conn:
        RunRepository(conn).open_run(run_id)
    return load_step("map_entities").run(settings, Manifest(run_id=run_id), shard, shards)


@contextlib.contextmanager
def step_process(
    settings: Settings, fake: FakeOpenAI, command: str, **changes: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A step of run r1 in a process of its own; killed when the block ends."""
    environment = {
        **os.environ, "HEAL_DATABASE_URL": settings.require_database_url(), "HEAL_VAR_DIR": str(settings.var_dir),
        "HEAL_LLM_BASE_URL": fake.base_url, "HEAL_LLM_MODEL": "fake", **changes,
    }  # fmt: skip
    with connect(settings.require_database_url(), autocommit=True) as conn:
        RunRepository(conn).open_run("r1")
    with subprocess.Popen(
        [sys.executable, "-m", "heal_tasks", command, "--run-id", "r1"],
        cwd=Path(__file__).parents[2], env=environment, stdout=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.send_signal(signal.SIGKILL)


def wait_until(happened: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)


def number(conn: Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def most_usd(settings: Settings) -> float:
    """What the first chunk can cost at most."""
    spec = question_prompt(settings.questions_per_chunk)
    tokens = spec.most_tokens(ChunkToAsk(1, "Report 1", body(1), "h"))
    return 100 * (sum(tokens) + sum(MOST_PROBE_TOKENS)) / 1e6


def traffic(fake: FakeOpenAI) -> int:
    return len(fake.requests) + len(fake.probes)


def dear(request: Request) -> Reply:
    """The default reply at a price."""
    reply = answer(request)
    reply.body["usage"] = {"prompt_tokens": 1000, "completion_tokens": 200}
    return reply
