"""Step ask against llama.cpp's server, which decodes under the schema that it is sent."""

from pathlib import Path

from heal_tasks.core.settings import Settings
from heal_tasks.store.db import Connection
from tests.llama_cpp import random_model
from tests.steps.asking import add, ask, number, with_llm

CHUNKS = 10


def test_a_random_model_keeps_to_the_schema_and_the_ledger_is_exact(
    auto: Connection, settings: Settings, tmp_path: Path
) -> None:
    add(auto, range(CHUNKS))
    server = random_model(tmp_path)
    model = with_llm(settings, server, llm_model="tiny")
    counts = ask(model).counts
    spent = server.tokens()
    ask(model, "r2")
    assert server.tokens() == spent
    ledger = "SELECT status, count(*), sum(input_tokens), sum(output_tokens) FROM heal.llm_call GROUP BY 1"
    assert auto.execute(ledger).fetchall() == [("ok", 1 + CHUNKS, *spent)]
    probe = number(auto, "SELECT raw_reply FROM heal.llm_call ORDER BY call_id LIMIT 1")
    assert probe.startswith("capability probe, json_schema:")
    # Letters drawn at random are no quotation of the chunk: what follows the schema is still no question.
    assert (counts["asked"], counts["kept"], counts["failed"]) == (CHUNKS, 0, 0)
    assert counts["dropped"] > 0
