"""Entity maps and answers under the same bad replies as questions."""

from functools import partial

import pytest

from heal_tasks.core.settings import Settings
from heal_tasks.endpoint.endpoint import EndpointConfig
from heal_tasks.store.db import Connection
from tests.fake_openai import FakeOpenAI, completion
from tests.field.dialects import CHUNKS, MODES
from tests.steps.asking import add, map_entities, mapped, number, traffic, with_llm
from tests.steps.planted_systems import DOCUMENTS
from tests.steps.test_answer import answer, measured, planted

SHARED = (
    "200 with 429", "200 with 402", "200 with 404 of vLLM", "sign-in page", "redirect", "null content", "prose",
    "cut by the token limit", "gzip bomb", "content as parts", "only reasoning_content", "refusal",
)  # fmt: skip
__all__ = ["planted"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that is given up at once."""
    config = partial(EndpointConfig, max_retries=1, backoff_s=0.001, patience_s=0.02)
    monkeypatch.setattr("heal_tasks.steps.writing.llm_calls.EndpointConfig", config)


@pytest.mark.parametrize("name", SHARED)
def test_maps(auto: Connection, settings: Settings, name: str) -> None:
    mode = MODES[name]
    add(auto, range(CHUNKS))
    with FakeOpenAI(mode.rule, mode.rule if mode.probe else None) as fake:
        wanted = mapped(settings, fake, llm_concurrency=2, llm_timeout_s=0.4)
        if mode.fails is None:
            map_entities(wanted)
        else:
            with pytest.raises(mode.fails[0]) as caught:
                map_entities(wanted)
            assert fake.base_url in str(caught.value)
        assert traffic(fake) <= mode.calls
        settled = 0 if mode.state == "failed" else CHUNKS
        assert number(auto, "SELECT count(*) FROM heal.entity_map") == settled
        fake.rule = fake.probe_rule = None
        wanted = wanted.model_copy(update={"llm_timeout_s": 30.0})  # which a busy machine keeps
        fake.requests.clear()
        made = map_entities(wanted, "r2")
        assert len(fake.requests) == made.counts["ok"] == CHUNKS - settled


@pytest.mark.parametrize("name", SHARED)
def test_answers(planted: Connection, settings: Settings, name: str) -> None:
    mode = MODES[name]
    with FakeOpenAI(mode.rule, mode.rule if mode.probe else None) as fake:
        wanted = with_llm(settings, fake, answer_questions=100, llm_concurrency=2, llm_timeout_s=0.4)
        made = answer(planted, wanted)
        good = mode.state == "answered"
        assert made.counts["measured"] == (DOCUMENTS if good else 0)
        assert (measured(planted) != {}) == good
        if mode.state == "failed":
            assert f"; {made.counts['failed']} failed; not all systems could be measured: " in made.note
            assert fake.base_url in made.note
            assert traffic(fake) <= 3 * 14 + 1
        assert number(planted, "SELECT count(*) FROM heal.answer") == (0 if mode.state == "failed" else 24)
        if mode.state == "refused":
            assert "; 24 refused" in made.note
            return
        fake.rule = fake.probe_rule = None
        wanted = wanted.model_copy(update={"llm_timeout_s": 30.0})  # which a busy machine keeps
        fake.requests.clear()
        planted.execute("DELETE FROM heal.step_result")
        again = answer(planted, wanted)
        assert again.counts["measured"] == DOCUMENTS
        assert len(fake.requests) == (0 if good else 24)


def test_a_few_invalid_answers_are_not_measured(planted: Connection, settings: Settings) -> None:
    failing = f"number{DOCUMENTS - 1} "
    with FakeOpenAI(lambda request: completion("Hm.") if failing in request.title else None) as fake:
        made = answer(planted, with_llm(settings, fake, answer_questions=100))
    assert made.counts["measured"] == DOCUMENTS - 1
    assert f"{DOCUMENTS - 1} of {DOCUMENTS} questions answered" in made.note
    assert made.note.endswith(f"; {made.counts['failed']} failed")
