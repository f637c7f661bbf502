"""Steps ask, map_entities and answer with a real language model, SmolLM2, whose replies keep to the form and little else.

Its words differ from one processor to another, so nothing here depends on them.
"""

import json
import re
from collections.abc import Callable

import pytest

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import Record
from heal_tasks.questions.llm.dialect import MOST_PROBE_TOKENS
from heal_tasks.questions.llm.question_prompt import parse_drafts, question_prompt
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.documents.documents import DocumentRepository
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.llama_cpp import LlamaCpp, smollm2
from tests.steps.asking import PRICE, ask, map_entities, with_llm
from tests.steps.planted_systems import TRAINED_URI, plant_systems

CONTEXT = 1024
TEXTS = {
    "Yeast": "Yeast cells die above 45 degrees, so the dough does not rise.",
    "Pipes": "Copper pipes corrode in acidic water. Lime raises the pH and stops the corrosion.",
}
TOO_LONG = {"Valves": " ".join(f"Valve {number} opens at {number} bar." for number in range(200))}
LATER = {"Radio": "The radio at Port Selwyn sends a storm warning at noon."}


@pytest.fixture(scope="module")
def server() -> LlamaCpp:
    """One server for all tests of this file."""
    return LlamaCpp(smollm2(), context=CONTEXT, parallel=1, cache=True)


def add(conn: Connection, texts: dict[str, str]) -> None:
    records = [Record(title, title, text) for title, text in texts.items()]
    DocumentRepository(conn).apply_records("s", records, lambda title, text: [text])


def smol(settings: Settings, server: LlamaCpp, **changes: object) -> Settings:
    return with_llm(
        settings, server, **{"llm_model": "smollm2", "llm_concurrency": 1, "questions_per_chunk": 1, **PRICE, **changes}
    )


def quoted(evidence: str, text: str) -> bool:
    """The words of a quotation follow each other in a text."""
    wanted, words = (re.findall(r"\w+", value.lower()) for value in (evidence, text))
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def check_ledger(conn: Connection, made: Manifest, run_id: str) -> None:
    """Every row has its tokens, or an error; they add up to what the step reports."""
    calls = conn.execute(
        "SELECT status, input_tokens, output_tokens, cost_usd, raw_reply FROM heal.llm_call WHERE run_id = %s", (run_id,)
    ).fetchall()
    for status, read, written, cost_usd, reply in calls:
        assert (status == "failed") == (written == 0), reply
        assert cost_usd == pytest.approx((read + written) / 1e4)
    totals = [sum(column) for column in list(zip(*calls, strict=True))[1:4]]
    names = ("input_tokens", "output_tokens", "cost_usd")
    assert totals == pytest.approx([made.counts[name] for name in names])


def check_second_run(conn: Connection, run: Callable[[str], Manifest], server: LlamaCpp) -> None:
    """A second run asks again about that for which there is no usable reply, and about nothing else."""
    query = "SELECT DISTINCT content_hash FROM heal.llm_call WHERE content_hash <> '' AND {}"
    answered, unanswered = (
        {row[0] for row in conn.execute((query + " EXCEPT " + query).format(*pair).encode())}
        for pair in (("status = 'ok'", "false"), ("status <> 'ok'", "status = 'ok'"))
    )
    run("r2")
    again = {row[0] for row in conn.execute(query.format("run_id = 'r2'").encode())}
    assert again == unanswered
    assert not conn.execute(
        "SELECT FROM heal.llm_call WHERE content_hash = ANY(%s) GROUP BY content_hash, prompt_hash "
        "HAVING count(*) FILTER (WHERE status = 'ok') > 1",
        (list(answered),),
    ).fetchall()


