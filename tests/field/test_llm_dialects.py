"""Every way in which a server was seen to answer: few calls, nothing settled without an answer, the rest asked once."""

from functools import partial

import pytest

from heal_tasks.core.errors import HealError
from heal_tasks.core.settings import Settings
from heal_tasks.questions.llm.endpoint import EndpointConfig
from heal_tasks.store.db import Connection
from tests.fake_openai import FakeOpenAI
from tests.field.dialects import CHUNKS, MODES, Mode
from tests.steps.asking import add, ask, number, traffic, with_llm

SECRET = "secret-key-123"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that is given up at once."""
    config = partial(EndpointConfig, max_retries=1, backoff_s=0.001, patience_s=0.02)
    monkeypatch.setattr("heal_tasks.steps.writing.llm_calls.EndpointConfig", config)


def states(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT state, count(*) FROM heal.question_state GROUP BY 1").fetchall())


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
def test_a_dialect(auto: Connection, settings: Settings, mode: Mode) -> None:
    add(auto, range(CHUNKS))
    with FakeOpenAI(mode.rule, mode.rule if mode.probe else None) as fake:
        wanted = with_llm(settings, fake, llm_concurrency=2, llm_timeout_s=0.4, llm_api_key=SECRET)
        if mode.fails is None:
            made = ask(wanted)
            assert made.counts["asked"] == CHUNKS
        else:
            kind, words = mode.fails
            with pytest.raises(kind, match=rf"(?s){words}") as caught:
                ask(wanted)
            assert fake.base_url in str(caught.value)
            assert SECRET not in str(caught.value)
        assert 0 < traffic(fake) <= mode.calls
        calls = auto.execute("SELECT DISTINCT status FROM heal.llm_call WHERE content_hash <> ''").fetchall()
        assert {status for (status,) in calls} == mode.statuses
        found = states(auto)
        assert found.pop(mode.state) == (CHUNKS if mode.state != "failed" else CHUNKS - found.pop("open", 0))
        assert not found, "nothing else has come of any chunk"
        settled = number(auto, "SELECT count(*) FROM heal.chunk_asked")
        assert settled == (0 if mode.state == "failed" else CHUNKS)
        assert (number(auto, "SELECT count(*) FROM heal.question") > 0) == (mode.state == "answered")

        fake.rule = fake.probe_rule = None
        fake.requests.clear()
        made = ask(wanted, "r2")
        asked = [request.passage for request in fake.requests]
        assert len(asked) == len(set(asked)) == CHUNKS - settled
        assert made.counts["asked"] == CHUNKS - settled
    assert states(auto) == {mode.state if settled else "answered": CHUNKS}


def test_the_error_names_no_user_of_the_url(auto: Connection, settings: Settings) -> None:
    add(auto, range(2))
    with FakeOpenAI(mode := MODES["404"].rule, mode) as fake:
        url = fake.base_url.replace("//", "//user:pass-word@")
        with pytest.raises(HealError) as caught:
            ask(with_llm(settings, fake, llm_base_url=url))
    assert "pass-word" not in str(caught.value)
