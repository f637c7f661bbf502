"""Step answer against a real Postgres and a real HTTP server, over planted spaces."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.evaluation.answers import ANSWERED, METRICS
from heal_tasks.report.page import PAGE
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.runs import EvaluationRow, RunRepository
from heal_tasks.store.spaces.spaces import SpaceRepository
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error
from tests.steps.asking import PRICE, number, traffic, with_llm
from tests.steps.planted_systems import DOCUMENTS, TRAINED_URI, plant_systems


@pytest.fixture
def planted(auto: Connection, settings: Settings) -> Iterator[Connection]:
    """Three systems, and the trained one chosen as the best candidate."""
    plant_systems(auto, settings)
    space = SpaceRepository(auto).find_by_uri(TRAINED_URI)
    assert space is not None
    GenerationRepository(auto).create(run_id="r1", space=space)
    RunRepository(auto).open_run("r1")
    yield auto


def answer(conn: Connection, settings: Settings, run_id: str = "r1") -> Manifest:
    best = number(conn, "SELECT max(generation_id) FROM heal.generation")
    refs: dict[str, int | str] = {"topic_run_id": 0, "best_id": best, "best_system": "trained model"}
    return load_step("answer").run(settings, Manifest(run_id=run_id, refs=refs))


def measured(conn: Connection) -> dict[str, dict[str, EvaluationRow]]:
    found: dict[str, dict[str, EvaluationRow]] = {}
    for row in RunRepository(conn).evaluations("r1"):
        assert row.question_set == ANSWERED
        found.setdefault(row.system, {})[row.metric] = row
    return found


def values(conn: Connection) -> dict[str, list[float]]:
    return {system: [row[metric].value for metric in METRICS] for system, row in measured(conn).items()}


def test_systems_are_measured_by_the_answers_from_their_passages(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        made = answer(planted, with_llm(settings, fake, answer_questions=100))
        assert all(request.body["temperature"] == 0 for request in fake.requests)
        assert all(len(request.passage.split("\n\n")) == 3 for request in fake.requests)
    # The fake answers with the sentence that has two words of the question, which only the right document has.
    assert values(planted) == {
        "base model": [0, 0, 0, 0],
        "live generation": [0.5, 0.5, 0.5, 0],
        "trained model": [1, 1, 1, 0],
    }
    row = measured(planted)["trained model"]["answer_rouge_l"]
    assert (row.rival, row.difference, row.questions) == ("base model", 1.0, DOCUMENTS)
    assert made.counts["measured"] == DOCUMENTS
    calls = planted.execute("SELECT DISTINCT purpose, status, raw_reply FROM heal.llm_call").fetchall()
    assert calls == [("answers", "ok", None)]
    assert (made.counts["input_tokens"], made.counts["output_tokens"]) == (fake.input_tokens, fake.output_tokens)
    assert (
        made.note
        == "12 of 12 questions answered by fake from the passages of base model, live generation, trained model"
    )


def test_equal_passages_are_paid_for_once_over_systems_and_runs(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        wanting = with_llm(settings, fake, answer_questions=100)
        first = answer(planted, wanting)
        # Base and live share six questions' passages, live and trained the other six.
        assert (len(fake.requests), first.counts["asked"], first.counts["reused"]) == (24, 24, 12)
        before = traffic(fake)
        planted.execute("DELETE FROM heal.step_result")
        again = answer(planted, wanting)
        assert (traffic(fake), again.counts["reused"]) == (before, 36)
    assert values(planted)["trained model"] == [1, 1, 1, 0]


def test_an_answer_from_elsewhere_is_unsupported(planted: Connection, settings: Settings) -> None:
    def confident(request: Request) -> Reply | None:
        if not request.wants_answer or "number" + request.title.split("number")[1].split()[0] in request.passage:
            return None
        return completion(json.dumps({"answer": "It holds xenon.", "evidence_quote": "The chamber holds xenon."}))

    with FakeOpenAI(confident) as fake:
        answer(planted, with_llm(settings, fake, answer_questions=100))
    found = values(planted)
    assert [found[name][2:] for name in ("base model", "live generation", "trained model")] == [
        [1, 1],
        [1, 0.5],
        [1, 0],
    ]
    assert 0 < found["base model"][1] < 0.5


def test_the_wanted_number_of_questions_is_answered_the_same_every_time(
    planted: Connection, settings: Settings
) -> None:
    with FakeOpenAI() as fake:
        answer(planted, with_llm(settings, fake, answer_questions=4))
        assert measured(planted)["live generation"]["answer_given"].questions == 4
        assert len({request.title for request in fake.requests}) == 4
        first = {request.title for request in fake.requests}
        planted.execute("DELETE FROM heal.step_result")
        answer(planted, with_llm(settings, fake, answer_questions=6))
        assert first < {request.title for request in fake.requests}


def test_only_questions_answered_for_every_system_are_measured(planted: Connection, settings: Settings) -> None:
    failing = f"number{DOCUMENTS - 1} "

    def rule(request: Request) -> Reply | None:
        broken = request.wants_answer and failing in request.title and failing in request.passage
        return error(400, "no", code="string_above_max_length") if broken else None

    with FakeOpenAI(rule) as fake:
        made = answer(planted, with_llm(settings, fake, answer_questions=100))
    assert made.counts["failed"] >= 1
    assert {row["answer_given"].questions for row in measured(planted).values()} == {DOCUMENTS - 1}


def test_a_spend_limit_ends_the_asking_and_its_reservations(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        made = answer(planted, with_llm(settings, fake, answer_questions=100, llm_run_spend_limit_usd=2.8, **PRICE))
    assert made.counts["over_spend_limit"] > 0 < made.counts["asked"]
    assert number(planted, "SELECT sum(cost_usd) FROM heal.llm_call") <= 2.8
    assert number(planted, "SELECT count(*) FROM heal.llm_reservation") == 0


def test_an_endpoint_that_does_not_answer_is_a_note(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        wanting = with_llm(settings, fake, answer_questions=100)
    made = answer(planted, wanting)
    assert made.note.startswith("0 of 12 questions answered by fake from the passages of no system; 1 failed; not all")
    assert "the LLM endpoint" in made.note
    assert measured(planted) == {}


def test_answers_are_deleted_with_their_passages(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        answer(planted, with_llm(settings, fake, answer_questions=100))
    chunk = number(planted, "SELECT min(chunk_id) FROM heal.chunk")
    quoting = "SELECT count(*) FROM heal.answer WHERE {} = ANY (chunk_ids)"
    total, held = number(planted, "SELECT count(*) FROM heal.answer"), number(planted, quoting.format(chunk))
    assert held > 3
    planted.execute("CALL heal.delete_chunks(%s::bigint[])", ([chunk],))
    assert number(planted, "SELECT count(*) FROM heal.answer") == total - held


def test_the_page_shows_the_systems_side_by_side(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        answer(planted, with_llm(settings, fake, answer_questions=100))
    made = load_step("report").run(settings, Manifest(run_id="r1"))
    section = (Path(made.text("report_uri")) / PAGE).read_text().partition(">Answers</h2>")[2].partition("<h2")[0]
    rows = [part.split("</tr>")[0] for part in section.split("<tr><td>")[1:]]
    assert [row.split("</td>")[0] for row in rows] == ["base model", "live generation", "trained model"]
    assert "+1.000 [+1.000, +1.000]" in rows[2]
    assert "+" not in rows[0]


def test_without_the_setting_or_a_model_nothing_is_asked(planted: Connection, settings: Settings) -> None:
    with FakeOpenAI() as fake:
        made = answer(planted, with_llm(settings, fake))
        assert traffic(fake) == 0
    assert made.note == "no answers are wanted (HEAL_ANSWER_QUESTIONS=0)"
    wanting = settings.model_copy(update={"answer_questions": 5, "llm_base_url": None, "llm_api_key": None})
    planted.execute("DELETE FROM heal.step_result")
    with pytest.raises(SettingsError, match="HEAL_ANSWER_QUESTIONS=5 requires an LLM to write answers"):
        answer(planted, wanting)