def test_questions(auto: Connection, settings: Settings, server: LlamaCpp) -> None:
    add(auto, TEXTS | TOO_LONG)
    model, (_, before) = smol(settings, server), server.tokens()
    made = ask(model)
    assert made.counts["output_tokens"] == server.tokens()[1] - before
    check_ledger(auto, made, "r1")

    states = auto.execute(
        "SELECT title, text, state, reason, reopened_by, questions, useless_calls FROM heal.question_state "
        "JOIN heal.chunk USING (chunk_id, document_id) JOIN heal.document USING (document_id)"
    ).fetchall()
    assert {state[0] for state in states} == TEXTS.keys() | TOO_LONG.keys()
    assert made.counts["asked"] + made.counts["failed"] == len(states)
    for title, _, state, reason, reopened_by, _, useless in states:
        assert reopened_by
        if state == "answered":
            assert not reason
        else:
            assert (state, bool(reason), useless > 0) == ("failed", True, True), title
    assert next(state[2:4] for state in states if state[0] in TOO_LONG)[0] == "failed"
    print(states, made)
    replies = auto.execute(
        "SELECT raw_reply FROM heal.llm_call WHERE status = 'ok' AND content_hash <> '' AND raw_reply IS NOT NULL"
    )
    drafts = [draft for (reply,) in replies for draft in parse_drafts(reply)]
    assert len(drafts) == made.counts["kept"] + made.counts["dropped"] > 0
    stored = auto.execute("SELECT evidence, c.text FROM heal.question JOIN heal.chunk c USING (chunk_id)").fetchall()
    assert len(stored) == made.counts["kept"]
    assert all(quoted(*row) for row in stored)

    check_second_run(auto, lambda run_id: ask(model, run_id), server)
    check_spend_limit(auto, model, server)


def check_spend_limit(conn: Connection, model: Settings, server: LlamaCpp) -> None:
    """The tokens of real calls count: one cent less than the most that the next call can cost, and it is not made."""
    ((spent,),) = conn.execute("SELECT sum(cost_usd) FROM heal.llm_call").fetchall()
    ((title, text),) = LATER.items()
    most = question_prompt(1).most_tokens(ChunkToAsk(1, title, text, ""))
    enough = spent + (sum(most) + sum(MOST_PROBE_TOKENS)) / 1e4
    conn.execute("DELETE FROM heal.chunk WHERE text = %s", tuple(TOO_LONG.values()))
    add(conn, LATER)
    before = server.tokens()
    made = ask(model.model_copy(update={"llm_day_spend_limit_usd": enough - 0.01}), "r3")
    assert (made.counts["over_spend_limit"], server.tokens()) == (1, before)
    made = ask(model.model_copy(update={"llm_day_spend_limit_usd": enough}), "r4")
    assert (made.counts["over_spend_limit"], made.counts["asked"] + made.counts["failed"]) == (0, 1)
    assert server.tokens()[1] - before[1] == made.counts["output_tokens"] > 0


def test_entity_maps(auto: Connection, settings: Settings, server: LlamaCpp) -> None:
    add(auto, TEXTS)
    model = smol(settings, server, map_rate=1.0)
    made = map_entities(model)
    check_ledger(auto, made, "r1")
    rows = auto.execute("SELECT status, map::text, text FROM heal.entity_map JOIN heal.chunk USING (chunk_id)").fetchall()
    print(rows, made)
    assert len(rows) + made.counts["failed"] == len(TEXTS)
    for _, written, text in rows:
        for entity in json.loads(written)["entities"]:
            assert quoted(entity["name"], text)
            assert all(quoted(fact["value"], text) for fact in entity["attributes"])
    check_second_run(auto, lambda run_id: map_entities(model, run_id), server)


def test_answers(auto: Connection, settings: Settings, server: LlamaCpp) -> None:
    plant_systems(auto, settings)
    space = SpaceRepository(auto).find_by_uri(TRAINED_URI)
    assert space is not None
    best = GenerationRepository(auto).create(run_id="r1", space=space).generation_id
    model = smol(settings, server, answer_questions=1)

    def answer(run_id: str) -> Manifest:
        refs: dict[str, int | str] = {"topic_run_id": 0, "best_id": best, "best_system": "trained model"}
        return load_step("answer").run(model, Manifest(run_id=run_id, refs=refs))

    made = answer("r1")
    check_ledger(auto, made, "r1")
    print(made, auto.execute("SELECT * from heal.answer").fetchall())
    check_second_run(auto, answer, server)
