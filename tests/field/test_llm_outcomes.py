"""When a run over an unusable model ends, what stays open, and how chunks that nobody can answer are treated."""

import json

import pytest

from heal_tasks.core.errors import RetryableError, SettingsError, StepError
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.client import USELESS_CHUNKS
from heal_tasks.store.db import Connection
from tests.fake_openai import FakeOpenAI, Reply, Request, completion, error
from tests.steps.asking import PRICE, add, ask, number, traffic, with_llm

USELESS = completion("I like the sea.")


def chunk_number(request: Request) -> int:
    return int(request.title.split()[1])


def states(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT state, count(*) FROM heal.question_state GROUP BY 1").fetchall())


@pytest.mark.parametrize(
    "reply", [USELESS, error(400, "not for me"), error(403, "not for me")], ids=["invalid", "rejected", "forbidden"]
)
def test_a_model_that_never_answers_is_given_up_after_a_few_dozen_calls(
    auto: Connection, settings: Settings, reply: Reply
) -> None:
    add(auto, range(200))
    words = rf"127\.0\.0\.1.*'fake' gave no usable reply about {USELESS_CHUNKS} chunks in a row.*(sea|not for me)"
    with FakeOpenAI(lambda request: reply) as fake:
        wanted = with_llm(settings, fake, llm_concurrency=4)
        with pytest.raises(SettingsError, match=words):
            ask(wanted)
        assert USELESS_CHUNKS < traffic(fake) <= 3 * (USELESS_CHUNKS + 2 * 4) + 1
        assert number(auto, "SELECT count(*) FROM heal.chunk_asked") == 0
        assert set(states(auto)) == {"failed", "open"}
        fake.rule = None
        fake.requests.clear()
        ask(wanted, "r2")
        assert len(fake.requests) == 200
    assert states(auto) == {"answered": 200}


def test_a_model_that_stops_to_answer_is_given_up_and_what_it_said_is_kept(
    auto: Connection, settings: Settings
) -> None:
    add(auto, range(200))
    with FakeOpenAI() as fake:
        fake.rule = lambda request: USELESS if len(fake.requests) > 40 else None
        wanted = with_llm(settings, fake, llm_concurrency=4)
        with pytest.raises(SettingsError, match=f"no usable reply about {USELESS_CHUNKS} chunks in a row"):
            ask(wanted)
        kept = number(auto, "SELECT count(*) FROM heal.chunk_asked")
        assert 36 <= kept <= 40
        # Each is asked three times; how many more are on their way by then depends on the machine. All would be 520.
        assert 40 + 3 * USELESS_CHUNKS <= len(fake.requests) < 160
        fake.rule = None
        fake.requests.clear()
        ask(wanted, "r2")
        assert len(fake.requests) == 200 - kept


def test_chunks_that_nobody_can_answer_stop_no_later_run(auto: Connection, settings: Settings) -> None:
    add(auto, range(100))
    hopeless = {number for number in range(100) if number % 6 == 0}
    with FakeOpenAI(lambda request: USELESS if chunk_number(request) in hopeless else None) as fake:
        wanted = with_llm(settings, fake, llm_concurrency=1)
        first = ask(wanted)
        assert first.counts["failed"] == len(hopeless) == 17
        assert "17 chunks failed" in first.note
        fake.requests.clear()
        again = ask(wanted, "r2")
        assert USELESS_CHUNKS <= again.counts["failed"] < 17
        assert again.counts["left"] == 17 - again.counts["failed"]
        assert f"{again.counts['left']} chunks that failed before are left for the next run" in again.note
        assert again.counts["over_spend_limit"] == 0
        add(auto, range(100, 105))
        fake.requests.clear()
        third = ask(wanted, "r3")
        assert third.counts["asked"] == 5
        assert {chunk_number(request) for request in fake.requests[:4]} <= set(range(100, 105)), "new ones come first"
        asked = {chunk_number(request) for request in fake.requests}
        tried_last = auto.execute(
            "SELECT DISTINCT d.title FROM heal.llm_call l JOIN heal.chunk c USING (chunk_id) JOIN heal.document d "
            "USING (document_id) WHERE l.run_id = 'r2'"
        ).fetchall()
        assert hopeless - {int(title.split()[1]) for (title,) in tried_last} <= asked, "each has its turn"
        fake.rule = None
        fake.requests.clear()
        last = ask(wanted, "r4")
        assert (last.counts["asked"], len(fake.requests)) == (17, 17)
    assert states(auto) == {"answered": 105}


def test_a_run_that_fails_for_many_new_chunks_fails_again_when_it_is_repeated(
    auto: Connection, settings: Settings
) -> None:
    add(auto, range(60))
    with FakeOpenAI(lambda request: USELESS if chunk_number(request) % 3 == 0 else None) as fake:
        wanted = with_llm(settings, fake)
        for _ in range(2):
            with pytest.raises((StepError, SettingsError), match=r"127\.0\.0\.1"):
                ask(wanted)
    assert states(auto) == {"answered": 40, "failed": 20}


def test_the_state_of_each_chunk_names_reason_and_cure(auto: Connection, settings: Settings) -> None:
    add(auto, range(20))
    replies = {
        0: completion(None, refusal="I would rather not."), 1: USELESS, 2: error(413, "far too long"),
        3: completion('{"items": []}'),
    }  # fmt: skip
    with FakeOpenAI(lambda request: replies.get(chunk_number(request))) as fake:
        made = ask(with_llm(settings, fake))
    assert "2 chunks failed, 1 refused" in made.note
    add(auto, range(20, 21))
    rows = auto.execute(
        "SELECT split_part(d.title, ' ', 2)::int, s.state, s.reason, s.reopened_by, s.useless_calls, s.questions FROM "
        " heal.question_state s JOIN heal.document d USING (document_id) ORDER BY 1"
    ).fetchall()
    found = {row[0]: row[1:] for row in rows}
    other = "another HEAL_LLM_MODEL, HEAL_QUESTIONS_PER_CHUNK or version of the prompt"
    assert found[0] == ("refused", "I would rather not.", other, 1, 0)
    assert found[1] == ("failed", "invalid: I like the sea.", "the next run", 3, 0)
    assert found[2][0] == "failed"
    assert "far too long" in found[2][1]
    assert found[3] == ("answered", "", other, 0, 0)
    assert found[4] == ("answered", "", other, 0, 3)
    assert found[20] == ("open", "", "the next run", 0, 0)
    with auto.transaction():
        auto.execute("SET LOCAL ROLE heal_pipeline")
        assert number(auto, "SELECT count(*) FROM heal.question_state") == 21


def test_a_refusal_is_reused_for_equal_texts_and_asked_again_of_another_model(
    auto: Connection, settings: Settings
) -> None:
    add(auto, range(2))
    with FakeOpenAI(lambda request: completion(None, refusal="No.")) as fake:
        ask(with_llm(settings, fake))
        ask(with_llm(settings, fake), "r2")
        assert len(fake.requests) == 2
        fake.rule = None
        ask(with_llm(settings, fake, llm_model="other"), "r3")
    assert states(auto) == {"answered": 2}


def test_a_server_that_counts_no_tokens_is_held_by_the_spend_limit(auto: Connection, settings: Settings) -> None:
    add(auto, range(60))

    def silent(request: Request) -> Reply:
        items = [
            {"type": "claim", "query": f"What number {n}?", "answer": "a" * 300, "evidence_quote": "e"}
            for n in range(3)
        ]
        return completion(json.dumps({"items": items}), usage=None)

    with FakeOpenAI(silent, lambda request: completion('{"sea": "blue"}', usage=None)) as fake:
        made = ask(with_llm(settings, fake, llm_run_spend_limit_usd=5.0, **PRICE))
    assert 0 < made.counts["asked"] < 60
    assert made.counts["over_spend_limit"] == 60 - made.counts["asked"]
    assert 1.0 < number(auto, "SELECT sum(cost_usd) FROM heal.llm_call") <= 5.0
    assert number(auto, "SELECT bool_and(guessed) FROM heal.llm_call")
    assert number(auto, "SELECT min(output_tokens) FROM heal.llm_call WHERE content_hash <> ''") > 300


def test_pages_in_the_middle_of_a_run_end_it(auto: Connection, settings: Settings) -> None:
    add(auto, range(100))
    with FakeOpenAI() as fake:
        fake.rule = lambda request: Reply("<html>Sign in</html>") if len(fake.requests) > 20 else None
        with pytest.raises((SettingsError, RetryableError), match=r"127\.0\.0\.1.*Sign in"):
            ask(with_llm(settings, fake, llm_concurrency=2))
        assert len(fake.requests) < 60, (
            "of more than 240; a good reply that comes late begins the count of bad ones anew"
        )
    assert set(states(auto)) == {"answered", "failed", "open"}
